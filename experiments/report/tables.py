"""The tables that a run ends in."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.cells import fill
from experiments.report.measured import Figures, Phases, measured

_FIGURES = (
    ("test accuracy", "accuracy", ".2%"),
    ("NLL", "nll", ".3f"),
    ("ECE", "ece", ".3f"),
    ("agreement", "agreement", ".2%"),
    ("KL to teacher", "kl", ".4f"),
)
_HEADINGS = ("phase", "model", "parameters", "epochs", *(heading for heading, _, _ in _FIGURES))
_HEADINGS += ("images/s", "seconds")
_OPTIONAL = ("parameters", "images/s", "ECE", "NLL", "seconds", "model", "KL to teacher", "epochs")


class Cells(NamedTuple):
    """A table before it is drawn: words in the first two columns, figures in the others.

    Attributes:
      caption: may be "".
      headings: of the columns.
      rows: of cells.
      optional: headings of columns that a narrow terminal leaves out, the first ones first.
    """

    caption: str
    headings: Sequence[str]
    rows: list[list[str]]
    optional: Sequence[str] = ()


def tables(summary: Mapping[str, Any]) -> list[Cells]:
    """The phases of a summary, and the tables of its config's `report`, filled in.

    The members of a phase share a row, which has their means and sample standard
    deviations; members that diverged are left out of these. A cell of `report` is a format
    string of the phases, such as `{kd[test][accuracy]:.2%}`, and is empty where there is no
    such figure.
    """
    phases = measured(summary)
    return [phase_table(phases), *_filled(summary["config"]["report"], phases)]


def phase_table(phases: Phases) -> Cells:
    """What was measured on the test split, a row for each phase."""
    rows = []
    for name, figures in phases.items():
        members = figures.values
        cells = [format(figures["test"][key], form) for _, key, form in _FIGURES]
        rows.append(
            [
                name + _remark(members),
                members[0]["model"],
                f"{members[0]['parameters']:,}",
                _length(figures),
                *cells,
                _shared(figures["images_per_second"], ",.0f") if members[0]["steps"] else "",
                f"{sum(member['seconds'] for member in members):.0f}",
            ]
        )
    return Cells("", _HEADINGS, rows, _OPTIONAL)


def probe_tables(probe: str, results: Mapping[str, Any], report: Mapping[str, Any]) -> list[Cells]:
    """The tables of a config's `report` with the figures of a probe, filled in.

    Args:
      probe: of `experiments.properties`.
      results: by member, the name of its `phase`, and its figures under the name of the probe.
      report: of the config.
    """
    return _filled(report, measured({"phases": results}), probe)


def _filled(report: Mapping[str, Any], phases: Phases, probe: str | None = None) -> list[Cells]:
    """The tables of a report with the figures of a probe, or of the run itself."""
    return [
        Cells(
            one["caption"],
            one["columns"],
            [[fill(cell, phases) for cell in row] for row in one["rows"]],
        )
        for one in report.values()
        if "rows" in one and one.get("probe") == probe
    ]


def _remark(members: Sequence[Any]) -> str:
    """The number of seeds in a row, and how many of them diverged."""
    diverged = sum("diverged" in member for member in members)
    if len(members) == 1:
        return " (diverged)" if diverged else ""
    return f" ({len(members)} seeds{f', {diverged} diverged' if diverged else ''})"


def _length(figures: Figures) -> str:
    """How long a phase was trained: in epochs, or in steps where these are not known.

    A phase without data has no epochs, and earlier versions did not record them.
    """
    epochs = figures["epochs"]
    if epochs.values:
        return _shared(epochs, ",.0f" if min(epochs.values) >= 10 else ".2g")
    steps = Figures([one for one in figures["steps"].values if one])
    if not steps.values:
        return ""
    return f"{_shared(steps, ',.0f')} step{'s' if set(steps.values) != {1} else ''}"


def _shared(figures: Figures, form: str) -> str:
    """A figure that members usually have in common; their deviation only where they differ."""
    return format(Figures(figures.values[:1]) if len(set(figures.values)) == 1 else figures, form)


def markdown(summary: Mapping[str, Any]) -> str:
    """The same tables, ready for a document."""
    return "\n".join(map(markdown_table, tables(summary)))


def markdown_table(table: Cells) -> str:
    """A table in Markdown, with its caption above it."""
    rules = ["---" if i < 2 else "---:" for i in range(len(table.headings))]
    rows = (table.headings, rules, *table.rows)
    # What is in a cell must not end it.
    lines = "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows
    )
    return f"{table.caption}\n\n{lines}" if table.caption else lines
