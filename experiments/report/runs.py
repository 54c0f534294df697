"""Runs by their folders, finished or not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import stored
from experiments.members import Member
from experiments.report.measured import Phases, measured, members
from kdjax import files
from kdjax.types import UserError


class Run(NamedTuple):
    """A run and what it has measured.

    Attributes:
      folder: of the run.
      name: of the folder, or its path where another run has the same name.
      summary: the content of summary.json, or what is known of a run without one.
      finished: whether there is a summary.json.
    """

    folder: Path
    name: str
    summary: Mapping[str, Any]
    finished: bool

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the run, with the keys of this version."""
        config: Mapping[str, Any] = self.summary["config"]
        return config

    @property
    def phases(self) -> Phases:
        """What was measured, by phase."""
        return measured(self.summary)

    @property
    def members(self) -> dict[str, list[str]]:
        """The names of each phase's members, in order; those without a result are left out."""
        return members(self.summary)

    @property
    def all_members(self) -> list[Member]:
        """The members of all phases, in order, whether they have a result or not."""
        return stored.members(self.config)

    def network(self, member: str) -> Mapping[str, Any]:
        """What a member's `network.json` holds; nothing for an ensemble, which has none."""
        file = self.folder / member / "network.json"
        found: Mapping[str, Any] = files.read_json(file) if file.exists() else {}
        return found


def read(folder: Path) -> Run:
    """Reads a run, of which nothing need be finished.

    Raises:
      UserError: if the folder is none of a run, or a file in it is damaged.
    """
    if not (folder / "config.json").exists():
        inside = folder.parent / "config.json"
        hint = f": it is a phase of the run {str(folder.parent)!r}" if inside.exists() else ""
        raise UserError(f"{str(folder)!r} is not a run folder, which has a config.json{hint}")
    file = folder / "summary.json"
    finished = file.exists()
    summary = (
        stored.summary(folder) if finished else {"phases": {}, "config": stored.config(folder)}
    )
    run = Run(folder, folder.resolve().name, summary, finished)
    phases = {}
    for member in run.all_members:
        result = folder / member.name / "result.json"
        if member.name in summary["phases"]:
            figures = summary["phases"][member.name]
        elif result.exists():
            figures = stored.result(folder / member.name)
        else:
            continue
        phases[member.name] = figures | {"phase": member.phase, "seed": member.seed}
    return run._replace(summary=summary | {"phases": phases})


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs, with their paths as names where names are not unique."""
    names = [run.name for run in runs]
    return [
        run if names.count(run.name) == 1 else run._replace(name=str(run.folder)) for run in runs
    ]
