"""The interface between the training loop and its tasks."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from ml_collections import ConfigDict

from experiments.data import PhaseData
from experiments.evaluation import TeacherLogits
from kdjax import parallel
from kdjax.types import Array, Network, TrainState, Variables

# `run_steps(states, step, count) -> (states, metrics)` makes `count` steps starting at `step`.
# States and metrics are tuples with one entry per member; the states are donated.
RunSteps = Callable[[Sequence[Any], int, int], tuple[Sequence[Any], Sequence[dict[str, Any]]]]


class Ahead(NamedTuple):
    """What is known of a call of `RunSteps` before its states are.

    Attributes:
      states: their shapes, types and shardings.
      steps: how many it makes.
    """

    states: Sequence[Any]
    steps: int


class StepInputs(NamedTuple):
    """What the members of a phase bring to its steps, on the devices.

    Each field has one entry per member, or a single one that all members share.

    Attributes:
      teacher_variables: of each teacher.
      teacher_logits: of each teacher on whole splits.
      keys: random keys.
      data_seeds: seeds of the order of the data.
      teacher_cache: the folder of all caches of teachers' logits; "" without one. It is one for
        all members.
      wait: the context in which the next batch is taken (`experiments.clock.Clock.wait`).
    """

    teacher_variables: Sequence[tuple[Variables, ...]]
    teacher_logits: Sequence[TeacherLogits]
    keys: Sequence[Array]
    data_seeds: Sequence[int]
    teacher_cache: str = ""
    wait: Callable[[Callable[[], bool]], contextlib.AbstractContextManager[Any]] = (
        contextlib.nullcontext
    )


class Setup(NamedTuple):
    """What a phase's task is built from.

    Attributes:
      name: of the phase.
      config: of the phase.
      network: the student.
      teachers: in order.
      data: all that the phase may look at.
      devices: that share its batches.
      debug: whether the run is a smoke test.
    """

    name: str
    config: ConfigDict
    network: Network
    teachers: list[Network]
    data: PhaseData
    devices: parallel.Devices
    debug: bool = False


class Task(Protocol):
    """What a phase trains its network by.

    The training loop knows nothing else of it: no batches, losses or teachers' forward
    passes.

    Attributes:
      eval_every: steps between evaluations; 0 evaluates only at the end.
    """

    @property
    def eval_every(self) -> float:
        """See the class."""

    def caches_teachers(self) -> bool:
        """Whether the teachers' logits for its views can be kept (`StepInputs.teacher_cache`)."""

    def init(
        self,
        rng: Array,
        teacher_variables: tuple[Variables, ...],
        init_variables: Variables | None,
    ) -> TrainState:
        """The state before the first step; may be traced.

        Args:
          rng: the member's key.
          teacher_variables: of each teacher.
          init_variables: of the student; None for the model's own initialisation.
        """

    def prepare(self, states: Sequence[TrainState], inputs: StepInputs) -> Sequence[TrainState]:
        """The states of the first step, from those that the members start with."""

    def make_step(self, inputs: StepInputs, start: int, ahead: Ahead | None = None) -> RunSteps:
        """The steps from `start` on; the result must be called for all steps in order.

        Args:
          inputs: of the members.
          start: the first step.
          ahead: the first call, whose program may be compiled before this returns.
        """

    def preview(self, state: TrainState) -> np.ndarray | None:
        """uint8 [h, w, c], a picture of what the phase has made so far; None if there is none."""
