"""Published accuracies of methods since 2022, on the pairs that most of them share."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import common, protocols
from configs.methods import RECIPES, add_methods
from configs.tables import add_table, measured
from kdjax.types import UserError

Pair = tuple[str, str]

_RESNET: Pair = ("resnet56", "resnet20")
_RESNET_X4: Pair = ("resnet32x4", "resnet8x4")
_WRN: Pair = ("wrn_40_2", "wrn_16_2")
_SHUFFLENET: Pair = ("resnet32x4", "shufflenetv2")
PAIRS = (_RESNET, _RESNET_X4, _WRN, _SHUFFLENET)


class Budget(NamedTuple):
    """How a method was trained, as multiples of the protocol.

    Attributes:
      epochs: length; the learning rate falls after as many epochs as by the protocol.
      learning_rate: initial.
    """

    epochs: float
    learning_rate: float


class Row(NamedTuple):
    """A row of the table.

    Attributes:
      label: as the table prints it.
      method: of `kdjax.distillers`; if it has no recipe, the row has published figures alone.
      accuracies: as published, in percent, in the order of `PAIRS`; "" where none is known.
      term: changes to the method's term in the objective.
      terms: further changes to it, by pair.
      budgets: how its students are trained, by pair, where it is not as the others are.
      optimizer: changes to the optimiser of its students.
    """

    label: str
    method: str
    accuracies: tuple[str, str, str, str]
    term: Mapping[str, Any] = {}
    terms: Mapping[Pair, Mapping[str, Any]] = {}
    budgets: Mapping[Pair, Budget] = {}
    optimizer: Mapping[str, Any] = {}


_NETWORKS = {
    "teacher": ("72.34", "79.42", "75.61", "79.42"),
    "student": ("69.06", "72.50", "73.26", "71.82"),
}
# 480 epochs, and 960 of the ShuffleNet, instead of 240.
_MLKD = {pair: Budget(2.0, 0.5) for pair in PAIRS} | {_SHUFFLENET: Budget(4.0, 1.0)}
# Of the networks, KD, DKD, DIST, TTM and WTTM as in TTM's README (zkxufo/TTM); DIST's own are the
# same where it has them. Of MLKD, CTKD and all that is standardised, and of DKD, in that of logit
# standardisation (sunshangquan/logit-standardization-KD), with temperatures and weights from the
# names of its logs. Of NKD and SDD as SDD's, of SimKD its own, of DOT mdistiller's.
ROWS = {
    "kd": Row("KD", "kd", ("70.66", "73.33", "74.92", "74.45")),
    "dkd": Row("DKD", "dkd", ("71.97", "76.32", "76.24", "77.07")),
    "dist": Row("DIST", "dist", ("71.75", "76.31", "75.51", "77.35")),
    "ttm": Row("TTM", "ttm", ("71.83", "76.17", "76.23", "76.57")),
    "wttm": Row("WTTM", "wttm", ("71.92", "76.06", "76.37", "76.55")),
    "nkd": Row("NKD", "nkd", ("", "", "", "76.26")),
    "rld": Row("RLD", "rld", ("", "", "", "")),
    "mlkd": Row("MLKD", "mlkd", ("72.19", "77.08", "76.63", "78.44"), budgets=_MLKD),
    "kd_standardized": Row(
        "KD, standardised", "kd", ("71.43", "76.62", "76.11", "75.56"),
        {"standardize": True, "temperature": 2.0, "weight": 9.0},
    ),
    "dkd_standardized": Row(
        "DKD, standardised", "dkd", ("72.32", "77.01", "76.39", "77.37"),
        {"standardize": True, "temperature": 2.0, "weight": 9.0},
        {
            _RESNET: {"temperature": 3.0, "weight": 18.0},
            _WRN: {"weight": 12.0, "beta": 2.0},
        },
    ),
    "mlkd_standardized": Row(
        "MLKD, standardised", "mlkd", ("72.33", "78.28", "76.95", "78.76"),
        # Of the mean over both views.
        {"standardize": True, "temperature": 2.0, "weight": 18.0},
        {_SHUFFLENET: {"weight": 12.0}},
        _MLKD,
    ),
    "ctkd": Row("CTKD", "ctkd", ("71.19", "73.39", "75.45", "75.37")),
    "sdd": Row("SDD", "sdd", ("", "", "", "76.67")),
    "simkd": Row("SimKD", "simkd", ("", "78.08", "", "")),
    "kd_dot": Row("KD + DOT", "kd", ("", "75.12", "", "75.55"), optimizer={"name": "dot"}),
}  # fmt: skip


def compare(config: ConfigDict, args: ConfigDict) -> None:
    """Adds the phases and the table.

    Args:
      config: from `configs.common.base`.
      args: of `configs.compare`, with `methods`, `data`, `protocol`, `teacher`, `student`.

    Raises:
      UserError: if the table has no pair with the one network that is named, or no such row, or
        if the protocol is unknown.
    """
    pairs = [
        pair for pair in PAIRS if args.teacher in ("", pair[0]) and args.student in ("", pair[1])
    ]
    if args.teacher and args.student:
        pairs = [(args.teacher, args.student)]
    if not pairs:
        raise UserError(
            f"the table has no {args.teacher or 'teacher'} to {args.student or 'student'}: name "
            f"both networks, or choose from {', '.join(' to '.join(pair) for pair in PAIRS)}"
        )
    chosen = args.methods.split("/") if args.methods else list(ROWS)
    if unknown := [name for name in chosen if name not in ROWS]:
        raise UserError(f"the table has no row {unknown[0]!r}: choose from {', '.join(ROWS)}")
    config.teacher.model, config.student.model = pairs[0]
    protocols.protocol(config, args.data, args.protocol)
    columns = ["Method"]
    cells: dict[str, list[str]] = {name: [] for name in (*_NETWORKS, *chosen)}
    for pair in pairs:
        teacher, student = pair
        config.teacher.model, config.student.model = pair
        published = pair in PAIRS
        columns += [f"{teacher} to {student}", "here"] if published else ["here"]
        names = {"teacher": f"teacher_{teacher}", "student": f"scratch_{student}"}
        if names["teacher"] not in config.phases:
            config.phases[names["teacher"]] = common.inherit(config.teacher, model=teacher)
        shared: dict[str, Any] = dict(
            model=student, teachers=(names["teacher"],), **_light_rate(config, args, student)
        )
        config.phases[names["student"]] = common.inherit(config.student, **shared)
        for name in chosen:
            names[name] = f"{name}_{teacher}_{student}"
            if ROWS[name].method in RECIPES:
                _add(config, name, pair, protocol=args.protocol, **shared)
        for name, row in cells.items():
            accuracies = _NETWORKS[name] if name in _NETWORKS else ROWS[name].accuracies
            row += [accuracies[PAIRS.index(pair)]] if published else []
            row.append(measured(names[name]))
    labels = {"teacher": "Teacher", "student": "Student"}
    labels |= {name: ROWS[name].label for name in chosen}
    beside_published = (
        "Published accuracies on CIFAR-100 in percent, with ours beside them. Published ones "
        "are means of several runs, mostly of the best epoch on the test split; ours are of "
        "the last. MLKD is trained longer than the others."
    )
    add_table(
        config,
        "modern",
        caption=(
            beside_published
            if pairs[0] in PAIRS
            else f"Test accuracies of {pairs[0][0]} to {pairs[0][1]} in percent, last epoch."
        ),
        columns=columns,
        rows=[[labels[name], *row] for name, row in cells.items()],
    )


def _light_rate(config: ConfigDict, args: ConfigDict, student: str) -> dict[str, Any]:
    """The learning rate of a student, where it is not that of the others, as a change."""
    if args.data == "digits" and not args.protocol:
        return {}
    trained = protocols.training(args.protocol or "crd", args.data, student)
    rate = trained["optimizer"]["learning_rate"]
    same = rate == config.student.optimizer.learning_rate
    return {} if same else {"optimizer": {"learning_rate": rate}}


def _add(config: ConfigDict, name: str, pair: Pair, *, protocol: str, **changes: Any) -> None:
    """Adds the student of a row and a pair, a phase with the row's name and the pair's."""
    row = ROWS[name]
    suffix = f"{name.removeprefix(row.method)}_{pair[0]}_{pair[1]}"
    changes["optimizer"] = {**changes.get("optimizer", {}), **row.optimizer}
    add_methods(config, [row.method], suffix=suffix, protocol=protocol, **changes)
    phase = config.phases[row.method + suffix]
    phase.objective[row.method].update({**row.term, **row.terms.get(pair, {})})
    if pair in row.budgets:
        budget = row.budgets[pair]
        phase.epochs = config.student.get_ref("epochs") * budget.epochs
        phase.schedule.boundaries = tuple(
            share / budget.epochs for share in phase.schedule.boundaries
        )
        if budget.learning_rate != 1:
            rate = config.student.optimizer.get_ref("learning_rate")
            phase.optimizer.learning_rate = rate * budget.learning_rate
