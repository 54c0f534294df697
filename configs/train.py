"""One network from scratch: a teacher for later, or a baseline.

    python -m experiments.main --config=configs/train.py:MODEL[,data=NAME]

Without arguments, `wrn_16_2` is trained on the digits, in half a minute on two CPU cores
(results/digits.md has the figures). `data` is `digits`, `cifar10`, `cifar100`,
`imagenet100x32`, or anything that `--config.data.name` takes. The protocol is
RepDistiller's for CIFAR-100: batches of 64, 240 epochs of SGD at 0.05 (0.01 for MobileNets
and ShuffleNets), momentum 0.9, weight decay 5e-4 on all parameters, a learning rate that
falls to a tenth at 150, 180 and 210 epochs, padded crop and flip. The network after the
last step is reported. `--config.train.epochs=20` scales the boundaries with it.
`protocol=survey` and `protocol=review` train as the code of those papers does
(`configs/protocols.py`).

The phase is called `teacher`: other runs can name it as `RUN/teacher` in
`--config.teacher.checkpoint` or `--config.phases.kd.teachers`.
"""

from ml_collections import ConfigDict

from configs import common, protocols


def get_config(arg: str | None = None) -> ConfigDict:
    args = common.arguments(arg, model="wrn_16_2", data="digits", protocol="")
    config = common.base()
    config.teacher.model = args.model
    protocols.protocol(config, args.data, args.protocol)
    config.phases.teacher = common.inherit(config.teacher, seeds=config.get_oneway_ref("seeds"))
    return config
