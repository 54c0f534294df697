"""Lists runs, or compares some of them.

    python -m experiments.runs [FOLDER]
    python -m experiments.runs RUN RUN ...

The first form lists all runs in a folder, by default `runs`: how far they are and the accuracy of
their phases. The second prints in which keys of their configs two or more runs differ, and their
results side by side.
"""

import datetime
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import cli, legacy, report, workdir
from experiments.log import read_metrics
from experiments.members import expand
from kdjax import UserError, files

_FIGURES = (("test accuracy", "accuracy", ".2%"), ("agreement", "agreement", ".2%"))


class Run(NamedTuple):
    """A run folder.

    Attributes:
      name: as it was given.
      config: the resolved one.
      summary: as in summary.json; of a run that is not finished, what it has so far.
      state: `finished`, or where it is.
      changed: when it last wrote something.
    """

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    state: str
    changed: datetime.datetime


def read(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
      UserError: if it is none.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"{str(folder)!r} is not a run folder: it has no config.json")
    config = legacy.upgrade(files.read_json(folder / "config.json"))
    found: dict[str, Any] = {}
    state, newest = "not started", folder / "config.json"
    for members in expand(config["phases"]).values():
        for member in members:
            result, log = (folder / member.name / n for n in ("result.json", "metrics.jsonl"))
            if result.exists():
                found[member.name] = files.read_json(result)["summary"]
                found[member.name] |= {"phase": member.phase, "seed": member.seed}
                state = f"after {member.name}"
            elif rows := read_metrics(log):
                state = f"{member.name}, step {rows[-1]['step']}"
            newest = max(
                (path for path in (newest, result, log) if path.exists()),
                key=lambda path: path.stat().st_mtime,
            )
    if (folder / "summary.json").exists():
        state = "finished"
    changed = datetime.datetime.fromtimestamp(newest.stat().st_mtime)
    return Run(str(folder), config, {"config": config, "phases": found}, state, changed)


def listed(runs: Sequence[Run]) -> report.Cells:
    """A table of runs, the newest first."""
    rows = []
    for run in sorted(runs, key=lambda run: run.changed, reverse=True):
        measured = report.measured(run.summary)
        accuracies = {name: f"{one['test']['accuracy']:.2%}" for name, one in measured.items()}
        shown = ", ".join(f"{name} {value}" for name, value in accuracies.items() if value)
        changed = f"{run.changed:%Y-%m-%d %H:%M}"
        rows.append([run.name, shown, run.state, changed])
    return report.Cells("", ("run", "test accuracy", "state", "changed"), rows)


def compared(runs: Sequence[Run]) -> list[report.Cells]:
    """Tables of the keys in which runs differ, and of their results."""
    names = [run.name for run in runs]
    identities = [workdir.identity(run.config) for run in runs]
    keys = dict.fromkeys(key for identity in identities for key in identity)
    # The layers only repeat what the phases inherit from them.
    layers = ("train.", "teacher.", "student.")
    differing = [
        [key, *(_shown(identity, key) for identity in identities)]
        for key in sorted(keys)
        if not key.startswith(layers) and len({_shown(one, key) for one in identities}) > 1
    ]
    measured = [report.measured(run.summary) for run in runs]
    phases = dict.fromkeys(phase for one in measured for phase in one)
    results = [
        [f"{phase}: {what}", *(format(one[phase]["test"][figure], form) for one in measured)]
        for phase in phases
        for what, figure, form in _FIGURES
        if any(one[phase]["test"][figure].values for one in measured)
    ]
    return [
        report.Cells(
            "Config", ("key", *names), differing or [["no difference", *[""] * len(runs)]]
        ),
        report.Cells("Results on the test split", ("phase", *names), results),
    ]


def _shown(identity: Mapping[str, Any], key: str) -> str:
    return str(identity[key]) if key in identity else "absent"


def main(arguments: Sequence[str]) -> int:
    """Prints the tables and returns the exit status, 2 after a mistake of the user."""
    parser = cli.ArgumentParser(
        prog="python -m experiments.runs", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", default=["runs"],
        help="a folder of runs to list, or two or more runs to compare",
    )  # fmt: skip
    try:
        folders = [Path(name) for name in parser.parse_args(arguments).folders]
        if missing := [str(path) for path in folders if not path.is_dir()]:
            raise UserError(f"no such folder: {missing[0]!r}")
        if len(folders) > 1:
            tables = compared([read(folder) for folder in folders])
        else:
            found = sorted(path.parent for path in folders[0].glob("**/config.json"))
            if not found:
                raise UserError(f"there are no runs in {str(folders[0])!r}")
            tables = [listed([read(folder) for folder in found])]
    except UserError as error:
        return cli.fail(str(error))
    report.show_tables(tables, cli.Console())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
