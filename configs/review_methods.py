"""Tables 1 and 2 of `configs/review.py`: knowledge review beside other methods."""

from typing import Any

from ml_collections import ConfigDict

from configs import common, protocols
from configs.methods import REVIEW_WEIGHTS, add_methods
from configs.tables import add_table, measured
from kdjax import models
from kdjax.types import UserError

TITLES = {
    1: "teacher and student of the same style",
    2: "teacher and student of different styles",
}
# As printed: accuracies of the students from scratch, of their teachers, and of the students
# by each method.
_ROWS = ("kd", "fitnet", "pkt", "rkd", "crd", "at", "vid", "ofd")
_LABELS = ("KD", "FitNet", "PKT", "RKD", "CRD", "AT", "VID", "OFD")
_COLUMNS: dict[int, dict[tuple[str, str], tuple[float, ...]]] = {
    # (teacher, student): student, teacher, _ROWS, Review KD in the paper and the report.
    1: {
        ("resnet56", "resnet20"): (
            69.06, 73.04, 70.66, 69.21, 70.34, 69.61, 71.16, 70.55, 70.38, 70.98, 71.89, 71.79,
        ),
        ("resnet110", "resnet32"): (
            71.14, 74.38, 73.08, 71.06, 72.61, 71.82, 73.48, 72.31, 72.61, 73.23, 73.89, 73.71,
        ),
        ("resnet32x4", "resnet8x4"): (
            72.50, 79.14, 73.33, 73.50, 73.64, 71.90, 75.51, 73.44, 73.09, 74.95, 75.63, 76.02,
        ),
        ("wrn_40_2", "wrn_16_2"): (
            73.26, 76.66, 74.92, 73.58, 74.54, 73.35, 75.48, 74.08, 74.11, 75.24, 76.12, 76.27,
        ),
        ("wrn_40_2", "wrn_40_1"): (
            71.98, 76.66, 73.54, 72.24, 73.54, 72.22, 74.14, 72.77, 73.30, 74.33, 75.09, 75.21,
        ),
    },
    2: {
        ("resnet32x4", "shufflenetv1"): (
            70.50, 79.14, 74.07, 73.59, 74.10, 72.28, 75.11, 71.73, 73.38, 75.98, 77.45, 76.94,
        ),
        ("wrn_40_2", "shufflenetv1"): (
            70.50, 76.66, 74.83, 73.73, 72.89, 72.21, 76.05, 73.32, 73.61, 75.85, 77.14, 77.44,
        ),
        ("resnet32x4", "shufflenetv2"): (
            71.82, 79.14, 73.33, 73.54, 74.69, 73.21, 75.65, 72.73, 73.40, 76.82, 77.78, 77.86,
        ),
    },
}  # fmt: skip
# What Tian et al. 2020 print, where the report quotes another number.
_MISPRINTS = {
    ("pkt", "wrn_40_2", "wrn_40_1"): 73.45,
    ("pkt", "wrn_40_2", "shufflenetv1"): 73.89,
    ("kd", "resnet32x4", "shufflenetv2"): 74.45,
}


def caption(what: str, code: str) -> str:
    """The caption of a table or figure of the report."""
    trained = {"chen": "Chen et al.'s code", "report": "the report's code"}[code]
    return (
        f"{what} (Verma et al. 2022). The report's numbers are for CIFAR-100, resnet56 to "
        "resnet20 where no other is named, the mean of three runs; 'here' is this run, with "
        f"knowledge review as in {trained}."
    )


def percent(accuracy: float) -> str:
    """As the tables print an accuracy that is given in percent."""
    return f"{accuracy:.2f}%"


def as_in(code: str, term: dict[str, Any]) -> dict[str, Any]:
    """A term of knowledge review as the code of Chen et al. (`chen`) or of the `report` has it."""
    if code == "chen":
        return term
    return {key: value for key, value in term.items() if key != "schedule"} | {"weighting": "fixed"}


def compare(config: ConfigDict, args: ConfigDict) -> None:
    """Adds the phases and the table of Table 1 or 2.

    Args:
      config: from `configs.common.base`.
      args: of `configs.review`, with `table`, `code`, `data`, `protocol`, `teacher`, `student`.

    Raises:
      UserError: if the table does not have the pair, or if the protocol is unknown.
    """
    columns = {
        pair: printed
        for pair, printed in _COLUMNS[args.table].items()
        if args.teacher in ("", pair[0]) and args.student in ("", pair[1])
    }
    if not columns:
        pairs = ", ".join(f"{teacher} to {student}" for teacher, student in _COLUMNS[args.table])
        raise UserError(
            f"table {args.table} has no {args.teacher or 'teacher'} to "
            f"{args.student or 'student'}: choose from {pairs}"
        )
    config.teacher.model, config.student.model = next(iter(columns))
    own = args.data != "digits" and not args.protocol
    protocols.protocol(config, args.data, "review" if own else args.protocol)
    labels = ("Student", "Test Accuracy", "Teacher", "Test Accuracy", *_LABELS)
    labels += ("Review KD (Paper)", "Review KD (Ours)", "Review KD Loss Weight")
    rows = [[label] for label in labels]
    for (teacher, student), printed in columns.items():
        taught_by = f"teacher_{teacher}"
        if taught_by not in config.phases:
            config.phases[taught_by] = common.inherit(config.teacher, model=teacher)
        config.teacher.model, config.student.model = teacher, student
        shared = dict(model=student, teachers=(taught_by,))
        quoted = _quoted(args.data, student) if own else {}
        scratch = f"scratch_{student}"
        if scratch not in config.phases:
            config.phases[scratch] = common.inherit(config.student, **shared, **quoted)
        suffix = f"_{teacher}_{student}"
        for method in _ROWS:
            add_methods(config, [method], suffix=suffix, **shared, **quoted)
        config.phases[f"ofd{suffix}"].objective.ofd.norms = _last_norms(teacher)
        add_methods(config, ["review"], suffix=suffix, **shared, teacher_batch_norm="batch")
        terms = config.phases[f"review{suffix}"].objective
        terms.review = as_in(args.code, terms.review.to_dict())
        numbers = _numbers(teacher, student, printed)
        cells = [
            (student, "here"),
            (numbers[0], measured(f"scratch_{student}")),
            (teacher, ""),
            (numbers[1], measured(taught_by)),
            *(
                (number, measured(f"{method}_{teacher}_{student}"))
                for method, number in zip(_ROWS, numbers[2:], strict=False)
            ),
            (numbers[-2], ""),
            (numbers[-1], measured(f"review_{teacher}_{student}")),
            (f"{REVIEW_WEIGHTS[teacher, student]:g}", ""),
        ]
        for row, pair in zip(rows, cells, strict=True):
            row.extend(pair)
    add_table(
        config,
        "paper",
        caption=caption(f"Table {args.table}: {TITLES[args.table]}", args.code),
        columns=rows[0],
        rows=rows[1:],
    )


def _numbers(teacher: str, student: str, printed: tuple[float, ...]) -> list[str]:
    """The report's numbers of a pair, with misprints marked."""
    numbers = [percent(accuracy) for accuracy in printed]
    for i, method in enumerate(_ROWS, start=2):
        if right := _MISPRINTS.get((method, teacher, student)):
            numbers[i] += f" (misprint of {percent(right)})"
    return numbers


def _quoted(data: str, student: str) -> dict[str, Any]:
    """The training of a student whose number the report quotes from Tian et al. 2020."""
    changes = protocols.training("crd", data, student)
    # The same in both protocols, and scaled by --config.train.epochs.
    del changes["epochs"]
    return changes


def _last_norms(teacher: str) -> tuple[str, ...]:
    """The batch norms before the activations that end the stages of a ResNet or a Wide ResNet."""
    if teacher.startswith("wrn"):
        return "block2_layer_0_bn1", "block3_layer_0_bn1", "bn1"
    blocks = models.create(teacher, num_classes=100).blocks
    return tuple(f"layer{stage}_{n - 1}_bn2" for stage, n in enumerate(blocks, start=1))
