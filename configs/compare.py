"""Many methods on one teacher, one student and one data set: a row a method.

    python -m experiments.main \\
        --config=configs/compare.py:teacher=resnet56,student=resnet20,data=cifar100 \\
        --config.seeds=0,1,2

The teacher (trained, or taken from `--config.teacher.checkpoint`), then the student from
scratch and by each method: all of `kdjax.distillers` and CRD + KD, or
`methods=kd/at/crd+kd`. All train equally long but AB, FSP and Factor Transfer, which first
train an eighth of the epochs more (`joint=1`: not). The table at the end, also in
`table.md` of the run folder, has means and standard deviations where there are several
seeds. Protocol and weights are those of configs/distill.py.
"""

from ml_collections import ConfigDict

from configs import common

ALL = "kd/fitnet/at/sp/cc/pkt/rkd/crd/vid/nst/fsp/ft/ab/ofd/review/dkd/sfd/crd+kd"


def get_config(arg: str | None = None) -> ConfigDict:
    args = common.arguments(
        arg,
        methods=ALL,
        teacher="wrn_16_2",
        student="wrn_10_1",
        data="digits",
        joint=0,
        protocol="",
    )
    config = common.pair(args.teacher, args.student, args.data, args.protocol)
    config.phases.scratch = common.inherit(config.student, teachers=("teacher",))
    for methods in args.methods.split("/"):
        common.add_methods(
            config, methods.split("+"), joint=bool(args.joint), protocol=args.protocol
        )
    return config
