"""A run: from the config to a list of phases, and from these to summary.json."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from experiments import cli, legacy, lines, loaded, report, schema, smoke, stored
from experiments import workdir as workdirs
from experiments.cli import Interrupted
from experiments.members import Member, expand, kept
from experiments.phase import run_phase
from experiments.plan import Ensemble, Plan, Train, plan_all
from experiments.train_loop import Diverged
from kdjax import files, networks, processes, train
from kdjax.networks import TrainedNetwork
from kdjax.types import UserError


def resolve(config: ConfigDict) -> ConfigDict:
    """The config of the run: inherited values are copied, and `debug` is applied.

    Raises:
      UserError: if there are no phases, a key was renamed, or a value is not allowed.
    """
    names = list(config.phases)
    if not names:
        raise UserError("the config has no phases")
    plain = config.to_dict()
    legacy.check_renamed(list(legacy.flat_keys(plain)))
    schema.check(plain)
    resolved = ConfigDict(plain)
    # A ConfigDict made of a dict sorts its keys; phases have an order.
    resolved.phases = ConfigDict(sort_keys=False)
    for name in names:
        resolved.phases[name] = ConfigDict(plain["phases"][name])
    if resolved.debug:
        smoke.shrink(resolved)
    expand(resolved.phases.to_dict())
    resolved.code = workdirs.code(resolved.to_dict())
    return resolved


class Progress:
    """What a run has so far.

    Attributes:
      trained: networks by name or reference, with variables on the host.
      results: what summary.json holds of each finished or diverged member.
      failed: members that have no network, and why.
    """

    def __init__(self, loaded: dict[str, TrainedNetwork]):
        """Starts with the teachers that do not come from this run."""
        self.trained = dict(loaded)
        self.results: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}

    def record(self, member: Member, result: dict[str, Any]) -> None:
        """Takes what summary.json will hold of a member."""
        self.results[member.name] = {"phase": member.phase, "seed": member.seed, **result}

    def take(
        self, plan: Plan, member: Member, workdir: Path, trained: TrainedNetwork | None = None
    ) -> None:
        """Takes the networks of a finished member, from its folders unless one is given."""
        if isinstance(plan.action, Ensemble):
            return
        dtype = plan.config.dtype
        folder = workdir / member.name
        self.trained[member.name] = trained or networks.load(str(folder), dtype=dtype)
        for epoch in plan.action.keep if isinstance(plan.action, Train) else ():
            name = kept(member.name, epoch)
            # A phase that ended early has not kept them all.
            if (workdir / name).exists():
                self.trained[name] = networks.load(str(workdir / name), dtype=dtype)

    def left_out(self, member: Member) -> bool:
        """Whether a member cannot be trained because of what others lack."""
        failed = {one for one in member.needs if one.partition("@")[0] in self.failed}
        unkept = {one for one in member.needs if "@" in one and "/" not in one}
        unkept -= self.trained.keys()
        if failed or unkept:
            ended = f": {', '.join(sorted(unkept))} was not reached" if unkept - failed else ""
            self.failed[member.name] = f"phase {member.name!r} was left out{ended}"
        return bool(failed or unkept)


def run(
    config: ConfigDict, workdir: Path, console: Console, *, command: str = ""
) -> dict[str, Any]:
    """Runs all phases that are not finished, and writes summary.json.

    Args:
      config: resolved.
      workdir: the run folder; created if it does not exist, resumed if it does.
      console: for progress and the table.
      command: that started the run, for the summary.

    Returns:
      The summary.

    Raises:
      UserError: for every mistake a user can make, before anything is written; and when a
        phase has diverged, after all phases that do not need it. There is a table then, and
        no summary.json.
      Interrupted: when a signal asked to stop, after saving.
    """
    summary_file = workdir / "summary.json"
    workdirs.check(config, workdir)
    if summary_file.exists():
        return _show_finished(config, workdir, console)
    plans, from_elsewhere = plan_all(config)
    workdir.mkdir(parents=True, exist_ok=True)
    lock = workdirs.locked(workdir) if processes.is_main() else contextlib.nullcontext()
    with lock, cli.stop_signals() as stop:
        files.write_json(workdir / "config.json", config.to_dict())
        device = plans[0].devices.description
        lines.show(f"run folder {workdir}, {device}", console)
        progress = Progress(from_elsewhere)
        _describe_loaded(plans, from_elsewhere, console)
        summary = {
            "config": config.to_dict(),
            "seed": config.seed,
            "command": command,
            "device": device,
            "versions": workdirs.versions(),
            "phases": progress.results,
        }
        for plan in plans:
            if signal_number := processes.largest(stop()):
                raise Interrupted(signal_number)
            _run_members(plan, progress, workdir, console, stop)
            if processes.is_main():
                report.write(summary, workdir)
            # What one phase has written is read by the next.
            processes.barrier()
        if not progress.failed:
            files.write_json(summary_file, summary)
    report.show(summary, console)
    if progress.failed:
        raise UserError("; ".join(progress.failed.values()))
    lines.show(f"{summary_file}, {workdir / 'curves.png'}", console)
    return summary


def _describe_loaded(
    plans: Sequence[Plan], trained: Mapping[str, TrainedNetwork], console: Console
) -> None:
    """Says what the networks that a run did not train are worth, before any step is made."""
    known: set[str] = set()
    for plan in plans:
        for line in loaded.lines(plan, trained, known):
            lines.show(line, console)


def _show_finished(config: ConfigDict, workdir: Path, console: Console) -> dict[str, Any]:
    """Prints the tables of a finished run with the config's report, and returns its summary."""
    summary = stored.summary(workdir)
    phases = summary["phases"]
    for member in stored.members(config.to_dict()):
        if member.name in phases:
            phases[member.name] |= {"phase": member.phase, "seed": member.seed}
    report.show(summary | {"config": config.to_dict()}, console)
    lines.show(f"{workdir} is finished; nothing was changed", console)
    return summary


def _run_members(
    plan: Plan,
    progress: Progress,
    workdir: Path,
    console: Console,
    stop: Callable[[], int],
) -> None:
    """Runs the members of a phase that are not finished, together, until all of them are."""
    waiting = []
    finished_before = processes.broadcast_json(
        [one.name for one in plan.members if (workdir / one.name / "result.json").exists()]
    )
    for member in plan.members:
        folder = workdir / member.name
        if member.name in finished_before:
            progress.record(member, stored.result(folder))
            progress.take(plan, member, workdir)
            lines.show(f"{member.name} is finished", console)
        elif not progress.left_out(member):
            waiting.append(member)
    while waiting:
        try:
            finished = run_phase(
                plan, waiting, trained=progress.trained, workdir=workdir, console=console,
                stop=stop,
            )  # fmt: skip
        except Diverged as error:
            lines.show(f"{error}; phases that do not need it go on", console)
            progress.failed[error.member] = str(error)
            (member,) = (one for one in waiting if one.name == error.member)
            progress.record(member, _diverged(plan, error.step))
            waiting.remove(member)
            continue
        for member in [one for one in waiting if one.name in finished]:
            progress.take(plan, member, workdir, finished[member.name].trained)
            progress.record(member, finished[member.name].result)
            waiting.remove(member)


def _diverged(plan: Plan, step: int) -> dict[str, Any]:
    """What summary.json holds of a member without a network."""
    variables = train.abstract_outputs(plan.network, plan.data.image_shape)[1]
    return {
        "model": networks.title(plan.config.model, plan.network),
        "parameters": networks.count_parameters(variables),
        "steps": 0,
        "seconds": 0.0,
        "diverged": step,
    }
