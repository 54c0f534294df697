"""The members of a phase while it runs: what they read, save and restore."""

import concurrent.futures
import dataclasses
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from experiments import earlier, lines
from experiments.clock import Clock
from experiments.data import PhaseSplit
from experiments.evaluation import Comparison, Evaluator
from experiments.members import Member, kept
from experiments.plan import Plan, Train
from kdjax import checkpoint, files, heads, parallel, processes
from kdjax.networks import TrainedNetwork
from kdjax.types import Array, TrainState, UserError, Variables


@dataclasses.dataclass(kw_only=True, eq=False)
class RunningMember:
    """A member of a phase while it runs: what it reads, and where it writes.

    Attributes:
      member: which one.
      folder: of the member.
      described: the content of its network.json.
      checkpoints: in that folder; None in a process that is not the first one.
      teachers: by name, with variables on the host.
      placed: the same teachers with variables on the devices.
      comparison: with these teachers and other networks, on whole splits.
      init_variables: of the student; None for the model's own initialisation.
      sums: of metrics since the last logged row.
      summed_steps: over how many steps.
    """

    member: Member
    folder: Path
    described: dict[str, Any]
    checkpoints: checkpoint.Checkpoints | None
    teachers: dict[str, TrainedNetwork]
    placed: dict[str, TrainedNetwork]
    comparison: Comparison
    init_variables: Variables | None
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    summed_steps: int = 0

    @property
    def key(self) -> Array:
        """A phase-specific key.

        A student that shares its teacher's architecture and seed is initialised differently.
        """
        return self.phase_key(self.member.seed)

    def phase_key(self, seed: int) -> Array:
        """The phase's key of another seed."""
        return jax.random.fold_in(jax.random.key(seed), zlib.crc32(self.member.phase.encode()))

    def shared_key(self, seed: int) -> Array:
        """A key that all phases share whose teachers' logits are kept, so that views are alike."""
        return jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"teacher_cache"))

    def add(self, metrics: dict[str, Any], steps: int) -> None:
        """Adds the means over some steps to the sums."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + steps * float(value)
        self.summed_steps += steps

    def means(self) -> dict[str, float]:
        """Means of the metrics since the last call, to be logged."""
        means = {f"train/{name}": value / self.summed_steps for name, value in self.sums.items()}
        self.sums.clear()
        self.summed_steps = 0
        return means

    def keep(self, epoch: str, variables: Variables) -> None:
        """Keeps the network of this moment in a folder of its own, beside the member's."""
        if not processes.is_main():
            return
        folder = self.folder.with_name(kept(self.member.name, epoch))
        folder.mkdir(exist_ok=True)
        files.write_json(folder / "network.json", self.described)
        stored = checkpoint.Checkpoints(folder / "checkpoints")
        stored.save(0, TrainState.of_variables(variables), {})
        stored.close()

    def evaluate(
        self, evaluator: Evaluator, variables: Variables, split: PhaseSplit
    ) -> dict[str, float]:
        """All metrics of a split; `variables` are on the devices."""
        return self.comparison.measure(evaluator.logits(variables, split), split)


class Saver:
    """Saves members' states and what else a resumed phase needs."""

    def __init__(self, running: Sequence[RunningMember], clock: Clock, every: float):
        """Takes the members, the phase's clock and the most seconds between checkpoints."""
        self._running, self._clock, self._every = running, clock, every
        self._saved_at = time.perf_counter()

    def due(self) -> bool:
        """Whether the last checkpoint is so old that another is due."""
        return time.perf_counter() - self._saved_at > self._every

    def save(
        self,
        which: Sequence[int],
        step: int,
        states: Sequence[TrainState],
        scores: Sequence[float | None] | None = None,
    ) -> None:
        """Starts saving the states of these members, as of `step`."""
        with self._clock.spend("checkpoints"):
            for i in which:
                one = self._running[i]
                if one.checkpoints is None:
                    continue
                extra = {
                    "seed": one.member.seed,
                    "clock": self._clock.saved(),
                    "sums": one.sums,
                    "steps_summed": one.summed_steps,
                }
                one.checkpoints.save(step, states[i], extra, scores[i] if scores else None)
        self._saved_at = time.perf_counter()

    def wait(self) -> None:
        """Returns when everything is on disk."""
        for one in self._running:
            if one.checkpoints:
                one.checkpoints.wait()


class Start:
    """The states with which the members of a phase start: from checkpoints, or new ones."""

    def __init__(self, running: Sequence[RunningMember], plan: Plan, action: Train):
        """Takes the members and their phase."""
        self._running, self._plan = running, plan
        self._init = jax.jit(action.task.init, compiler_options=parallel.fast_compile_options())
        self._arguments = [
            (one.key, tuple(t.variables for t in one.teachers.values()), one.init_variables)
            for one in running
        ]
        # Without the given variables, whose head may be another.
        self._like = jax.eval_shape(self._init, *self._arguments[0][:2], None)

    def restored(self, console: Console) -> tuple[Sequence[TrainState], Clock] | None:
        """The members' states of their checkpoints, on the devices, and the phase's clock.

        Several processes take those of the first one.

        Returns:
          None if there are no checkpoints.

        Raises:
          UserError: for damaged checkpoints.
        """
        found = []
        if stores := [one.checkpoints for one in self._running if one.checkpoints]:
            found = _restore(stores, self._like, console)
        extras = processes.broadcast_json([extra for _, extra in found])
        if not extras:
            return None
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self._like)
        states = tuple(state for state, _ in found) or (zeros,) * len(self._running)
        for one, extra in zip(self._running, extras, strict=True):
            one.sums, one.summed_steps = extra["sums"], extra["steps_summed"]
        return self._placed(states), Clock(len(self._running), **extras[0]["clock"])

    def initialized(
        self, meanwhile: Callable[[Sequence[TrainState]], None]
    ) -> Sequence[TrainState]:
        """New states, on the devices.

        Args:
          meanwhile: called with states of which only shapes, types and shardings are known, while
            the initialisation is compiled. Not called where states are taken from other phases, or
            in several processes.
        """
        init, config, arguments = self._init, self._plan.config, self._arguments
        earlier_phases = bool(config.continue_from or config.init_methods_from)
        # In several processes, `jax.pmap` cannot lower a step for shapes alone.
        alone = processes.count() == 1
        if alone and not (earlier_phases or config.new_head or config.init_mix < 1):
            like = self._plan.devices.abstract(self._like)
            # Much of a compilation is in one thread.
            with concurrent.futures.ThreadPoolExecutor(1) as thread:
                compiled = thread.submit(init.lower(*arguments[0]).compile)
                meanwhile((like,) * len(arguments))
                compiled.result()
        if config.new_head:
            arguments = [_with_own_head(self._plan, init, *given) for given in arguments]
        if config.init_mix < 1:
            arguments = [_mixed(init, *given, config.init_mix) for given in arguments]
        states = tuple(init(*given) for given in arguments)
        if config.continue_from:
            states = tuple(
                earlier.continued(earlier.folder(one.member.continue_from, one.folder), state)
                for state, one in zip(states, self._running, strict=True)
            )
        if config.init_methods_from:
            states = tuple(
                earlier.init_methods(
                    state, earlier.folder(one.member.init_methods_from, one.folder)
                )
                for state, one in zip(states, self._running, strict=True)
            )
        return self._placed(states)

    def _placed(self, states: Sequence[TrainState]) -> Sequence[TrainState]:
        """The states of the first process, on the devices."""
        return tuple(self._plan.devices.replicate(processes.broadcast(x)) for x in states)


def _with_own_head(
    plan: Plan,
    init: Callable[..., TrainState],
    key: Array,
    teacher_variables: tuple[Variables, ...],
    init_variables: Variables | None,
) -> tuple[Any, ...]:
    """Arguments of `init` with the given variables, and the head of its own initialisation."""
    own, given = _own_and_given(init, key, teacher_variables, init_variables)
    shape = plan.data.image_shape
    return key, teacher_variables, heads.with_own_head(plan.network, given, own, shape)


def _mixed(
    init: Callable[..., TrainState],
    key: Array,
    teacher_variables: tuple[Variables, ...],
    init_variables: Variables | None,
    mix: float,
) -> tuple[Any, ...]:
    """Arguments of `init` with a point on the line from its own initialisation to the given one.

    Batch statistics lie on the line, too, as in the code of Stanton et al. 2021.
    """
    own, given = _own_and_given(init, key, teacher_variables, init_variables)
    return key, teacher_variables, jax.tree.map(lambda a, b: (1 - mix) * a + mix * b, own, given)


def _own_and_given(
    init: Callable[..., TrainState],
    key: Array,
    teacher_variables: tuple[Variables, ...],
    init_variables: Variables | None,
) -> tuple[Variables, Variables]:
    assert init_variables is not None
    own = init(key, teacher_variables, None).variables
    return own, TrainState.of_variables(init_variables).variables


def _restore(
    stores: Sequence[checkpoint.Checkpoints], like: TrainState, console: Console
) -> list[tuple[Any, dict[str, Any]]]:
    """The newest checkpoints of one step that all members can restore; [] if there are none.

    Newer checkpoints are deleted, damaged or not, but only after older ones were restored:
    a config that does not fit must not erase a run.
    """
    common = set.intersection(*(set(stored.steps()) for stored in stores))
    moved = [str(step) for stored in stores for step in stored.set_aside]
    error = None
    if moved:
        error = UserError(f"damaged checkpoint {', '.join(moved)} was moved to _damaged")
    for step in sorted(common, reverse=True):
        try:
            restored = [stored.restore(step, like) for stored in stores]
        except UserError as problem:
            error = error or problem
            continue
        if error:
            lines.show(f"{error}: resuming from step {step}", console)
        break
    else:
        if error:
            raise error
        # The run ended between the members' first saves.
        step, restored = -1, []
    for stored in stores:
        for newer in stored.steps():
            if newer > step:
                stored.delete(newer)
    return restored
