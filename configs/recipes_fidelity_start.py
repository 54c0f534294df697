"""Recipes on fidelity: whether the optimiser finds a student that matches its teacher.

    python -m experiments.main --config=configs/recipes.py:fidelity_init[,data=cifar100]

"Does Knowledge Distillation Really Work?", Stanton et al. 2021, section 6.2: self-distillation of
ResNet-20, for the first two recipes with layer norm (`norm=layer`; or `batch`); protocol, arguments
and columns are those of `configs/recipes_fidelity.py`. T is 4 (`temperature=`), the code's default,
which the printed losses fit.

- `fidelity_init` (figure 6, b): the student starts at lambda x teacher + (1 - lambda) x its own
  random initialisation, `lambdas=0/.25/.375/.5/.75/.875/1`. In the code, but not in the paper, the
  rate is multiplied by 1 - lambda, and at least 1e-6 (`scale_lr=1`, by which the printed numbers
  were made); `scale_lr=0` leaves it. With batch norm one pass over the training images in training
  mode replaces the interpolated statistics. The printed loss is tau^2 times the cross-entropy with
  the teacher, ours T^2 KL, which is smaller by T^2 times the teacher's entropy.
- `fidelity_optimizer` (figure 6, a): SGD, and beyond 300 epochs Adam, by length,
  `lengths=300/1000/5000` epochs; on the digits 300/1000, of which 300 are 120 epochs. As in the
  paper, there is no weight decay beyond 300. It does not print Adam's rate: `adam_rate=0.001` is
  kdjax's choice.
- `fidelity_start` (table 1): the student starts at random, or where the teacher had started, with
  batch norm. The paper has ten trials: `--config.seeds=0,1,2,3,4,5,6,7,8,9
  --config.teacher.seeds=0,1,2,3,4,5,6,7,8,9`. This prints CKA beside the table's:

      python -m experiments.properties --probe=cka --features=mean --table
          --teacher=RUN/teacher_1 --students=RUN/random,RUN/same

  The paper's is of kernels on test batches, ours of linear ones on 100 test images, or
  `--kernel=rbf`.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from configs import common, fidelity
from configs.fidelity import add_student, add_teachers
from configs.tables import add_scatter, add_table, measured
from kdjax.types import UserError

# Figure 6 (b), from the notebook: train loss, train agreement in percent and train KL.
_LINE = {
    0.0: ("53.3 53.8 53.5", "78.9 79.3 78.67", ".496 .496 .498"),
    0.25: ("53.08 53.6 53.15", "79.76 80.32 81.1", ".46 .44 .40"),
    0.375: ("51.19 51.75 51.42", "97.8 97.25 97.6", "1.0e-2 1.7e-2 1.4e-2"),
    0.5: ("51.15 51.69 51.35", "99.59 99.59 99.76", "4e-4 5e-4 1e-4"),
    0.75: ("51.17 51.7 51.37", "99.53 99.35 99.82", "5e-3 1e-3 6e-3"),
    0.875: ("51.14 51.67 51.34", "99.9 99.9 99.94", "1e-5"),
    1.0: ("51.16 51.66 51.34", "100", "0"),
}
# Figure 6 (a), from the notebook: train agreement in percent, by optimiser and epochs.
_LENGTHS = {
    ("sgd", 300): "78.9 79.3 78.67",
    ("sgd", 1000): "81.11 81.41 81.29",
    ("sgd", 5000): "83.43 83.42 83.26",
    ("adam", 1000): "80.57 80.64 80.19",
    ("adam", 5000): "82.65 83.19 82.78",
}
# Table 1: agreement, KL and CKA of stages 1 to 3.
_TABLE_1 = {
    "random": ("77.174 (.352)", ".836 (.016)", (".939", ".925", ".885")),
    "same": ("77.098 (.238)", ".838 (.020)", (".951", ".937", ".890")),
}
_LEAST_RATE = 1e-6
# Of the protocol's students; lengths are in proportion to it.
_EPOCHS = 300


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a recipe; `arg` is its name and its arguments."""
    name = (arg or "").split(",")[0].removeprefix("recipe=")
    shared = dict(
        recipe="fidelity_init", data="digits", teacher="", student="", examples=0, temperature=4.0
    )
    args = common.arguments(arg, **(shared | _ARGUMENTS.get(name, _ARGUMENTS["fidelity_init"])))
    return RECIPES[args.recipe](args)


def _base(args: ConfigDict, norm: str) -> ConfigDict:
    """A config with the phase `teacher_1`; both networks have this norm."""
    config = fidelity.base(args, "preresnet20")
    for layer in (config.teacher, config.student):
        layer.model_options = ConfigDict({"norm": norm})
    return config


def _init(args: ConfigDict) -> ConfigDict:
    if args.scale_lr not in (0, 1):
        raise UserError(f"scale_lr is {args.scale_lr}: choose from 0, 1")
    config = _base(args, args.norm)
    teachers = add_teachers(config, 1)
    lambdas = fidelity.numbers("lambdas", args.lambdas, 1)
    rows, series = [], {}
    for mix in lambdas:
        name = f"lambda_{mix:g}".replace(".", "_")
        add_student(
            config, name, teachers, args.temperature, init_from=teachers[0], init_mix=mix,
            reestimate_batch_norm=args.norm == "batch",
        )  # fmt: skip
        if args.scale_lr:
            rate = config.student.optimizer.get_ref("learning_rate") * (1 - mix)
            # A reference has no maximum.
            config.phases[name].optimizer.learning_rate = rate if mix < 1 else _LEAST_RATE
        printed = _LINE.get(mix, ("", "", ""))
        rows.append(
            [f"{mix:g}", *printed, measured(name, "loss/kd", ".4f", split="train"),
             measured(name, "running_agreement", split="train"),
             measured(name, "running_kl", ".2e", split="train"), measured(name, "agreement"),
             measured(name)]
        )  # fmt: skip
        series[f"lambda={mix:g}"] = fidelity.points(args, name)
    add_table(
        config, "paper",
        caption="Figure 6, b (Stanton et al. 2021), CIFAR-100, ResNet-20 with layer norm, three "
        "trials: a student that starts at lambda x teacher + (1 - lambda) x random, beside ours "
        + ("with the code's smaller rate" if args.scale_lr else "with the same rate for all")
        + "; our train loss is T^2 KL on plain images, the paper's T^2 times the cross-entropy",
        columns=["lambda", "train loss, paper", "train agreement, paper", "train KL, paper",
                 "train loss", "train agreement", "train KL", "agreement", "accuracy"],
        rows=rows,
    )  # fmt: skip
    add_scatter(
        config, "fidelity", caption="Accuracy and fidelity by where the student starts",
        x_label="test agreement with the teacher", y_label="test accuracy", series=series,
    )  # fmt: skip
    return config


def _optimizer(args: ConfigDict) -> ConfigDict:
    config = _base(args, args.norm)
    teachers = add_teachers(config, 1)
    short = "300/1000" if args.data == "digits" else "300/1000/5000"
    lengths = fidelity.whole_numbers("lengths", args.lengths or short)
    rows = []
    for optimizer in ("sgd", "adam"):
        for length in lengths:
            if optimizer == "adam" and length <= _EPOCHS:
                continue
            name = f"{optimizer}_{length}"
            changes: dict[str, Any] = {} if length <= _EPOCHS else {"weight_decay": 0.0}
            if optimizer == "adam":
                changes |= {"name": "adam", "learning_rate": args.adam_rate, "nesterov": False}
            add_student(config, name, teachers, args.temperature, optimizer=changes)
            config.phases[name].epochs = config.student.get_ref("epochs") * (length / _EPOCHS)
            rows.append(
                [optimizer, f"{length}", _LENGTHS.get((optimizer, length), ""),
                 *fidelity.ours(name)]
            )  # fmt: skip
    add_table(
        config, "paper",
        caption="Figure 6, a (Stanton et al. 2021), CIFAR-100, ResNet-20 with layer norm, three "
        "trials: train agreement in percent by optimiser and epochs, beside ours",
        columns=["optimiser", "epochs", "train agreement, paper", *fidelity.COLUMNS], rows=rows,
    )  # fmt: skip
    return config


def _start(args: ConfigDict) -> ConfigDict:
    config = _base(args, "batch")
    teachers = add_teachers(config, 1, keep=(0.0,))
    add_student(config, "random", teachers, args.temperature)
    # The code measures the statistics of batch norm anew wherever a student is started by it.
    add_student(
        config, "same", teachers, args.temperature, init_from=f"{teachers[0]}@0",
        reestimate_batch_norm=True,
    )  # fmt: skip
    labels = {"random": "at random", "same": "where the teacher started"}
    add_table(
        config, "paper",
        caption="Table 1 (Stanton et al. 2021), CIFAR-100, ResNet-20 with batch norm, test split, "
        "ten trials, beside ours; the teacher there is right on 70.522 % (.412)",
        columns=["the student starts", "agreement, paper", "KL, paper", *fidelity.COLUMNS],
        rows=[
            [labels[name], *printed[:2], *fidelity.ours(name)] for name, printed in _TABLE_1.items()
        ]
        + [["the teacher", "", "", *fidelity.ours(teachers[0])]],
    )  # fmt: skip
    stages = [f"stage{i}" for i in (1, 2, 3)]
    add_table(
        config, "cka",
        caption="Table 1 (Stanton et al. 2021): CKA of student and teacher, by stage, beside ours",
        columns=["the student starts", *(f"{stage}, paper" for stage in stages), *stages],
        rows=[
            [labels[name], *printed[2],
             *(f"{{{name}[cka][corresponding][{stage}]:.3f}}" for stage in stages)]
            for name, printed in _TABLE_1.items()
        ],
        probe="cka",
    )  # fmt: skip
    return config


_NORM = {"norm": "layer"}
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "fidelity_init": {"lambdas": "0/.25/.375/.5/.75/.875/1", "scale_lr": 1, **_NORM},
    "fidelity_optimizer": {"lengths": "", "adam_rate": 1e-3, **_NORM},
    "fidelity_start": {},
}
RECIPES: dict[str, Callable[[ConfigDict], ConfigDict]] = {
    "fidelity_init": _init,
    "fidelity_optimizer": _optimizer,
    "fidelity_start": _start,
}
