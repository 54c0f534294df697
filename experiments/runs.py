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
from typing import Any

from experiments import cli, lines, report, workdir
from experiments.log import read_metrics
from experiments.report.runs import Run, distinct, read
from kdjax import UserError

_FIGURES = (("test accuracy", "accuracy", ".2%"), ("agreement", "agreement", ".2%"))


def state(run: Run) -> str:
    """`finished`, or how far a run is."""
    if run.finished:
        return "finished"
    found = "not started"
    for member in run.all_members:
        rows = read_metrics(run.folder / member.name / "metrics.jsonl")
        if member.name in run.summary["phases"]:
            found = f"after {member.name}"
        elif rows:
            found = f"{member.name}, step {rows[-1]['step']}"
    return found


def changed(run: Run) -> datetime.datetime:
    """When a run last wrote a result or a row of a log."""
    names = ("result.json", "metrics.jsonl")
    written = [run.folder / member.name / name for member in run.all_members for name in names]
    times = [
        path.stat().st_mtime for path in (run.folder / "config.json", *written) if path.exists()
    ]
    return datetime.datetime.fromtimestamp(max(times))


def listed(runs: Sequence[Run]) -> report.Cells:
    """A table of runs, the newest first."""
    rows = []
    for run in sorted(runs, key=changed, reverse=True):
        measured = run.phases
        accuracies = {name: f"{one['test']['accuracy']:.2%}" for name, one in measured.items()}
        shown = ", ".join(f"{name} {value}" for name, value in accuracies.items() if value)
        rows.append([str(run.folder), shown, state(run), f"{changed(run):%Y-%m-%d %H:%M}"])
    return report.Cells("", ("run", "test accuracy", "state", "changed"), rows)


def compared(runs: Sequence[Run]) -> list[report.Cells]:
    """Tables of the keys in which runs differ, and of their results."""
    names = [run.name for run in distinct(runs)]
    identities = [workdir.identity(run.config) for run in runs]
    keys = dict.fromkeys(key for identity in identities for key in identity)
    # The layers only repeat what the phases inherit from them.
    layers = ("train.", "teacher.", "student.")
    differing = [
        [key, *(_shown(identity, key) for identity in identities)]
        for key in sorted(keys)
        if not key.startswith(layers) and len({_shown(one, key) for one in identities}) > 1
    ]
    measured = [run.phases for run in runs]
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
    left_out: list[str] = []
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
            tables = [listed(_readable(found, left_out))]
    except UserError as error:
        return cli.fail(str(error))
    console = cli.Console()
    report.show_tables(tables, console)
    for line in left_out:
        lines.show(f"left out: {line}", console)
    return 0


def _readable(folders: Sequence[Path], left_out: list[str]) -> list[Run]:
    """The runs in folders; why others cannot be read is added to `left_out`."""
    found = []
    for folder in folders:
        try:
            found.append(read(folder))
        except UserError as error:
            left_out.append(str(error))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
