"""What a value of the config may be: types, ranges and choices, each with a description."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol


class Rule(Protocol):
    """What a value may be; `str()` describes it, to follow "it must be"."""

    def fits(self, value: Any) -> bool:
        """Whether a value is allowed."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number in [low, high].

    Attributes:
      low: the least value.
      high: the largest.
      above: whether `low` itself is excluded.
      below: whether `high` itself is excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def fits(self, value: Any) -> bool:
        """See `Rule`."""
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        # A large integer is no float.
        if isinstance(value, float) and not math.isfinite(value):
            return False
        is_low = value <= self.low if self.above else value < self.low
        return not (is_low or (value >= self.high if self.below else value > self.high))

    def __str__(self) -> str:
        return f"{self._kind} {self._range}".strip()

    @property
    def _kind(self) -> str:
        return "a finite number" if math.isinf(self.low) and math.isinf(self.high) else "a number"

    @property
    def _range(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return ""
        if math.isinf(self.high):
            return f"above {_plain(self.low)}" if self.above else f"of at least {_plain(self.low)}"
        opened, closed = "(" if self.above else "[", ")" if self.below else "]"
        return f"in {opened}{_plain(self.low)}, {_plain(self.high)}{closed}"


def _plain(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


@dataclasses.dataclass(frozen=True)
class Whole(Number):
    """A whole number in [low, high]."""

    def fits(self, value: Any) -> bool:
        """See `Rule`."""
        return isinstance(value, int) and super().fits(value)

    @property
    def _kind(self) -> str:
        return "a whole number"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several names."""

    options: tuple[str, ...]

    def fits(self, value: Any) -> bool:
        """See `Rule`."""
        return value in self.options

    def __str__(self) -> str:
        return f"one of {', '.join(option or repr(option) for option in self.options)}"


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    def fits(self, value: Any) -> bool:
        """See `Rule`."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


@dataclasses.dataclass(frozen=True)
class Text:
    """A string; what it may say depends on others, and is checked where it is used."""

    def fits(self, value: Any) -> bool:
        """See `Rule`."""
        return isinstance(value, str) and "\0" not in value

    def __str__(self) -> str:
        return "a string"


@dataclasses.dataclass(frozen=True)
class Several:
    """A sequence of values of one kind.

    Attributes:
      each: what each of them may be.
      count: how many there must be; 0 is any number.
      distinct: whether they must differ.
      rising: whether each must be at least as large as the one before.
    """

    each: Rule
    count: int = 0
    distinct: bool = False
    rising: bool = False

    def fits(self, value: Any) -> bool:
        """See `Rule`."""
        if not isinstance(value, (tuple, list)) or not all(map(self.each.fits, value)):
            return False
        if self.count and len(value) != self.count:
            return False
        if self.rising and list(value) != sorted(value):
            return False
        return not self.distinct or len(set(value)) == len(value)

    def __str__(self) -> str:
        how = "different " if self.distinct else "rising " if self.rising else ""
        many = f"{self.count} {how}values" if self.count else f"a tuple of {how}values"
        return f"{many}, each {self.each}"


def like(default: Any) -> Rule:
    """The rule of an argument of which only its default is known."""
    if isinstance(default, bool):
        return Flag()
    if isinstance(default, int):
        return Whole()
    if isinstance(default, float):
        return Number()
    if isinstance(default, str):
        return Text()
    return Anything()


@dataclasses.dataclass(frozen=True)
class Anything:
    """Any value, in which no number may be infinite or NaN."""

    def fits(self, value: Any) -> bool:
        """See `Rule`."""
        if isinstance(value, float):
            return math.isfinite(value)
        return all(map(self.fits, value)) if isinstance(value, (tuple, list)) else True

    def __str__(self) -> str:
        return "made of strings and finite numbers"


def problem(key: str, value: Any, rule: Rule) -> str:
    """The line about a value that does not fit, or ""."""
    return "" if rule.fits(value) else f"{key} is {_shown(value)}: it must be {rule}"


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"({', '.join(map(_shown, value))})"
    return repr(value)
