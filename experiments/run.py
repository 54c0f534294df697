"""A run: a list of phases, from the config to summary.json."""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import itertools
import json
import platform
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from experiments import files, networks, profile, report, seeds
from experiments.networks import Trained
from experiments.phase import Data, Diverged, Plan, make_plan, run_phase
from kdjax import train
from kdjax.types import Network, UserError

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
# What may differ between a run and its continuation, because no result depends on it.
_NEUTRAL = (
    "devices", "checkpoint_every", "data.dir", "data.memory", "data.workers",
    "evaluation.dir", "evaluation.memory", "profile", "report",
)  # fmt: skip


def resolve(config: ConfigDict) -> ConfigDict:
    """The config as it is run: with what was inherited, shrunk by `debug`, a phase a seed.

    Raises:
      UserError: if there are no phases or their seeds are wrong.
    """
    names = list(config.phases)
    plain = config.to_dict()
    resolved = ConfigDict(plain)
    resolved.phases = ConfigDict(sort_keys=False)
    for name in names:
        resolved.phases[name] = ConfigDict(plain["phases"][name])
    if resolved.debug:
        side = min(config.data.image_size or config.data.resize or 32, 32)
        resolved.data.update(
            name="digits", resize=side, image_size=side, train_examples=0, validation=0.1
        )
        resolved.evaluation.name = ""
        for group in resolved.phases.values():
            group.update(batch_size=16, accumulate=1, steps=2, mean=(), std=(), checkpoint="")
            group.shots = min(group.shots, 5)
            for key in ("start", "start_methods"):
                if group[key] not in names:
                    group[key] = ""
    if not names:
        raise UserError("the config has no phases")
    each = seeds.expand({name: resolved.phases[name].to_dict() for name in names})
    resolved.phases = ConfigDict(sort_keys=False)
    for name, phase in each.items():
        resolved.phases[name] = ConfigDict(phase)
    return resolved


def default_workdir(config_name: str, config: ConfigDict) -> Path:
    """`runs/NAME-HASH`: the same command finds its run again, another config gets another."""
    digest = hashlib.sha256(json.dumps(_identity(config), sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{config_name}-{digest[:8]}"


def run(config: ConfigDict, workdir: Path, console: Console) -> dict[str, Any]:
    """Runs all phases that are not finished, and writes summary.json.

    Args:
      config: resolved.
      workdir: the run folder; made if it is not there, gone on with if it is.
      console: for progress and the table.

    Returns:
      The summary.

    Raises:
      UserError: for every mistake a user can make, before anything is written; and when a
        phase has diverged, after all phases that do not need it. There is a table then, and
        no summary.json.
      Interrupted: when a signal asked to stop, after saving.
    """
    summary_file = workdir / "summary.json"
    _check_workdir(config, workdir)
    if summary_file.exists():
        summary = files.read_json(summary_file)
        report.show(summary | {"config": config.to_dict()}, console)
        console.print(f"{workdir} is finished; nothing was changed", highlight=False)
        return summary
    plans, loaded = plan_all(config)
    workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir), _stop_signals() as stop:
        files.write_json(workdir / "config.json", config.to_dict())
        console.print(f"run folder {workdir}, {plans[0].devices.description}", highlight=False)
        trained: dict[str, Trained] = dict(loaded)
        results: dict[str, Any] = {}
        # Phases that have no network, and why.
        failed: dict[str, str] = {}
        summary = {
            "config": config.to_dict(),
            "seed": config.seed,
            "device": plans[0].devices.description,
            "versions": _versions(),
            "phases": results,
        }
        for _, group in itertools.groupby(plans, lambda plan: seeds.base(plan.name)):
            together = {}
            for plan in group:
                folder = workdir / plan.name
                if (folder / "result.json").exists():
                    results[plan.name] = files.read_json(folder / "result.json")["summary"]
                    trained[plan.name] = networks.load(str(folder), dtype=plan.config.dtype)
                elif plan.needs & failed.keys():
                    failed[plan.name] = f"phase {plan.name!r} was left out"
                else:
                    if plan.config.start in trained:
                        plan = dataclasses.replace(plan, start=trained[plan.config.start].variables)
                    together[plan.name] = plan
            done: list[tuple[Trained, dict[str, Any]]] = []
            while together and not done:
                try:
                    done = run_phase(
                        list(together.values()),
                        config=config,
                        teachers=[
                            [trained[t] for t in plan.teachers] for plan in together.values()
                        ],
                        workdir=workdir,
                        console=console,
                        stop=stop,
                    )
                except Diverged as error:
                    failed[error.phase] = str(error)
                    results[error.phase] = _of_diverged(together.pop(error.phase), error.step)
                    console.print(f"{error}; what does not need it goes on", highlight=False)
            for name, (network, result) in zip(together, done, strict=True):
                trained[name], results[name] = network, result
            if plan.name != plans[-1].name:
                report.write(summary, workdir)
        report.write(summary, workdir)
        if not failed:
            files.write_json(summary_file, summary)
    report.show(summary, console)
    if failed:
        raise UserError("; ".join(failed.values()))
    console.print(f"{summary_file}, {workdir / 'curves.png'}", highlight=False)
    return summary


def _of_diverged(plan: Plan, step: int) -> dict[str, Any]:
    """What the summary says of a phase without a network."""
    variables = train.abstract_outputs(plan.network, plan.data.image_shape)[1]
    return {
        "model": plan.config.model,
        "parameters": networks.parameters(variables),
        "steps": 0,
        "seconds": 0.0,
        "diverged": step,
    }


def plan_all(config: ConfigDict) -> tuple[list[Plan], dict[str, Trained]]:
    """All phases, checked; and the teachers that come from elsewhere, by reference.

    Raises:
      UserError: for every mistake in the config.
    """
    profile.parse(config.profile)
    data = Data(**config.data)
    evaluation = data.held_out()
    if config.evaluation.name:
        evaluation = Data(**config.evaluation).held_out()
        if (evaluation.image_shape, evaluation.num_classes) != (data.image_shape, data.num_classes):
            raise UserError(
                f"evaluation has images {evaluation.image_shape} of {evaluation.num_classes} "
                f"classes, data {data.image_shape} of {data.num_classes}"
            )
    plans: list[Plan] = []
    known: dict[str, Network] = {}
    loaded: dict[str, Trained] = {}
    for name, group in config.phases.items():
        for teacher in group.teachers:
            if teacher not in known and ("/" in teacher or "=" in teacher):
                mean, std = data.statistics() if not (group.mean and group.std) else ((), ())
                loaded[teacher] = networks.load(
                    teacher, num_classes=data.num_classes, in_channels=data.channels,
                    mean=group.mean or mean, std=group.std or std, dtype=group.dtype,
                    image_size=data.image_size,
                )  # fmt: skip
                known[teacher] = loaded[teacher].network
        plans.append(make_plan(name, group, config, data, evaluation, known))
        known[name] = plans[-1].network
    return plans, loaded


def _identity(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON sees it, flat, without what no result depends on."""

    def flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from flat(inner, f"{prefix}.{key}" if prefix else key)
        else:
            yield prefix, value

    plain = json.loads(json.dumps(config.to_dict()))
    neutral = tuple(f"{key}." for key in _NEUTRAL)
    return {k: v for k, v in flat(plain, "") if not f"{k}.".startswith(neutral)}


def _check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError if the folder belongs to another config, or is no run folder."""
    if not workdir.exists():
        return
    if not workdir.is_dir():
        raise UserError(f"{str(workdir)!r} is not a folder")
    stored_file = workdir / "config.json"
    if not stored_file.exists():
        if any(not path.name.startswith(".") for path in workdir.iterdir()):
            raise UserError(f"{str(workdir)!r} is not empty and not a run folder")
        return
    ours, theirs = _identity(config), _identity(ConfigDict(files.read_json(stored_file)))
    differing = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
    # The three layers repeat each other; the phases are what is run.
    differing = [k for k in differing if not k.startswith(("train.", "teacher.", "student."))]
    if differing:
        shown = ", ".join(
            f"{k} ({theirs.get(k, 'absent')} there, {ours.get(k, 'absent')} here)"
            for k in differing[:5]
        )
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise UserError(
            f"{str(workdir)!r} belongs to another config: {shown}{more}; choose another --workdir"
        )


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Keeps a second run out of the folder; the lock ends with the process, however it ends."""
    with open(workdir / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is working in {str(workdir)!r}") from None
        yield


@contextlib.contextmanager
def _stop_signals() -> Iterator[Any]:
    """Gives a function that tells which of SIGTERM and SIGINT has arrived, if any."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions["python"] = platform.python_version()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if commit.returncode == 0:
        versions["kdjax"] = commit.stdout.strip()
    return versions
