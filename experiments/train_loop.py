"""The training loop: steps, log, evaluation, checkpoints, and an end.

The members of a phase are always at the same step. The loop knows a phase's task by its
contract only (`experiments.tasks.base`).
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from rich.console import Console

from experiments import trackers
from experiments.cli import Interrupted
from experiments.clock import Clock
from experiments.evaluation import Evaluator
from experiments.length import Rows
from experiments.log import Bar, PhaseLog
from experiments.plan import Plan, Train
from experiments.profile import Profiler
from experiments.running import RunningMember, Saver, Start
from experiments.tasks import Ahead, RunSteps, StepInputs, Task
from kdjax import parallel, processes
from kdjax.optimizers import schedule_position
from kdjax.types import TrainState, UserError

ADVICE = "lower optimizer.learning_rate or set optimizer.grad_clip_norm"


class Diverged(UserError):
    """The loss of a member is not finite: it cannot go on, but others can.

    Attributes:
      member: its name.
      step: at which that was noticed.
    """

    def __init__(self, message: str, member: str, step: int):
        """Takes the line for the user, the member's name and the step."""
        super().__init__(message)
        self.member, self.step = member, step


class LoopResult(NamedTuple):
    """What the loop returns.

    Attributes:
      states: of the members.
      step: at which the loop ended.
      clock: of the phase.
      ended: for each member why its phase has ended, or "" if it is to be trained further.
      evaluations: for each member the logged rows of all its evaluations, in order.
    """

    states: Sequence[TrainState]
    step: int
    clock: Clock
    ended: list[str]
    evaluations: list[Rows]


class TrainLoop:
    """Trains the members of a phase."""

    def __init__(
        self,
        running: Sequence[RunningMember],
        plan: Plan,
        *,
        evaluator: Evaluator,
        console: Console,
        stop: Callable[[], int],
    ):
        """Restores the members' checkpoints.

        Args:
          running: the members.
          plan: of the phase, which trains its network.
          evaluator: of the phase's network.
          console: where lines and the progress bar go.
          stop: returns the number of a signal that has asked to stop, or 0.

        Raises:
          UserError: for damaged checkpoints.
        """
        assert isinstance(plan.action, Train)
        self._running, self._plan, self._action = running, plan, plan.action
        # One program, instead of one for each of a schedule's operations.
        self._learning_rate = jax.jit(plan.action.learning_rate)
        self._evaluator, self._console, self._stop = evaluator, console, stop
        self._start = Start(running, plan, plan.action)
        # Without checkpoints, states are initialised in `run`.
        self._states, self._clock = self._start.restored(console) or ((), Clock(len(running)))
        self._step = int(self._states[0].step) if self._states else 0
        self._saver = Saver(running, self._clock, 60 * plan.settings.checkpoint_every)
        self._logs: list[PhaseLog] = []
        # Metrics of the calls whose results were not waited for yet, with their steps.
        self._pending: list[tuple[int, Sequence[dict[str, Any]]]] = []

    def run(self) -> LoopResult:
        """Trains until one or all of the members have ended.

        Raises:
          UserError: for a full disk.
          Diverged: when the loss of a member is not finite; the other members are saved then.
          Interrupted: when asked to stop, after saving.
        """
        with contextlib.ExitStack() as opened:
            profiled = self._plan.settings.profile if processes.is_main() else ""
            profiler = Profiler(profiled, self._running[0].folder)
            opened.callback(profiler.close)
            bar = self._open_logs(opened)
            calls = _Calls.of(self._plan, self._action.task.eval_every, self._total)
            inputs = _step_inputs(self._running, self._plan, self._action.task, self._clock)
            run_steps = self._make_step(inputs, calls)
            # A phase that goes on from another is later in its schedule than its step says.
            # Without data, the rate is a function of the step alone.
            position = schedule_position(self._states[0].opt_state)
            self._schedule_start = 0 if position is None else position - self._step
            if self._step == 0:
                self._states = self._action.task.prepare(self._states, inputs)
                self._keep(calls)
            lap_start, compiled = self._step, False
            ended = self._ended()
            while not any(ended):
                count = calls.steps(self._step)
                profiler.before(self._step)
                self._states, metrics = run_steps(self._states, self._step, count)
                if not compiled:
                    bar.note("")
                self._pending.append((count, metrics))
                self._step += count
                profiler.after(self._step, metrics)
                self._keep(calls)
                bar.advance(self._step)
                if not compiled:
                    # The first call compiles, and its time is not that of steps.
                    jax.block_until_ready(metrics)
                    compiled, lap_start = True, self._step
                    self._clock.start_lap()
                evaluate, log = calls.evaluation_due(self._step), calls.log_due(self._step)
                # Several processes have to agree, which takes time, and stop where rows are due.
                due = evaluate or log or processes.count() == 1
                signal_number = processes.largest(self._stop()) if due else 0
                if not (evaluate or log or signal_number):
                    continue
                self._add_up()
                images = (self._step - lap_start) * self._plan.config.batch_size
                speed = self._clock.end_lap(images)
                if evaluate or log:
                    rows = [self._log(i, speed, evaluate) for i in range(len(self._running))]
                    self._save(rows, evaluate)
                    self._check_finite(rows)
                    ended = self._ended()
                # What was due is done first, so that a resumed run logs the same rows.
                if signal_number and not any(ended):
                    self._saver.save(range(len(self._running)), self._step, self._states)
                    self._saver.wait()
                    raise Interrupted(signal_number)
                lap_start = self._step
                self._clock.start_lap()
        evaluations: list[Rows] = [log.evaluations for log in self._logs]
        return LoopResult(self._states, self._step, self._clock, ended, evaluations)

    def _make_step(self, inputs: StepInputs, calls: "_Calls") -> RunSteps:
        """The steps, and the states if there are none yet."""
        task, made = self._action.task, []
        if not self._states:

            def compile_step(states: Sequence[TrainState]) -> None:
                made.append(task.make_step(inputs, 0, Ahead(states, calls.steps(0))))

            self._states = self._start.initialized(meanwhile=compile_step)
        return made[0] if made else task.make_step(inputs, self._step)

    @property
    def _total(self) -> int:
        return self._action.end.max_steps

    def _open_logs(self, opened: contextlib.ExitStack) -> Bar:
        """Opens the members' logs and the progress bar, which it returns."""
        where = {"start": self._step, "total": self._total}
        bar = Bar(self._plan.name, **where, console=self._console)
        opened.callback(bar.close)
        for one in self._running:
            opened_trackers = trackers.start(
                self._plan.settings.trackers if processes.is_main() else (),
                one.folder, self._step, self._plan.config.to_dict(),
            )  # fmt: skip
            log = PhaseLog(
                one.folder, name=one.member.name, **where, bar=bar, trackers=opened_trackers
            )
            opened.callback(log.close)
            self._logs.append(log)
        return bar

    def _keep(self, calls: "_Calls") -> None:
        """Keeps the members' networks if that is due; they are on disk when this returns."""
        for epoch, step in self._action.keep.items():
            if calls.whole(step) == self._step:
                for one, state in zip(self._running, self._states, strict=True):
                    one.keep(epoch, state.eval_variables)

    def _ended(self) -> list[str]:
        """For each member why its phase ends at this step, or ""."""
        return [self._action.end.reason(self._step, log.evaluations) for log in self._logs]

    def _add_up(self) -> None:
        """Waits for the steps dispatched so far and adds up their metrics."""
        for count, metrics in self._pending:
            for one, values in zip(self._running, metrics, strict=True):
                one.add(values, count)
        self._pending.clear()

    def _log(self, i: int, speed: float, evaluate: bool) -> dict[str, Any]:
        """Logs a row of the i-th member, with an evaluation if it is due, and returns it."""
        one, state, log, plan = self._running[i], self._states[i], self._logs[i], self._plan
        left = (self._total - self._step) * plan.config.batch_size * len(self._running)
        epochs = self._action.steps_per_epoch
        row: dict[str, Any] = {
            "step": self._step,
            "epoch": self._step / epochs if epochs else None,
            "images_per_second": speed,
            "eta_seconds": left / speed if speed else None,
            "learning_rate": float(self._learning_rate(self._schedule_start + self._step - 1)),
            **one.means(),
        }
        if evaluate:
            with self._clock.spend("evaluation"):
                for name, split in self._action.evaluated.items():
                    measured = one.evaluate(self._evaluator, state.eval_variables, split)
                    row |= {f"{name}/{key}": value for key, value in measured.items()}
        with self._clock.spend("logging"):
            picture = self._action.task.preview(state) if evaluate else None
            if picture is not None:
                log.picture(self._step, picture)
            log.write({name: value for name, value in row.items() if value is not None})
        return row

    def _save(self, rows: Sequence[dict[str, Any]], evaluated: bool) -> None:
        """Saves the members whose loss is finite if that is due, or if not all members' is."""
        finite = [i for i, row in enumerate(rows) if math.isfinite(row["train/loss"])]
        if evaluated or self._saver.due() or len(finite) < len(rows):
            scores = [row.get("validation/accuracy") for row in rows]
            self._saver.save(finite, self._step, self._states, scores)

    def _check_finite(self, rows: Sequence[dict[str, Any]]) -> None:
        for one, row in zip(self._running, rows, strict=True):
            if not math.isfinite(row["train/loss"]):
                name = one.member.name
                terms = [
                    term
                    for term in self._plan.config.objective
                    if not math.isfinite(row.get(f"train/{term}", 0.0))
                ]
                raise Diverged(
                    f"phase {name!r}: the loss is {row['train/loss']} at step {self._step} "
                    f"({', '.join(terms) or 'not of one term'}): {ADVICE}",
                    name,
                    self._step,
                )


class _Calls(NamedTuple):
    """When a phase logs and evaluates, in whole calls of the compiled step.

    Attributes:
      per_call: steps per call.
      log_every: steps between logged rows.
      eval_every: steps between evaluations.
      total: the most steps.
    """

    per_call: int
    log_every: int
    eval_every: int
    total: int

    @classmethod
    def of(cls, plan: Plan, eval_every: float, total: int) -> "_Calls":
        settings = plan.settings
        per_call = settings.steps_per_call or parallel.default_steps_per_call(plan.devices)

        def in_calls(steps: float) -> int:
            return math.ceil(max(1, round(steps)) / per_call) * per_call if steps else total

        return cls(per_call, in_calls(settings.log_every), in_calls(eval_every), total)

    def whole(self, step: int) -> int:
        """The end of the call that makes the last of so many steps."""
        return min(math.ceil(step / self.per_call) * self.per_call, self.total)

    def steps(self, step: int) -> int:
        """How many steps the call that starts at `step` makes."""
        return min(self.per_call - step % self.per_call, self.total - step)

    def evaluation_due(self, step: int) -> bool:
        return step % self.eval_every == 0 or step == self.total

    def log_due(self, step: int) -> bool:
        return step % self.log_every == 0


def _step_inputs(
    running: Sequence[RunningMember], plan: Plan, task: Task, clock: Clock
) -> StepInputs:
    """What the members bring to their steps; one entry stands for all where they agree."""
    seeds = [one.member.seed for one in running]
    if plan.settings.share_views and plan.config.seeds:
        # The first of all seeds, whether or not it is still running.
        seeds = [plan.config.seeds[0]]
    cache = plan.settings.teacher_cache if task.caches_teachers() else ""
    distinct = running
    if all(one.member.teachers == running[0].member.teachers for one in running):
        distinct = running[:1]
    return StepInputs(
        teacher_variables=[tuple(t.variables for t in one.placed.values()) for one in distinct],
        teacher_logits=[one.comparison.teachers for one in distinct],
        keys=[
            plan.devices.replicate(
                running[0].shared_key(seed)
                if cache
                else jax.random.fold_in(running[0].phase_key(seed), 1)
            )
            for seed in seeds
        ],
        data_seeds=seeds,
        teacher_cache=cache,
        wait=clock.wait,
    )
