"""Cells of a config's tables, and points of its plots: text in which figures of a run stand.

A figure is written as `{PHASE[SPLIT][FIGURE]:FORMAT}`, as for `str.format_map`, which is not used:
a run folder may come from anybody, and Python would follow a cell to any attribute of any object,
and pad it to any width.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.rules import Number

if TYPE_CHECKING:
    from experiments.report.measured import Figures, Phases

_FIGURE = re.compile(r"\{([^\[\]{}:!.]+)((?:\[[^\[\]{}]+\])+)(?::(,?(?:\.\d{1,2}[efg%])?))?\}")


def fill(cell: str, phases: "Phases") -> str:
    """A cell with the figures of a run, which are empty where there are none.

    Args:
      cell: of a config.
      phases: what was measured.
    """
    return _FIGURE.sub(lambda found: format(_look_up(found, phases), found[3] or ""), cell)


def values(cell: str | float, phases: "Phases") -> Sequence[float]:
    """A number, or the figures of a cell that is one figure, one for each seed."""
    if not isinstance(cell, str):
        return [cell]
    found = _FIGURE.fullmatch(cell)
    assert found
    figures: Sequence[float] = _look_up(found, phases).values
    return figures


def is_figure(cell: str) -> bool:
    """Whether a cell is one figure of this run and nothing else."""
    return _FIGURE.fullmatch(cell) is not None


def _look_up(found: re.Match[str], phases: "Phases") -> "Figures":
    figures = phases[found[1]]
    for key in re.findall(r"\[([^\]]+)\]", found[2]):
        figures = figures[key]
    return figures.numbers()


@dataclasses.dataclass(frozen=True)
class Cell:
    """Text in which every brace is one of a figure."""

    def fits(self, value: Any) -> bool:
        """See `experiments.rules.Rule`."""
        return isinstance(value, str) and not set("{}") & set(_FIGURE.sub("", value))

    def __str__(self) -> str:
        return "text with figures such as {kd[test][accuracy]:.2%}"


@dataclasses.dataclass(frozen=True)
class Lines:
    """Pairs of a label and of points (x, y), each of two numbers or figures."""

    def fits(self, value: Any) -> bool:
        """See `experiments.rules.Rule`."""
        return _are_pairs(value) and all(
            isinstance(label, str)
            and _are_pairs(points)
            and all(_is_coordinate(one) for pair in points for one in pair)
            for label, points in value
        )

    def __str__(self) -> str:
        return "pairs of a label and of points, whose coordinates are numbers or figures of phases"


def _are_pairs(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(
        isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in value
    )


def _is_coordinate(value: Any) -> bool:
    return is_figure(value) if isinstance(value, str) else Number().fits(value)
