"""Any teacher, student, objective and data set.

    python -m experiments.main \\
        --config=configs/distill.py:teacher=wrn_40_2,student=wrn_16_2,methods=crd+kd,data=cifar100

There are three phases: the teacher, trained or loaded from `--config.teacher.checkpoint`
(the folder of a phase or a PyTorch file); the student from scratch; and the student by
`methods`, one or several names of `kdjax.distillers` joined by `+`, with their usual
weights (`configs/methods.py`). Without arguments, `wrn_16_2` teaches `wrn_10_1` by KD on
the digits, in about a minute on two CPU cores (results/digits.md has the figures). The
protocol is that of configs/train.py. Weights are RepDistiller's; those of DKD and OFD are
mdistiller's.

AB, FSP and Factor Transfer have a first phase, an eighth as long, as in RepDistiller;
`joint=1` trains them beside the labels from the start instead. FitNet is trained that way
in RepDistiller. `scratch=0` leaves out the student from scratch. `protocol=survey` and
`protocol=review` train as the code of those papers does.
"""

from ml_collections import ConfigDict

from configs import common, protocols
from configs.methods import add_methods


def get_config(arg: str | None = None) -> ConfigDict:
    args = common.arguments(
        arg,
        methods="kd",
        teacher="wrn_16_2",
        student="wrn_10_1",
        data="digits",
        scratch=1,
        joint=0,
        protocol="",
    )
    config = protocols.pair(args.teacher, args.student, args.data, args.protocol)
    if args.scratch:
        config.phases.scratch = common.inherit(config.student, teachers=("teacher",))
    add_methods(config, args.methods.split("+"), joint=bool(args.joint), protocol=args.protocol)
    return config
