"""The figures of a run by phase: its members' mean and deviation."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def members(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of each phase's members, in order."""
    found: dict[str, list[str]] = {}
    for name, result in summary["phases"].items():
        found.setdefault(result["phase"], []).append(name)
    return found


def measured(summary: Mapping[str, Any]) -> "Phases":
    """What was measured in each phase, with its members' results as values."""
    results = summary["phases"]
    return Phases(
        {
            phase: Figures([results[name] for name in names])
            for phase, names in members(summary).items()
        }
    )


# Figures that are 1 - another.
_COMPLEMENTS = {
    "error": "accuracy",
    "teacher_error": "teacher_accuracy",
    "disagreement": "agreement",
}


class Figures:
    """One figure of all members of a phase; formatted as mean and sample deviation.

    Attributes:
      values: of the members that have this figure.
    """

    def __init__(self, values: Sequence[Any]):
        """Takes the members' values."""
        self.values = values

    def __getitem__(self, key: str) -> "Figures":
        if key in _COMPLEMENTS:
            return Figures([1 - value for value in self[_COMPLEMENTS[key]].values])
        return Figures(
            [
                value[key]
                for value in self.values
                if isinstance(value, Mapping) and value.get(key) is not None
            ]
        )

    def numbers(self) -> "Figures":
        """Without values that are no numbers, such as names or groups of figures."""
        return Figures([value for value in self.values if isinstance(value, (int, float))])

    def __format__(self, form: str) -> str:
        if not self.values:
            return ""
        mean = format(statistics.mean(self.values), form)
        if len(self.values) == 1:
            return mean
        return f"{mean} ± {format(statistics.stdev(self.values), form)}"


class Phases(dict[str, Figures]):
    """Figures by phase, empty for a phase that does not exist."""

    def __missing__(self, name: str) -> Figures:
        return Figures([])
