"""How long a phase is: the condition on which it ends, and its schedules."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import optax
from ml_collections import ConfigDict

from kdjax import schedules

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


class Length(NamedTuple):
    """How long a phase is.

    Attributes:
      end: when it ends.
      steps_per_epoch: need not be whole.
    """

    end: EndCondition
    steps_per_epoch: float

    def schedule(self, **arguments: Any) -> optax.Schedule:
        """`kdjax.schedules.create` over this length."""
        return schedules.create(
            **arguments, total_steps=self.end.max_steps, steps_per_epoch=self.steps_per_epoch
        )

    def learning_rate(self, config: ConfigDict) -> optax.Schedule:
        """The student's learning rate that a phase's config describes."""
        return self.schedule(peak_value=config.optimizer.learning_rate, **config.schedule)
