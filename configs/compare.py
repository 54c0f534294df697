"""Many methods on one teacher, one student and one data set: a row per method.

    python -m experiments.main \\
        --config=configs/compare.py:teacher=resnet56,student=resnet20,data=cifar100 \\
        --config.seeds=0,1,2

There is the teacher, trained or loaded from `--config.teacher.checkpoint`, then the student
from scratch and by each method: all of `configs/methods.py` and CRD + KD, or those in
`methods=kd/at/crd+kd`. All are trained equally long, except that AB, FSP and Factor
Transfer have a first phase, an eighth as long (`joint=1` leaves it out). The final table,
also in `table.md` of the run folder, has means and standard deviations if there are
several seeds. Protocol and weights are those of configs/distill.py.
"""

from ml_collections import ConfigDict

from configs import common, protocols
from configs.methods import RECIPES, add_methods

ALL = "/".join([*RECIPES, "crd+kd"])


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
    config = protocols.pair(args.teacher, args.student, args.data, args.protocol)
    config.phases.scratch = common.inherit(config.student, teachers=("teacher",))
    for methods in args.methods.split("/"):
        add_methods(config, methods.split("+"), joint=bool(args.joint), protocol=args.protocol)
    return config
