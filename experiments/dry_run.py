"""A dry run: what a run would do, how long it would take and how much memory it needs.

Every phase makes a few steps, on its own images and in the size that it is going to have. Nothing
is written. Teachers that are not trained yet have variables of zeros, and their predictions for
fixed views are not computed: neither changes the time of a step.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments import lines, models, report, schema
from experiments import workdir as workdirs
from experiments.data import PhaseSplit
from experiments.evaluation import Evaluator, TeacherLogits
from experiments.plan import Plan, Train, plan_all
from experiments.tasks import StepInputs
from kdjax import networks, parallel, train
from kdjax.networks import TrainedNetwork
from kdjax.types import Network

# Steps are timed until both are reached, or the phase ends.
_CALLS, _SECONDS = 3, 2.0
# Images on which evaluation is timed.
_EVALUATED = 1024
_HEADINGS = ("phase", "model", "parameters", "multiply-adds", "images", "epochs", "steps", "time")


class Cost(NamedTuple):
    """What was measured of a phase, for all of its members together, in seconds.

    Attributes:
      compiling: the first call.
      step: each later step.
      image: each image that is evaluated.
    """

    compiling: float
    step: float
    image: float


def dry_run(config: ConfigDict, workdir: Path, console: Console) -> None:
    """Prints the phases of a run with their costs.

    Args:
      config: resolved.
      workdir: the run folder, which is only looked at.
      console: for the table.

    Raises:
      UserError: as for the run itself.
    """
    workdirs.check(config, workdir)
    plans, loaded = plan_all(config)
    known = {name: trained.network for name, trained in loaded.items()}
    costs: dict[str, Cost] = {}
    rows, total = [], 0.0
    for plan in plans:
        known |= {member.name: plan.network for member in plan.members}
        row = _described(plan)
        if isinstance(plan.action, Train):
            teachers = [_teacher(one, known, loaded, plan) for one in plan.members[0].teachers]
            key = _program(plan, teachers)
            if key not in costs:
                lines.show(f"{plan.name}: a few steps", console)
                costs[key] = _measure(plan, teachers)
            seconds = _seconds(plan, costs[key])
            total += seconds
            row[-1] = _duration(seconds)
        rows.append(row)
    lines.show(f"run folder {workdir}, {plans[0].devices.description}", console)
    optional = ("images", "multiply-adds")
    report.show_tables([report.Cells("", _HEADINGS, rows, optional)], console)
    lines.show(
        f"about {_duration(total)} in all; {_memory(plans[0].devices)}; nothing was written",
        console,
    )


def _described(plan: Plan) -> list[str]:
    """The cells of a phase, the last one empty."""
    variables = train.abstract_outputs(plan.network, plan.data.image_shape)[1]
    image = jax.ShapeDtypeStruct((1, *plan.data.image_shape), jnp.float32)
    multiply_adds, _ = models.count_flops(plan.network.evaluate, variables, image)
    seeds = f" ({len(plan.members)} seeds)" if len(plan.members) > 1 else ""
    cells = [
        plan.name + seeds,
        networks.title(plan.config.model, plan.network),
        f"{networks.count_parameters(variables):,}",
        f"{multiply_adds / 1e6:,.1f} M",
    ]
    if not isinstance(plan.action, Train):
        return [*cells, "", "", "", ""]
    epochs, steps = plan.action.steps_per_epoch, plan.action.end.max_steps
    images = f"{len(plan.data.train):,}" if "train" in plan.data.splits else ""
    return [*cells, images, f"{steps / epochs:g}" if epochs else "", f"{steps:,}", ""]


def _teacher(
    name: str, known: dict[str, Network], loaded: dict[str, TrainedNetwork], plan: Plan
) -> TrainedNetwork:
    """A teacher by its name; one that is not trained yet has variables of zeros."""
    if name in loaded:
        return loaded[name]
    network = known[name.partition("@")[0]]
    shapes = train.abstract_outputs(network, plan.data.image_shape)[1]
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return TrainedNetwork(network, variables, name)


# Keys of a phase on which the cost of a step does not depend.
_FREE = (
    "seed", "seeds", "eval_every", "mean", "std", "teachers", "compared_with", "epochs", "steps",
    "until", "early_stopping", "select", "keep", "train_eval_images", "optimizer.learning_rate",
    "optimizer.weight_decay", "schedule", "transition_curves", "init_from", "init_mix",
    "init_methods_from", "continue_from", "subset", "shots",
)  # fmt: skip


def _program(plan: Plan, teachers: Sequence[TrainedNetwork]) -> str:
    """Equal for phases whose steps cost the same: numbers of the objective do not count."""
    free = tuple(f"{key}." for key in _FREE)
    kept = {
        key: value
        for key, value in schema.flat(plan.config.to_dict())
        if not f"{key}.".startswith(free)
        and not (key.startswith("objective.") and isinstance(value, float))
    }
    of_teachers = [str(teacher.network.module) for teacher in teachers]
    terms = list(plan.config.objective)
    return json.dumps([kept, terms, of_teachers, len(plan.members)], default=str, sort_keys=True)


class _NoLogits(TeacherLogits):
    """Zeros in place of the teachers' logits on whole splits."""

    def each(self, split: PhaseSplit) -> tuple[np.ndarray, ...]:
        return tuple(
            np.zeros((len(split), teacher.network.module.num_classes), np.float32)
            for teacher in self._teachers.values()
        )

    def averaged(self, split: PhaseSplit, *_: Any) -> tuple[np.ndarray, ...]:
        return self.each(split)


def _measure(plan: Plan, teachers: Sequence[TrainedNetwork]) -> Cost:
    """Makes a few steps of a phase, and an evaluation."""
    assert isinstance(plan.action, Train)
    task, devices, count = plan.action.task, plan.devices, len(plan.members)
    placed = {
        str(i): teacher._replace(variables=devices.replicate(teacher.variables))
        for i, teacher in enumerate(teachers)
    }
    variables = tuple(teacher.variables for teacher in placed.values())
    init = jax.jit(task.init, compiler_options=parallel.fast_compile_options())
    start = jax.device_get(init(jax.random.key(0), variables, None))
    states: Sequence[Any] = tuple(devices.replicate(start) for _ in range(count))
    several = 1 if plan.settings.share_views else count
    same = len({member.teachers for member in plan.members}) == 1
    inputs = StepInputs(
        teacher_variables=[variables] * (1 if same else count),
        teacher_logits=[_NoLogits(placed, plan.data.image_size, devices)] * (1 if same else count),
        keys=[devices.replicate(jax.random.key(i)) for i in range(several)],
        data_seeds=list(range(several)),
    )
    total = plan.action.end.max_steps
    per_call = plan.settings.steps_per_call or parallel.default_steps_per_call(plan.devices)
    run_steps = task.make_step(inputs, 0)
    first = min(per_call, total)
    began = time.perf_counter()
    states, metrics = run_steps(states, 0, first)
    jax.block_until_ready(metrics)
    compiling, step, calls = time.perf_counter() - began, first, 0
    began = time.perf_counter()
    while step + per_call <= total and (calls < _CALLS or time.perf_counter() - began < _SECONDS):
        states, metrics = run_steps(states, step, per_call)
        jax.block_until_ready(metrics)
        step, calls = step + per_call, calls + 1
    spent = time.perf_counter() - began
    each = spent / (step - first) if calls else compiling / first
    return Cost(compiling, each, _evaluation(plan, states[0].eval_variables) * count)


def _evaluation(plan: Plan, variables: Any) -> float:
    """Seconds for which one image is evaluated."""
    split = next(iter(plan.data.splits.values()), None)
    if split is None:
        return 0.0
    few = PhaseSplit(split.split.subset(np.arange(min(_EVALUATED, len(split)))))
    evaluator = Evaluator(plan.network, plan.data.image_size, plan.devices)
    evaluator.logits(variables, few)
    began = time.perf_counter()
    evaluator.logits(variables, few)
    return (time.perf_counter() - began) / len(few)


def _seconds(plan: Plan, cost: Cost) -> float:
    """Of the whole phase: steps, evaluations on the way, and all splits at its end."""
    assert isinstance(plan.action, Train)
    steps, every = plan.action.end.max_steps, plan.action.task.eval_every
    evaluations = 1 + (steps // max(1, round(every)) if every else 0)
    images = evaluations * sum(map(len, plan.action.evaluated.values()))
    images += sum(map(len, plan.data.splits.values()))
    return cost.compiling + steps * cost.step + images * cost.image


def _duration(seconds: float) -> str:
    """Such as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _memory(devices: parallel.Devices) -> str:
    """The most memory that was used, on a device if it says so, or of the process."""
    stats = devices.of_process[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return f"up to {stats['peak_bytes_in_use'] / 1e9:.1f} GB of memory on each device"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in kilobytes elsewhere.
    return f"up to {used * (1 if sys.platform == 'darwin' else 1024) / 1e9:.1f} GB of memory"
