"""Curves of a run, from what its members have logged."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.log import read_metrics
from kdjax import files

# A member's points (epoch or pseudo-batch, figure).
Points = list[tuple[float, float]]


class Curves(NamedTuple):
    """One figure of the phases that are counted in one unit.

    Attributes:
      figure: key of the logged rows, such as `test/accuracy`.
      unit: epoch, or step in a phase without data, which has pseudo-batches instead.
      lines: by phase, the points of each member; a member may have none.
    """

    figure: str
    unit: str
    lines: dict[str, list[Points]]


def read_curves(
    workdir: Path, members: Mapping[str, Sequence[str]], figures: Sequence[str]
) -> list[Curves]:
    """Reads figures over time, in order; without those that no phase has.

    Args:
      workdir: the run folder.
      members: names of each phase's members.
      figures: keys of the logged rows.
    """
    rows = {
        phase: [read_metrics(workdir / name / "metrics.jsonl") for name in names]
        for phase, names in members.items()
    }
    units = {
        phase: "epoch" if any("epoch" in row for log in logs for row in log) else "step"
        for phase, logs in rows.items()
    }
    found = []
    for figure in figures:
        for unit in ("epoch", "step"):
            lines = {
                phase: [[(row[unit], row[figure]) for row in log if figure in row] for log in logs]
                for phase, logs in rows.items()
                if units[phase] == unit
            }
            if lines := {phase: points for phase, points in lines.items() if any(points)}:
                found.append(Curves(figure, unit, lines))
    return found


def limits(curves: Curves) -> tuple[float, float]:
    """The range of what matters: without the first quarter of each member's points.

    The first rise would press everything else into the top of the picture. What is not finite,
    after a phase has diverged, has no place in it.
    """
    late = [
        value
        for members in curves.lines.values()
        for points in members
        for _, value in points[len(points) // 4 :]
        if math.isfinite(value)
    ] or [0.0]
    margin = 0.05 * (max(late) - min(late)) or 0.01
    return min(late) - margin, max(late) + margin


_TITLES = {
    "test/accuracy": "test accuracy",
    "test/nll": "test loss (NLL)",
    "test/agreement": "test agreement with the teacher",
}


def draw_curves(workdir: Path, members: Mapping[str, Sequence[str]]) -> None:
    """Writes curves.png: test accuracy and loss of each phase, and agreement with its teacher.

    Args:
      workdir: the run folder.
      members: names of each phase's members; they share a colour and a legend entry.
    """
    from matplotlib.figure import Figure

    panels = read_curves(workdir, members, list(_TITLES))
    if not panels:
        return
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    colors = {phase: f"C{number}" for number, phase in enumerate(members)}
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for phase, logs in panel.lines.items():
            label: str | None = phase
            for points in filter(None, logs):
                axes.plot(*zip(*points, strict=True), label=label, marker=".", color=colors[phase])
                label = None
        axes.set(title=_TITLES[panel.figure], ylim=limits(panel))
        axes.set_xlabel(panel.unit.replace("step", "pseudo-batch"))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    files.write(workdir / "curves.png", png.getvalue())
