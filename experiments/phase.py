"""One phase: trains its network, or loads it; then selects, evaluates and records it."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from experiments import boundaries
from experiments.clock import Clock
from experiments.evaluation import Comparison, Evaluator, TeacherLogits
from experiments.length import Rows
from experiments.log import read_metrics
from experiments.members import Member
from experiments.objective import LogitTerms
from experiments.plan import Ensemble, Load, Plan, Train
from experiments.running import RunningMember
from experiments.train_loop import ADVICE, Diverged, TrainLoop
from kdjax import checkpoint, files, networks, processes
from kdjax.networks import TrainedNetwork
from kdjax.types import TrainState, Variables


class Finished(NamedTuple):
    """A finished member of a phase.

    Attributes:
      trained: its network; an ensemble is none.
      result: what summary.json holds of it.
    """

    trained: TrainedNetwork | None
    result: dict[str, Any]


def run_phase(
    plan: Plan,
    members: Sequence[Member],
    *,
    trained: Mapping[str, TrainedNetwork],
    workdir: Path,
    console: Console,
    stop: Callable[[], int],
) -> dict[str, Finished]:
    """Trains members of a phase, or resumes that, and finishes at least one of them.

    All of them are finished unless the phase ends on a condition that some of them meet
    earlier than others.

    Args:
      plan: of the phase.
      members: those of the phase that are not finished.
      trained: the networks that members start from and learn from, by name.
      workdir: of the run.
      console: where lines and the progress bar go.
      stop: returns the number of a signal that has asked to stop, or 0.

    Returns:
      The members that are finished now, by name.

    Raises:
      UserError: for damaged checkpoints or a full disk.
      Diverged: when the loss of a member is not finite; the other members are saved then.
      Interrupted: when asked to stop, after saving.
    """
    if isinstance(plan.action, Ensemble):
        return {
            member.name: _combine(plan, member, trained, workdir / member.name)
            for member in members
        }
    described = networks.describe(
        plan.action.trained.name if isinstance(plan.action, Load) else plan.config.model,
        plan.network,
        options=plan.config.model_options.to_dict(),
        image_size=plan.data.image_size,
        resize=plan.data.resize,
        # A network that is loaded for its features may have other classes.
        class_names=list(plan.data.class_names) if _has_classes_of_data(plan) else [],
    )
    with contextlib.ExitStack() as opened:
        running = _open(plan, members, trained, workdir, described, opened)
        evaluator = Evaluator(plan.network, plan.data.image_size, plan.devices)
        if isinstance(plan.action, Load):
            variables = plan.action.trained.variables
            if stored := running[0].checkpoints:
                stored.save(0, TrainState.of_variables(variables), {})
            placed = plan.devices.replicate(variables)
            return _finish(running[0], plan, described, placed, 0, "", (), evaluator, Clock())
        loop = TrainLoop(running, plan, evaluator=evaluator, console=console, stop=stop)
        done = loop.run()
        finished: dict[str, Finished] = {}
        for one, state, reason, evaluations in zip(
            running, done.states, done.ended, done.evaluations, strict=True
        ):
            if reason:
                finished |= _finish(
                    one, plan, described, state.eval_variables, done.step, reason, evaluations,
                    evaluator, done.clock,
                )  # fmt: skip
        return finished


def _open(
    plan: Plan,
    members: Sequence[Member],
    trained: Mapping[str, TrainedNetwork],
    workdir: Path,
    described: dict[str, Any],
    opened: contextlib.ExitStack,
) -> list[RunningMember]:
    """Makes the members' folders, and puts their teachers on the devices."""
    # Members with the same teacher share its place on the devices.
    names = [name for member in members for name in (*member.teachers, *member.compared_with)]
    placed = _placed(plan, names, trained)
    running = []
    for member in members:
        folder = workdir / member.name
        stored = None
        if processes.is_main():
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            files.write_json(folder / "network.json", described)
            stored = checkpoint.Checkpoints(folder / "checkpoints", keep_best=_keeps_best(plan))
            opened.callback(stored.close)
        running.append(
            RunningMember(
                member=member,
                folder=folder,
                described=described,
                checkpoints=stored,
                teachers={name: trained[name] for name in member.teachers},
                placed={name: placed[name] for name in member.teachers},
                comparison=_comparison(plan, member, placed),
                init_variables=_init_variables(plan, member, trained),
            )
        )
    return running


def _placed(
    plan: Plan, names: Sequence[str], trained: Mapping[str, TrainedNetwork]
) -> dict[str, TrainedNetwork]:
    """Networks with variables on the devices; each is there once."""
    return {
        name: trained[name]._replace(variables=plan.devices.replicate(trained[name].variables))
        for name in dict.fromkeys(names)
    }


def _comparison(plan: Plan, member: Member, placed: Mapping[str, TrainedNetwork]) -> Comparison:
    def logits_of(names: Sequence[str], sizes: Sequence[int] = ()) -> TeacherLogits:
        networks = {name: placed[name] for name in names}
        return TeacherLogits(networks, plan.data.image_size, plan.devices, sizes)

    return Comparison(
        logits_of(member.teachers, plan.config.augment.teacher_size),
        logits_of(member.compared_with),
        tuple(plan.config.compared_with),
    )


def _combine(
    plan: Plan, member: Member, trained: Mapping[str, TrainedNetwork], folder: Path
) -> Finished:
    """Evaluates an ensemble on every split and records it."""
    started = time.perf_counter()
    networks_of = {name: trained[name] for name in member.ensemble}
    placed = _placed(plan, (*member.ensemble, *member.teachers, *member.compared_with), trained)
    joint = TeacherLogits(
        {name: placed[name] for name in networks_of}, plan.data.image_size, plan.devices
    )
    comparison = _comparison(plan, member, placed)
    result: dict[str, Any] = {
        "model": f"ensemble of {len(networks_of)}",
        "parameters": sum(networks.count_parameters(one.variables) for one in networks_of.values()),
        "steps": 0,
        "images_per_second": 0.0,
    }
    for name, split in plan.data.splits.items():
        logits = joint.joint(split)
        assert logits is not None
        result[name] = comparison.measure(logits, split)
    result["seconds"] = time.perf_counter() - started
    if processes.is_main():
        folder.mkdir(exist_ok=True)
    files.write_json(folder / "result.json", {"step": 0, "summary": result})
    return Finished(None, result)


def _has_classes_of_data(plan: Plan) -> bool:
    return bool(plan.network.module.num_classes == plan.data.num_classes)


def _keeps_best(plan: Plan) -> bool:
    return plan.config.select == "best" and not isinstance(plan.action, Load)


def _init_variables(
    plan: Plan, member: Member, trained: Mapping[str, TrainedNetwork]
) -> Variables | None:
    if member.init_from in trained:
        return trained[member.init_from].variables
    return plan.action.init_variables if isinstance(plan.action, Train) else None


def _finish(
    one: RunningMember,
    plan: Plan,
    described: dict[str, Any],
    variables: Variables,
    step: int,
    reason: str,
    evaluations: Rows,
    evaluator: Evaluator,
    clock: Clock,
) -> dict[str, Finished]:
    """Selects the network that counts, evaluates it on every split and records it."""
    if one.checkpoints:
        one.checkpoints.wait()
    selected = step
    if _keeps_best(plan):
        best = jax.device_get(variables)
        if one.checkpoints:
            selected = one.checkpoints.best_step() or step
            arrays, _ = one.checkpoints.read(selected)
            best = networks.student_variables(arrays, plan.network, described, one.folder)
        variables = plan.devices.replicate(processes.broadcast(best))
    result: dict[str, Any] = {
        "model": networks.title(described["model"], plan.network),
        "parameters": networks.count_parameters(variables),
        "steps": step,
        "ended": reason,
        "seconds": 0.0,
        "images_per_second": clock.images_per_second,
        "seconds_of": clock.parts,
    }
    if isinstance(plan.action, Train) and plan.action.steps_per_epoch:
        result["epochs"] = step / plan.action.steps_per_epoch
    terms = LogitTerms(plan.config.objective)
    for name, split in plan.data.splits.items():
        if not _has_classes_of_data(plan):
            # It has features for others to learn from, and no figures of these classes.
            result[name] = {}
            continue
        logits = evaluator.logits(variables, split)
        result[name] = one.comparison.measure(logits, split)
        _check_finite(plan, one.member.name, name, result[name], step)
        if isinstance(plan.action, Train):
            teachers = one.comparison.teachers.each(split)
            result[name] |= terms.measure(logits, split.labels, teachers)
    if isinstance(plan.action, Train) and "train" in result:
        rows = read_metrics(one.folder / "metrics.jsonl")
        result["train"] |= _running_means(rows, step - plan.action.steps_per_epoch)
    if accuracies := [row["test/accuracy"] for row in evaluations if "test/accuracy" in row]:
        # Some papers print it. Nothing is selected by it.
        result["test"]["best_accuracy"] = max(accuracies)
    host = jax.device_get(variables)
    finished = TrainedNetwork(plan.network, host, described["model"])
    if _has_transition_curves(plan, one):
        result["test"] |= _transition_curves(one, plan, finished)
    result["seconds"] = clock.seconds
    files.write_json(one.folder / "result.json", {"step": selected, "summary": result})
    return {one.member.name: Finished(finished, result)}


def _check_finite(
    plan: Plan, member: str, split: str, measured: Mapping[str, float], step: int
) -> None:
    """Raises Diverged if a figure is no number: the last update is seen in no logged loss."""
    if not (bad := [key for key, value in measured.items() if not math.isfinite(value)]):
        return
    what = f"phase {member!r}: {bad[0]} on the {split} split is {measured[bad[0]]}"
    if isinstance(plan.action, Load):
        raise Diverged(f"{what}: the network that it loads may be damaged", member, step)
    raise Diverged(f"{what} after step {step}: {ADVICE}", member, step)


def _running_means(rows: Rows, after: float) -> dict[str, float]:
    """Fidelity on what a member was trained on, as it was trained, over the steps from `after` on.

    Stanton et al. 2021 (section 6.1) call it the training agreement.
    """
    steps = [0, *(row["step"] for row in rows)]
    counted = [
        (step - before, row)
        for before, step, row in zip(steps, steps[1:], rows, strict=False)
        if step > after and "train/agreement" in row
    ]
    total = sum(count for count, _ in counted)
    return {
        f"running_{figure}": sum(count * row[f"train/{figure}"] for count, row in counted) / total
        for figure in ("agreement", "kl")
        if counted
    }


def _has_transition_curves(plan: Plan, one: RunningMember) -> bool:
    measured = plan.config.transition_curves.images > 0
    return measured and bool(one.teachers) and "test" in plan.data.splits


def _transition_curves(one: RunningMember, plan: Plan, student: TrainedNetwork) -> dict[str, float]:
    """Measures and writes a member's transition curves; their error, if there are any."""
    measured = boundaries.measure(
        student,
        next(iter(one.teachers.values())),
        plan.data.splits["test"],
        image_size=plan.data.image_size,
        **plan.config.transition_curves,
    )
    if measured is None:
        return {}
    files.write_json(one.folder / boundaries.FILE, measured)
    return {"mean_transition_error": measured["mean_transition_error"]}
