"""How long a phase is: the condition on which it ends, and its schedules."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import optax
from ml_collections import ConfigDict

from kdjax import schedules
from kdjax.types import UserError

Rows = Sequence[Mapping[str, Any]]


class EndCondition(Protocol):
    """When a phase ends.

    A condition is a function of what metrics.jsonl holds, so a resumed phase ends at the
    step at which it would have ended without the interruption.

    Attributes:
      max_steps: the most steps that the phase can take; its schedules are laid out over them.
    """

    @property
    def max_steps(self) -> int:
        """See the class."""

    def reason(self, step: int, evaluations: Rows) -> str:
        """Why the phase ends at `step`, or "" if it goes on.

        Args:
          step: how many steps were made.
          evaluations: the logged rows of all evaluations so far, in order.
        """


@dataclasses.dataclass(frozen=True)
class StepLimit:
    """A phase of so many steps."""

    max_steps: int

    def reason(self, step: int, evaluations: Rows) -> str:
        """See `EndCondition.reason`."""
        return f"{self.max_steps} steps" if step >= self.max_steps else ""


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """A phase that ends when its validation accuracy has stopped rising.

    Attributes:
      max_steps: the most steps.
      patience: evaluations in a row without a new best validation accuracy that end it.
    """

    max_steps: int
    patience: int

    def reason(self, step: int, evaluations: Rows) -> str:
        """See `EndCondition.reason`."""
        accuracies = [row["validation/accuracy"] for row in evaluations]
        if accuracies:
            since_best = len(accuracies) - 1 - accuracies.index(max(accuracies))
            if since_best >= self.patience:
                return f"no better validation accuracy in {since_best} evaluations"
        return StepLimit(self.max_steps).reason(step, evaluations)


@dataclasses.dataclass(frozen=True)
class Margin:
    """A phase that ends when its validation accuracy differs enough from another network's.

    Attributes:
      max_steps: the most steps.
      over: the other network, one of the phase's `compared_with`.
      margin: the difference in accuracy, a fraction; may be negative.
      below: end at a difference of at most `margin`, instead of at least.
    """

    max_steps: int
    over: str
    margin: float = 0.0
    below: bool = False

    def reason(self, step: int, evaluations: Rows) -> str:
        """See `EndCondition.reason`."""
        if evaluations:
            ours = evaluations[-1]["validation/accuracy"]
            theirs = evaluations[-1][f"validation/accuracy_of_{self.over}"]
            # Rounded, so that exactly the margin is enough.
            difference = round(ours - theirs, 9)
            if difference <= self.margin if self.below else difference >= self.margin:
                return f"validation accuracy {ours:.4f}, {difference:+.4f} against {self.over}"
        return StepLimit(self.max_steps).reason(step, evaluations)


@dataclasses.dataclass(frozen=True)
class FirstOf:
    """A phase that ends on whichever of several conditions is met first."""

    conditions: tuple[EndCondition, ...]

    @property
    def max_steps(self) -> int:
        """See `EndCondition`."""
        return min(condition.max_steps for condition in self.conditions)

    def reason(self, step: int, evaluations: Rows) -> str:
        """See `EndCondition.reason`."""
        reasons = (condition.reason(step, evaluations) for condition in self.conditions)
        return next(filter(None, reasons), "")


class Length(NamedTuple):
    """How long a phase is.

    Attributes:
      end: when it ends.
      steps_per_epoch: need not be whole.
    """

    end: EndCondition
    steps_per_epoch: float

    def schedule(self, *, horizon: float = 0.0, **arguments: Any) -> optax.Schedule:
        """`kdjax.schedules.create` over this length, or over `horizon` epochs."""
        steps = round(horizon * self.steps_per_epoch) if horizon else self.end.max_steps
        return schedules.create(
            **arguments, total_steps=steps, steps_per_epoch=self.steps_per_epoch
        )

    def learning_rate(self, config: ConfigDict) -> optax.Schedule:
        """The student's learning rate that a phase's config describes."""
        return self.schedule(peak_value=config.optimizer.learning_rate, **config.schedule)

    def kept(self, phase: str, epochs: Sequence[float], *, debug: bool) -> dict[str, int]:
        """After how many steps a phase's network is kept, by the epoch as others name it.

        Raises:
          UserError: if the phase has fewer epochs, unless this is a smoke test.
        """
        steps, found = self.end.max_steps, {}
        for epoch in epochs:
            step = round(epoch * self.steps_per_epoch)
            if not 0 <= step <= steps and not debug:
                raise UserError(
                    f"phase {phase!r} keeps epoch {epoch:g}, and it has "
                    f"{steps / self.steps_per_epoch:g} epochs"
                )
            found[f"{epoch:g}"] = min(step, steps)
        return found


def make_length(phase: str, config: ConfigDict, steps_per_epoch: float) -> Length:
    """The length that a phase's config describes.

    Args:
      phase: its name.
      config: of the phase.
      steps_per_epoch: need not be whole.

    Raises:
      UserError: if there are no steps, or a condition is not one.
    """
    if config.steps < 0 or config.epochs < 0:
        raise UserError(f"steps is {config.steps} and epochs {config.epochs}: neither is negative")
    steps = config.steps or math.ceil(config.epochs * steps_per_epoch - 1e-6)
    if not steps:
        raise UserError(f"phase {phase!r} has no steps: set epochs or steps, or a checkpoint")
    conditions: list[EndCondition] = [StepLimit(steps)]
    if config.early_stopping:
        conditions.append(EarlyStopping(steps, config.early_stopping))
    for given in config.until.values():
        conditions.append(_margin(phase, steps, given.to_dict(), config.compared_with))
    return Length(FirstOf(tuple(conditions)), steps_per_epoch)


def _margin(phase: str, steps: int, given: dict[str, Any], others: Sequence[str]) -> Margin:
    allowed = [field.name for field in dataclasses.fields(Margin) if field.name != "max_steps"]
    if given.get("over") not in others or not set(given) <= set(allowed):
        raise UserError(
            f"phase {phase!r} has until {given}: its keys are {', '.join(allowed)}, and over is "
            f"one of compared_with ({', '.join(others) or 'there is none'})"
        )
    return Margin(steps, **given)
