"""What a run reports: tables and curves."""

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import boundaries, figures
from experiments.log import read_metrics
from kdjax import files

_TABLE = (
    ("test accuracy", "accuracy", ".2%"),
    ("nll", "nll", ".3f"),
    ("ece", "ece", ".3f"),
    ("agreement", "agreement", ".2%"),
    ("KL to teacher", "kl", ".4f"),
)


_HEADINGS = ("phase", "model", "parameters", *(heading for heading, _, _ in _TABLE))
_HEADINGS += ("images/s", "seconds")


class Cells(NamedTuple):
    """A table before it is drawn: words in the first two columns, figures in the others.

    Attributes:
      caption: may be "".
      headings: of the columns.
      rows: of cells.
    """

    caption: str
    headings: Sequence[str]
    rows: list[list[str]]


def tables(summary: Mapping[str, Any]) -> list[Cells]:
    """The phases of a summary, and the tables of its config's `report`, filled in.

    The members of a phase share a row, which has their means and sample standard
    deviations; members that diverged are left out of these. A cell of `report` is a format
    string of the phases, such as `{kd[test][accuracy]:.2%}`, and is empty where there is no
    such figure.
    """
    measured = _measured(summary)
    rows = []
    for name, phases in ((name, one.values) for name, one in measured.items()):
        cells = [format(measured[name]["test"][key], form) for _, key, form in _TABLE]
        rows.append(
            [
                name + _remark(phases),
                phases[0]["model"],
                f"{phases[0]['parameters']:,}",
                *cells,
                f"{measured[name]['images_per_second']:,.0f}" if phases[0]["steps"] else "",
                f"{sum(phase['seconds'] for phase in phases):.0f}",
            ]
        )
    return [Cells("", _HEADINGS, rows), *_filled(summary["config"]["report"], measured)]


def probe_tables(probe: str, results: Mapping[str, Any], report: Mapping[str, Any]) -> list[Cells]:
    """The tables of a config's `report` with the figures of a probe, filled in.

    Args:
      probe: of `experiments.properties`.
      results: by member, the name of its `phase`, and its figures under the name of the probe.
      report: of the config.
    """
    return _filled(report, _measured({"phases": results}), probe)


def _filled(
    report: Mapping[str, Any], measured: "_Phases", probe: str | None = None
) -> list[Cells]:
    """The tables of a report with the figures of a probe, or of the run itself."""
    return [
        Cells(
            one["caption"],
            one["columns"],
            [[cell.format_map(measured) for cell in row] for row in one["rows"]],
        )
        for one in report.values()
        if "rows" in one and one.get("probe") == probe
    ]


def _remark(phases: Sequence[Any]) -> str:
    """The number of seeds in a row, and how many of them diverged."""
    diverged = sum("diverged" in phase for phase in phases)
    if len(phases) == 1:
        return " (diverged)" if diverged else ""
    return f" ({len(phases)} seeds{f', {diverged} diverged' if diverged else ''})"


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Prints the tables of a summary."""
    show_tables(tables(summary), console)


def show_tables(tables: Sequence[Cells], console: Console) -> None:
    """Prints tables."""
    for caption, headings, rows in tables:
        # Levels such as [h, 4, 2, 1] are not markup.
        view = Table(title=escape(caption) or None, title_justify="left")
        for i, heading in enumerate(headings):
            view.add_column(escape(heading), justify="left" if i < 2 else "right")
        for row in rows:
            view.add_row(*map(escape, row))
        console.print(view)


def markdown(summary: Mapping[str, Any]) -> str:
    """The same tables, ready for a document."""
    parts = []
    for caption, headings, rows in tables(summary):
        rules = ["---" if i < 2 else "---:" for i in range(len(headings))]
        lines = "".join("| " + " | ".join(line) + " |\n" for line in (headings, rules, *rows))
        parts.append(f"{caption}\n\n{lines}" if caption else lines)
    return "\n".join(parts)


def write(summary: Mapping[str, Any], workdir: Path) -> None:
    """Writes table.md, curves.png, and what pictures the report and transition curves make.

    They show the phases that a summary has so far.
    """
    files.write(workdir / "table.md", markdown(summary).encode())
    draw_curves(workdir, _members(summary))
    for name, one in summary["config"]["report"].items():
        if "series" in one:
            figures.write(one, _measured(summary), workdir / f"{name}.png")
    pairs = {
        name: files.read_json(file)
        for name in summary["phases"]
        if (file := workdir / name / boundaries.FILE).exists()
    }
    if pairs:
        files.write(workdir / "transition_curves.png", boundaries.draw(pairs))


def _members(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of each phase's members, in order."""
    members: dict[str, list[str]] = {}
    for name, result in summary["phases"].items():
        members.setdefault(result["phase"], []).append(name)
    return members


def _measured(summary: Mapping[str, Any]) -> "_Phases":
    """What was measured in each phase, with its members' results as values."""
    results = summary["phases"]
    return _Phases(
        {
            phase: _Figures([results[name] for name in names])
            for phase, names in _members(summary).items()
        }
    )


# Figures that are 1 - another.
_COMPLEMENTS = {
    "error": "accuracy",
    "teacher_error": "teacher_accuracy",
    "disagreement": "agreement",
}


class _Figures:
    """One figure of all members of a phase; formatted as mean and sample deviation.

    Attributes:
      values: of the members that have this figure.
    """

    def __init__(self, values: Sequence[Any]):
        self.values = values

    def __getitem__(self, key: str) -> "_Figures":
        if key in _COMPLEMENTS:
            return _Figures([1 - value for value in self[_COMPLEMENTS[key]].values])
        return _Figures([value[key] for value in self.values if key in value])

    def __format__(self, form: str) -> str:
        if not self.values:
            return ""
        mean = format(statistics.mean(self.values), form)
        if len(self.values) == 1:
            return mean
        return f"{mean} ± {format(statistics.stdev(self.values), form)}"


class _Phases(dict[str, _Figures]):
    """Figures by phase, empty for a phase that does not exist."""

    def __missing__(self, name: str) -> _Figures:
        return _Figures([])


def draw_curves(workdir: Path, members: Mapping[str, Sequence[str]]) -> None:
    """Writes curves.png: test accuracy and loss of each phase, and agreement with its teacher.

    Args:
      workdir: the run folder.
      members: names of each phase's members; they share a colour and a legend entry.
    """
    from matplotlib.figure import Figure

    rows = {
        phase: [read_metrics(workdir / name / "metrics.jsonl") for name in names]
        for phase, names in members.items()
    }
    # A phase without data has pseudo-batches instead of epochs.
    units = {
        phase: "epoch" if any("epoch" in row for log in logs for row in log) else "step"
        for phase, logs in rows.items()
    }
    titles = {
        "accuracy": "test accuracy",
        "nll": "test loss (NLL)",
        "agreement": "test agreement with the teacher",
    }

    def curves(figure: str, unit: str) -> dict[str, list[list[tuple[float, float]]]]:
        """The points of each phase's members, where there are any."""
        found = {
            phase: [
                [(row[unit], row[f"test/{figure}"]) for row in log if f"test/{figure}" in row]
                for log in logs
            ]
            for phase, logs in rows.items()
            if units[phase] == unit
        }
        return {phase: lines for phase, lines in found.items() if any(lines)}

    panels = [
        (titles[figure], unit, lines)
        for figure in titles
        for unit in ("epoch", "step")
        if (lines := curves(figure, unit))
    ]
    if not panels:
        return
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    colors = {phase: f"C{number}" for number, phase in enumerate(members)}
    for i, (title, unit, phases) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        late: list[float] = []
        for phase, logs in phases.items():
            label: str | None = phase
            for points in filter(None, logs):
                axes.plot(*zip(*points, strict=True), label=label, marker=".", color=colors[phase])
                late += [value for _, value in points[len(points) // 4 :]]
                label = None
        # The first rise would press everything that matters into the top of the picture.
        axes.set(title=title, ylim=(min(late) - 0.01, max(late) + 0.01))
        axes.set_xlabel(unit.replace("step", "pseudo-batch"))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    files.write(workdir / "curves.png", png.getvalue())
