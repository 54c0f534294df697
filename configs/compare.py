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

`table=modern` has the pairs of networks on which methods since 2022 were published, or those with
`teacher=` or `student=`, and ends in a table with the published accuracies beside ours. If both are
given, the pair may be any, and one without published accuracies is trained equally long by all:

    python -m experiments.main \\
        --config=configs/compare.py:table=modern,teacher=resnet56,data=cifar100

Its rows, of which `methods=kd/kd_standardized` selects some, have the weights of the methods'
authors, who chose those of standardised logits for each pair. MLKD is trained for two or four times
as many epochs, as it was published, at half the learning rate except for the ShuffleNet. As in its
code, the rate then falls after the same epochs as for the others. Three things differ from what was
published: the strong view of MLKD has RandAugment with a set magnitude before crop and flip, and
not with random ones and a cutout after them; the weights of TTM and WTTM are not those of the pair
(docs/methods/ttm.md); and most codes print the best epoch on the test split, where here the last
one counts.
"""

from ml_collections import ConfigDict

from configs import common, modern, protocols
from configs.methods import RECIPES, add_methods
from kdjax.types import UserError

ALL = "/".join([*RECIPES, "crd+kd"])


def get_config(arg: str | None = None) -> ConfigDict:
    args = common.arguments(
        arg, table="", methods="", teacher="", student="", data="digits", joint=0, protocol=""
    )
    if args.table:
        if args.table != "modern":
            raise UserError(f"there is no table={args.table}: choose from table=modern")
        config = common.base()
        modern.compare(config, args)
        return config
    config = protocols.pair(
        args.teacher or "wrn_16_2", args.student or "wrn_10_1", args.data, args.protocol
    )
    config.phases.scratch = common.inherit(config.student, teachers=("teacher",))
    for methods in (args.methods or ALL).split("/"):
        add_methods(config, methods.split("+"), joint=bool(args.joint), protocol=args.protocol)
    return config
