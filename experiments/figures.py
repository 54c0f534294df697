"""Plots that `configs.tables.add_figure` and `add_scatter` put in a config.

The first are of accuracy over a varied value, the others of one figure against another.
"""

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import cells
from experiments.report.measured import Phases
from kdjax import files


class Point(NamedTuple):
    """A point of a plot.

    Attributes:
      x: the varied value, or a figure, the mean over seeds.
      y: a figure, the mean over seeds.
      deviation: of y over seeds, the sample standard deviation; zero if there is one seed.
      x_deviation: the same of x.
    """

    x: float
    y: float
    deviation: float
    x_deviation: float = 0.0


def points(series: Sequence[tuple[Any, Any]], phases: Phases) -> list[Point]:
    """The points of a series, without those that are not measured yet.

    Args:
      series: (x, y), each a number or a figure, as in `experiments.cells`.
      phases: figures by phase.
    """
    found = []
    for pair in series:
        xs, ys = (cells.values(cell, phases) for cell in pair)
        if xs and ys:
            x, y = statistics.mean(xs), statistics.mean(ys)
            found.append(Point(x, y, _deviation(ys), _deviation(xs)))
    return sorted(found)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def make(described: Mapping[str, Any], phases: Phases) -> Any:
    """Makes a plot as a matplotlib figure, or None if it has no point of this run yet.

    Args:
      described: an entry of the config's `report` with `series`.
      phases: as for `points`.
    """
    if "y_label" in described:
        return _make_scatter(described, phases)

    lines = {label: points(series, phases) for label, series in described["series"]}
    ours = {
        label
        for label, series in described["series"]
        if lines[label] and any(isinstance(y, str) for _, y in series)
    }
    if not ours:
        return None
    figure, axes = _empty(described["caption"])
    if described["span"]:
        axes.axvspan(
            *described["span"], color="0.9", label=described["span_label"] or None, zorder=0
        )
    for label, line in lines.items():
        if line:
            x, y, deviations, _ = zip(*line, strict=True)
            marker, dashes = (".", "-") if label in ours else ("x", "--")
            axes.errorbar(
                x, y, yerr=deviations, label=label, marker=marker, linestyle=dashes, capsize=3
            )
    axes.set(xlabel=described["x_label"], ylabel="test accuracy", xscale=described["x_scale"])
    _show_percent(axes.yaxis)
    axes.legend(frameon=False)
    return figure


def _make_scatter(described: Mapping[str, Any], phases: Phases) -> Any:
    """A figure of points with deviations of both figures."""
    from matplotlib import colormaps

    pairs: dict[str, tuple[list[Any], list[Any]]] = {}
    for label, series in described["series"]:
        ours = [pair for pair in series if isinstance(pair[1], str)]
        pairs[label] = ours, [pair for pair in series if pair not in ours]
    found = {label: tuple(points(one, phases) for one in both) for label, both in pairs.items()}
    if not any(ours for ours, _ in found.values()):
        return None
    figure, axes = _empty(described["caption"])
    colors = colormaps["tab10" if len(found) <= 10 else "tab20"]
    for number, (label, both) in enumerate(found.items()):
        name: str | None = label
        for marker, one in zip("ox", both, strict=True):
            if one:
                x, y, deviations, x_deviations = zip(*one, strict=True)
                # Bars of no length would look like another marker.
                bars = [some if any(some) else None for some in (deviations, x_deviations)]
                axes.errorbar(
                    x, y, *bars, label=name, color=colors(number % colors.N),
                    marker=marker, linestyle="none", capsize=3,
                )  # fmt: skip
                name = None
    axes.set(xlabel=described["x_label"], ylabel=described["y_label"])
    for i, axis in enumerate((axes.xaxis, axes.yaxis)):
        if all(pair[i].endswith("%}") for ours, _ in pairs.values() for pair in ours):
            _show_percent(axis)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _empty(caption: str) -> tuple[Any, Any]:
    """A figure with a caption, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(caption, fontsize="medium", wrap=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _show_percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0))


def write(described: Mapping[str, Any], phases: Phases, path: Path) -> None:
    """Draws a plot to a file, if it has points of this run; arguments as for `make`."""
    figure = make(described, phases)
    if figure is not None:
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=120)
        files.write(path, png.getvalue())
