"""The experiments of "Understanding Teacher-Student Architectural Choices" (Roset et al. 2023).

    python -m experiments.main --config=configs/choices.py:table=2,data=cifar100

`mobilenetv3_small` is trained from scratch with early stopping, and by function matching from
three teachers, at several temperatures and learning rates, and without mixup. The run ends
in the paper's Tables 1 and 2, with its numbers beside ours.

- `table=2` (default): all nine rows.
- `figure=6` ... `figure=11`: the rows of that figure alone. `curves.png` in the run folder has
  their test accuracy and test loss over epochs.

`data` is `digits` (default), `cifar100`, or anything that `--config.data.name` takes.
`teacher_1=`, `teacher_2=`, `teacher_3=` and `student=` take any models; by default they are
the paper's, and on the digits small ones that train in minutes.
`--config.seeds=0,1,2` gives means and deviations.

As in the paper, students are trained by Adam with a cosine schedule, those of the first
three rows for 400 epochs and the others for 300. Where the paper is silent or cannot be
followed:

- Its teachers are pretrained (pytorch-cifar-models). Here they are trained first, for 200
  epochs of SGD, unless `--config.phases.teacher_1.checkpoint=` has one.
- It stops the student from scratch early "to prevent overfitting", on what it does not say.
  Here that is a validation split of a tenth of the training images, which no phase is trained
  on, and a patience of 20 evaluations, one per epoch. Nothing is selected on the test split.
- Mixup is that of Beyer et al. 2022. Rows without it show student and teacher the same crop.
- Figure 10 compares learning rates of 0.001 and 0.003; the paper's text has 0.03.

`table=2` takes 14 minutes on the digits with three seeds, on two CPU cores: results/choices.md
has the figures. CIFAR-100 has not been run here.
"""

import functools
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import common, protocols
from configs.tables import add_table, measured
from kdjax.types import UserError

# As printed in Table 1: top-1 and top-5 accuracy in percent, parameters and multiply-adds in
# millions; and how the paper writes the model.
_MODELS = {
    "teacher_1": ("ResNet44", "resnet44", 71.63, 91.58, 0.67, 97.44),
    "teacher_2": ("VGG11_bn", "vgg11_bn", 70.78, 88.87, 9.80, 153.34),
    "teacher_3": ("MobileNetv2_x0_75", "mobilenetv2_x0_75", 73.61, 92.61, 1.48, 59.43),
    "student": ("MobileNet_v3_small", "mobilenetv3_small", 73.69, 92.31, 1.61, 17.6),
}
# On the digits, too, the third teacher is of the student's family.
_SMALL = {
    "teacher_1": "resnet14",
    "teacher_2": "resnet32",
    "teacher_3": "wrn_16_2",
    "student": "wrn_10_1",
}


class _Row(NamedTuple):
    """A row of Table 2.

    Attributes:
      teacher: `teacher_1` ... `teacher_3`, or "" for the student from scratch.
      mixup: whether images are mixed.
      learning_rate: initial.
      temperature: of the KL.
      epochs: of the student.
      accuracy: as printed, in percent.
    """

    teacher: str
    mixup: bool
    learning_rate: float
    temperature: float
    epochs: float
    accuracy: float


_ROWS = {
    "scratch": _Row("", False, 1e-3, 0.0, 300.0, 31.53),
    "from_teacher_1": _Row("teacher_1", True, 1e-3, 5.0, 400.0, 40.67),
    "from_teacher_2": _Row("teacher_2", True, 1e-3, 5.0, 400.0, 37.26),
    "from_teacher_3": _Row("teacher_3", True, 1e-3, 5.0, 400.0, 42.22),
    "temperature_2": _Row("teacher_3", True, 1e-3, 2.0, 300.0, 39.14),
    "temperature_10": _Row("teacher_3", True, 1e-3, 10.0, 300.0, 43.42),
    "rate_0_01": _Row("teacher_3", True, 1e-2, 10.0, 300.0, 40.97),
    "rate_0_003": _Row("teacher_3", True, 3e-3, 5.0, 300.0, 42.3),
    "no_mixup": _Row("teacher_3", False, 1e-3, 10.0, 300.0, 48.21),
}
# Figure 9 also has a rate of 0.01 at T = 2, which is not a row of the table.
_RATE_AT_2 = {"temperature_2_rate_0_01": _Row("teacher_3", True, 1e-2, 2.0, 300.0, 0.0)}
FIGURES = {
    6: ("scratch",),
    7: ("from_teacher_1", "from_teacher_2", "from_teacher_3"),
    8: ("temperature_2", "from_teacher_3", "temperature_10"),
    9: ("temperature_2", "temperature_2_rate_0_01"),
    10: ("from_teacher_3", "rate_0_003"),
    11: ("temperature_10", "no_mixup"),
}
_PATIENCE = 20


def get_config(arg: str | None = None) -> ConfigDict:
    args = common.arguments(
        arg, table=0, figure=0, data="digits",
        teacher_1="", teacher_2="", teacher_3="", student="",
    )  # fmt: skip
    if args.table not in (0, 2) or args.figure not in (0, *FIGURES) or (args.table and args.figure):
        raise UserError(
            f"there is no table={args.table},figure={args.figure}: choose from table=2, "
            f"{', '.join(f'figure={n}' for n in FIGURES)}"
        )
    small = args.data == "digits"
    defaults = _SMALL if small else {name: row[1] for name, row in _MODELS.items()}
    models = {name: args[name] or default for name, default in defaults.items()}
    config = _base(args.data, models, small)
    rows = _ROWS if not args.figure else {
        name: (_ROWS | _RATE_AT_2)[name] for name in FIGURES[args.figure]
    }  # fmt: skip
    for teacher in sorted({row.teacher for row in rows.values()} - {""}):
        config.phases[teacher] = common.inherit(config.teacher, model=models[teacher])
    for name, row in rows.items():
        config.phases[name] = _student(config, row, small)
    if not args.figure:
        _add_table_1(config, models)
        _add_table_2(config, models)
    return config


def _base(data: str, models: dict[str, str], small: bool) -> ConfigDict:
    config = common.base()
    config.student.model = models["student"]
    if small:
        protocols.digits(config)
        # Adam at 1e-3 is slower than the SGD of other configs on the digits.
        config.student.update(shots=4, epochs=1280.0)
    else:
        config.data.name = f"tfds:{data}" if data == "cifar100" else data
        config.teacher.epochs = 200.0
        config.teacher.optimizer.nesterov = True
        config.eval_every = 1.0
    # For the early stopping of the student from scratch.
    config.data.validation = 0.1
    config.student.optimizer.update(
        name="adam", learning_rate=1e-3, weight_decay=0.0, nesterov=False
    )
    if models["student"] == "mobilenetv3_small":
        # Without strides in the first two layers it has the paper's 17.6 million multiply-adds.
        config.student.model_options = ConfigDict({"stem": "cifar"})
    return config


def _student(config: ConfigDict, row: _Row, small: bool) -> ConfigDict:
    """The phase of a row."""
    changes = {"optimizer": {"learning_rate": row.learning_rate}}
    if not small:
        changes["epochs"] = row.epochs
    if not row.teacher:
        # Patience is counted in evaluations.
        changes["eval_every"] = 16.0 if small else 1.0
        return common.inherit(config.student, **changes, early_stopping=_PATIENCE)
    view = {"teacher_view": "function_matching", "mixup": 1.0} if row.mixup else {}
    return common.inherit(
        config.student,
        **changes,
        teachers=(row.teacher,),
        objective={"kd": {"weight": 1.0, "temperature": row.temperature}},
        augment=view,
    )


@functools.cache
def _multiply_adds(model: str) -> str:
    """At 32x32 pixels and 100 classes, in millions."""
    from experiments import models

    options = {"stem": "cifar"} if model == "mobilenetv3_small" else {}
    return f"{models.describe(model, **options).multiply_adds / 1e6:.2f}"


def _add_table_1(config: ConfigDict, models: dict[str, str]) -> None:
    rows = []
    for name, (written, _, top1, top5, parameters, multiply_adds) in _MODELS.items():
        # The student from scratch has its row in Table 2.
        phase = "scratch" if name == "student" else name
        rows.append(
            [
                written, models[name], f"{top1}", measured(phase), f"{top5}",
                measured(phase, "top5"), f"{parameters}", f"{{{phase}[parameters]:,}}",
                f"{multiply_adds}", _multiply_adds(models[name]),
            ]
        )  # fmt: skip
    add_table(
        config,
        "table_1",
        caption=(
            "Table 1: metrics of the models (Roset et al. 2023). The paper's models are "
            "pretrained, and its numbers are for CIFAR-100; its student's are those of a "
            "pretrained one, and ours those of the student from scratch. Multiply-adds are for "
            "32x32 pixels and 100 classes."
        ),
        columns=[
            "Model", "here", "Top-1 Acc.(%)", "here", "Top-5 Acc.(%)", "here", "#Params.(M)",
            "here", "#MAdds(M)", "here (M)",
        ],
        rows=rows,
    )  # fmt: skip


def _add_table_2(config: ConfigDict, models: dict[str, str]) -> None:
    rows = []
    for name, row in _ROWS.items():
        rows.append(
            [
                _MODELS[row.teacher][0] if row.teacher else "Trained from scratch",
                models[row.teacher] if row.teacher else "",
                "Y" if row.mixup else "N",
                f"{row.learning_rate:g}",
                f"{row.temperature:g}" if row.temperature else "NA",
                f"{row.accuracy}",
                measured(name),
                measured(name, "agreement"),
            ]
        )
    add_table(
        config,
        "table_2",
        caption=(
            "Table 2: accuracy comparisons of the trained models (Roset et al. 2023). The "
            "paper's numbers are for CIFAR-100."
        ),
        columns=[
            "Teacher", "here", "Mixup", "Learning Rate", "Temperature", "Top-1 Acc.(%)", "here",
            "agreement",
        ],
        rows=rows,
    )  # fmt: skip
