"""What a run reports: tables, curves, and a page about it.

`python -m experiments.report RUN...` writes the page.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import boundaries, figures
from experiments.report.curves import draw_curves as draw_curves
from experiments.report.measured import measured as measured
from experiments.report.measured import members
from experiments.report.tables import Cells as Cells
from experiments.report.tables import markdown as markdown
from experiments.report.tables import probe_tables as probe_tables
from experiments.report.tables import tables as tables
from experiments.report.terminal import show as show
from experiments.report.terminal import show_tables as show_tables
from kdjax import files


def write(summary: Mapping[str, Any], workdir: Path) -> None:
    """Writes table.md, curves.png, and what pictures the report and transition curves make.

    They show the phases that a summary has so far.
    """
    files.write(workdir / "table.md", markdown(summary).encode())
    draw_curves(workdir, members(summary))
    for name, one in summary["config"]["report"].items():
        if "series" in one:
            figures.write(one, measured(summary), workdir / f"{name}.png")
    pairs = {
        name: files.read_json(file)
        for name in summary["phases"]
        if (file := workdir / name / boundaries.FILE).exists()
    }
    if pairs:
        files.write(workdir / "transition_curves.png", boundaries.draw(pairs))
