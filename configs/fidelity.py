"""What all recipes on fidelity share: the protocol, teachers, students, and columns of tables.

"Does Knowledge Distillation Really Work?", Stanton et al. 2021, appendix A, and its code
(samuelstanton/gnosis, config/image_classification.yaml). `configs/recipes.py` lists the recipes.
"""

import math
from typing import Any

from ml_collections import ConfigDict

from configs import common, protocols
from configs.tables import measured
from kdjax.types import UserError

# Training images of the data sets that are known here.
EXAMPLES = {"cifar10": 50_000, "cifar100": 50_000, "mnist": 60_000, "fashion_mnist": 60_000}
GREY = ("digits", "mnist", "fashion_mnist")
Names = tuple[str, ...]
# What a student is measured by, in this order; the last on what it was distilled on.
COLUMNS = ["accuracy", "NLL", "ECE", "agreement", "KL", "train agreement"]


def base(args: ConfigDict, model: str, small: str = "wrn_10_1", examples: int = 100) -> ConfigDict:
    """A config without phases, by the paper's protocol.

    Teachers learn for 200 epochs in batches of 256 at a rate of 0.1, students for 300 in batches of
    128 at 0.05, both by SGD with Nesterov's momentum and a cosine. Pixels are in [-1, 1]. The
    code's cosine is stepped once per epoch and ends, for students, at 1e-6 instead of 0.

    Args:
      args: has `data`, `examples` (training images, 0 for all), and may have `teacher` and
        `student`.
      model: the paper's teacher and student, where `args` names none.
      small: the same on the digits.
      examples: of the digits, which are learned from. With all of them networks differ on too few
        test images; with these two networks agree on nine of ten.
    """
    config = common.base()
    digits = args.data == "digits"
    config.teacher.model = args.get("teacher") or (small if digits else model)
    config.student.model = args.get("student") or config.teacher.model
    config.eval_every = 10.0
    normalised = (0.5,) * (1 if args.data in GREY else 3)
    config.train.update(mean=normalised, std=normalised)
    config.train.optimizer.update(nesterov=True, weight_decay=1e-4)
    config.train.augment.crop_last = True
    config.teacher.update(epochs=200.0, batch_size=256)
    config.student.update(epochs=300.0, batch_size=128)
    config.student.optimizer.learning_rate = 0.05
    config.data.name = protocols.data_name(args.data)
    if digits:
        config.data.update(resize=8, train_examples=examples)
        # A mirrored digit is another digit or none.
        config.train.augment.update(flip=False, padding=1)
        config.eval_every = 40.0
        config.teacher.update(epochs=80.0, batch_size=32)
        config.student.update(epochs=120.0, batch_size=32)
    if args.examples:
        config.data.train_examples = args.examples
    return config


def add_teachers(config: ConfigDict, count: int, first: str = "teacher", **changes: Any) -> Names:
    """Adds teachers that differ in their initialisation, and returns their names.

    Args:
      config: from `base`.
      count: m.
      first: of their names, which are numbered from 1.
      **changes: as for `configs.common.inherit`.

    Raises:
      UserError: if there is none.
    """
    if count < 1:
        raise UserError(f"m is {count}: it is a number of teachers, at least 1")
    names = tuple(f"{first}_{i}" for i in range(1, count + 1))
    for name in names:
        config.phases[name] = common.inherit(config.teacher, **changes)
    return names


def add_student(
    config: ConfigDict,
    name: str,
    teachers: Names,
    temperature: float,
    label_weight: float = 0.0,
    **changes: Any,
) -> None:
    """Adds a student of an ensemble: a CE + (1 - a) T^2 KL, by default KL alone.

    Args:
      config: from `base`.
      name: of the phase.
      teachers: its ensemble, by `combine="ensemble"` of `kdjax.distillers.kd`.
      temperature: T.
      label_weight: a, in [0, 1].
      **changes: as for `configs.common.inherit`.
    """
    terms: dict[str, Any] = {
        "kd": {"weight": 1 - label_weight, "temperature": temperature, "combine": "ensemble"}
    }
    if label_weight:
        terms["cross_entropy"] = {"weight": label_weight}
    config.phases[name] = common.inherit(
        config.student, **{"teachers": teachers, "objective": terms} | changes
    )


def ours(phase: str) -> list[str]:
    """The cells of `COLUMNS`."""
    return [
        measured(phase),
        measured(phase, "nll", ".3f"),
        measured(phase, "ece", ".3f"),
        measured(phase, "agreement"),
        measured(phase, "kl", ".4f"),
        # In training mode, on the views that it was trained on (section 6.1).
        measured(phase, "running_agreement", split="train"),
    ]


def points(
    args: ConfigDict, phase: str, printed: tuple[float, float] | tuple[()] = ()
) -> list[tuple[Any, Any]]:
    """The points of a student in a scatter plot: test agreement and test accuracy.

    Args:
      args: has `data`.
      phase: of the student.
      printed: the same in the paper, in [0, 1], which is a point if this is its data.
    """
    found: list[tuple[Any, Any]] = [(measured(phase, "agreement"), measured(phase))]
    return [*found, printed] if printed and args.data == "cifar100" else found


def whole_numbers(what: str, given: str, least: int = 1) -> list[int]:
    """The values of an argument such as `m=1/3/5`.

    Args:
      what: the argument.
      given: its text.
      least: that a value may be.

    Raises:
      UserError: if they are none, or smaller.
    """
    parts = given.split("/")
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise UserError(f"{what} is {given!r}: it is whole numbers from {least} on, joined by /")
    return [int(part) for part in parts]


def numbers(what: str, given: str, most: float = math.inf) -> list[float]:
    """The values, from 0 to `most`, of an argument such as `weights=0/.1`; otherwise as above."""
    try:
        values = [float(value) for value in given.split("/")]
    except ValueError:
        values = [-1.0]
    if not all(0 <= value <= most for value in values):
        raise UserError(f"{what} is {given!r}: it is numbers from 0 to {most:g}, joined by /")
    return values


def training_images(args: ConfigDict, config: ConfigDict) -> int:
    """The number of training images, on which the share of a second source depends.

    Args:
      args: has `data`.
      config: from `base`.

    Raises:
      UserError: if it is not known.
    """
    own: int = config.data.train_examples or EXAMPLES.get(args.data, 0)
    if own < 1:
        raise UserError(
            f"the number of training images of data={args.data} is not known: set examples=N, a "
            "random choice of so many"
        )
    return own
