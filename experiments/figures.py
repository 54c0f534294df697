"""Plots of accuracy over a varied value, which `configs.tables.add_figure` puts in a config."""

import io
import statistics
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import files


class Point(NamedTuple):
    """A point of a plot.

    Attributes:
      x: the varied value.
      y: the figure, the mean over seeds.
      deviation: the sample standard deviation over seeds, zero if there is one seed.
    """

    x: float
    y: float
    deviation: float


def points(series: Sequence[tuple[float, Any]], phases: Mapping[str, Any]) -> list[Point]:
    """The points of a series, without those that are not measured yet.

    Args:
      series: (x, y), where y is a number, or a format string of the phases.
      phases: figures by phase; what a format string names has `values`, one per seed.
    """
    found = []
    for x, y in series:
        values = _values(y, phases) if isinstance(y, str) else [y]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            found.append(Point(x, statistics.mean(values), deviation))
    return sorted(found)


def _values(cell: str, phases: Mapping[str, Any]) -> Sequence[float]:
    """The figures that a format string such as `{kd[test][accuracy]:.2%}` would show."""
    ((_, field, _, _),) = string.Formatter().parse(cell)
    values: Sequence[float] = string.Formatter().get_field(str(field), (), phases)[0].values
    return values


def make(described: Mapping[str, Any], phases: Mapping[str, Any]) -> Any:
    """Makes a plot as a matplotlib figure, or None if it has no point of this run yet.

    Args:
      described: an entry of the config's `report` with `series`.
      phases: as for `points`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    lines = {label: points(series, phases) for label, series in described["series"]}
    ours = {
        label
        for label, series in described["series"]
        if lines[label] and any(isinstance(y, str) for _, y in series)
    }
    if not ours:
        return None
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    if described["span"]:
        axes.axvspan(
            *described["span"], color="0.9", label=described["span_label"] or None, zorder=0
        )
    for label, line in lines.items():
        if line:
            x, y, deviations = zip(*line, strict=True)
            marker, dashes = (".", "-") if label in ours else ("x", "--")
            axes.errorbar(
                x, y, yerr=deviations, label=label, marker=marker, linestyle=dashes, capsize=3
            )
    axes.set(xlabel=described["x_label"], ylabel="test accuracy", xscale=described["x_scale"])
    axes.set_title(described["caption"], fontsize="medium", wrap=True)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def write(described: Mapping[str, Any], phases: Mapping[str, Any], path: Path) -> None:
    """Draws a plot to a file, if it has points of this run; arguments as for `make`."""
    figure = make(described, phases)
    if figure is not None:
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=120)
        files.write(path, png.getvalue())
