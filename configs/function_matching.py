"""Function matching."""

from configs import common


def get_config(arg: str | None = None):
    config = common.base()
    config.data.resize = 16
    config.train.batch_size = 64
    config.train.epochs = 20.0
    config.teacher.model = "wrn_16_2"
    config.student.model = "wrn_10_1"
    config.train.augment.flip = False
    config.train.augment.padding = 2
    config.train.optimizer.update(learning_rate=0.1, nesterov=True)
    config.phases.teacher = common.inherit(config.teacher)
    config.phases.scratch = common.inherit(config.student)
    config.phases.kd = common.inherit(
        config.student,
        teachers=("teacher",),
        objective={"cross_entropy": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0}},
    )
    config.phases.function_matching = common.inherit(
        config.student,
        teachers=("teacher",),
        objective={"kd": {"weight": 1.0, "temperature": 2.0}},
        augment={"teacher_view": "function_matching", "mixup": 1.0},
    )
    return config
