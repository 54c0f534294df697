"""One network from scratch: a teacher for later, or a baseline.

    python -m experiments.main --config=configs/train.py:MODEL[,data=NAME]

`configs/train.py` alone trains `wrn_16_2` on the digits (half a minute on four CPU
cores: results/digits.md). `data` is `digits`, `cifar10`, `cifar100`, `imagenet100x32`, or
anything that `--config.data.name` takes. The protocol is RepDistiller's for CIFAR-100:
batches of 64, 240 epochs of SGD at 0.05 (0.01 for MobileNet and ShuffleNet), momentum
0.9, weight decay 5e-4 on all parameters, times 0.1 at 150, 180 and 210 epochs, padded
crop and flip; the reported network is the last. `--config.train.epochs=20` shrinks the
steps with it. `protocol=survey` and `protocol=review` train as those papers' code does
(`configs/common.py`).

The phase is called `teacher`: `--config.phases.kd.teachers` of another run may name
`RUN/teacher`, and so may `--config.teacher.checkpoint`.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    args = common.arguments(arg, model="wrn_16_2", data="digits", protocol="")
    config = common.base()
    config.teacher.model = args.model
    common.protocol(config, args.data, args.protocol)
    config.phases.teacher = common.inherit(config.teacher, seeds=config.get_oneway_ref("seeds"))
    return config
