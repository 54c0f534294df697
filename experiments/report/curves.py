"""Curves of a run, from what its members have logged."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.log import read_metrics
from kdjax import files


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
