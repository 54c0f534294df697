"""Charts as SVG whose colours are those of the page, light or dark."""

import io
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from experiments import figures
from experiments.report.curves import Curves, Points, limits
from experiments.report.measured import Phases

# Colours that a style sheet replaces. Matplotlib takes numbers only.
_SERIES = [f"#01000{i}" for i in range(8)]
_INK, _GRID = "#020000", "#020001"
_VARIABLES = {color: f"var(--series-{i})" for i, color in enumerate(_SERIES)}
_VARIABLES |= {_INK: "var(--muted)", _GRID: "var(--line)"}
_MARKERS = "osD^vP*X"
_DASHES = ("-", "--", ":")
# In inches: 338 units wide, so that letters are as large on a telephone as they say.
_SIZE = (4.7, 3.0)
_FONT = 10.5
# Between the largest and the smallest loss.
_LOGARITHMIC = 20


class Style(NamedTuple):
    """How the points and lines of a phase are drawn, in every chart of a run.

    Attributes:
      color: one of the page's, by its number.
      marker: as matplotlib calls it.
      dashes: the same.
    """

    color: int
    marker: str
    dashes: str


def styles(phases: Sequence[str]) -> dict[str, Style]:
    """A style for each phase; they are told apart by their markers, too."""
    count = len(_SERIES)
    return {
        phase: Style(i % count, _MARKERS[i % len(_MARKERS)], _DASHES[i // count % len(_DASHES)])
        for i, phase in enumerate(phases)
    }


class Chart(NamedTuple):
    """A drawn chart.

    Attributes:
      title: what it shows.
      phases: of which.
      svg: the picture, which has its content in words, too.
    """

    title: str
    phases: tuple[str, ...]
    svg: Markup


def key(style: Style) -> Markup:
    """A phase's line and marker, for a legend."""
    with _themed("key"):
        figure = _figure((0.5, 0.2))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot([0, 2], [0, 0], color=_SERIES[style.color], linestyle=style.dashes)
        axes.plot([1], [0], color=_SERIES[style.color], marker=style.marker, markersize=5)
        axes.set_axis_off()
        return _svg(figure, "")


def line_chart(title: str, curves: Curves, look: Mapping[str, Style], percent: bool) -> Chart:
    """A figure over time: a strong line for the mean of a phase, a faint one for each seed."""
    with _themed(title + curves.unit):
        figure, axes = _axes()
        words = []
        for phase, members in curves.lines.items():
            style, members = look[phase], [points for points in members if points]
            drawn = {"color": _SERIES[style.color], "linestyle": style.dashes}
            if len(members) > 1:
                for points in members:
                    axes.plot(*zip(*points, strict=True), **drawn, linewidth=0.8, alpha=0.45)
            mean = _mean(members)
            # Few points are few measurements, and are shown as such.
            marker = style.marker if len(mean) <= 12 else None
            axes.plot(*zip(*mean, strict=True), **drawn, linewidth=1.8, marker=marker, markersize=4)
            words.append(f"{phase} ends at {_shown(mean[-1][1], percent)}")
        if percent:
            low, high = limits(curves)
            axes.set_ylim(low, min(high, 1.005))
            _show_percent(axes.yaxis)
        else:
            _show_loss(axes, curves)
        axes.set_xlabel("pseudo-batch" if curves.unit == "step" else "epoch")
        return Chart(title, tuple(curves.lines), _svg(figure, f"{title}: {'; '.join(words)}."))


def _mean(members: Sequence[Points]) -> Points:
    """The mean over members where all of those that got that far have a point."""
    values: dict[float, list[float]] = {}
    for points in members:
        for x, value in points:
            values.setdefault(x, []).append(value)
    shared = {x for x, found in values.items() if len(found) == len(members)}
    return [(x, statistics.mean(values[x])) for x in sorted(shared or values)]


def scatter_chart(
    title: str, phases: Phases, figure: str, label: str, look: Mapping[str, Style], percent: bool
) -> Chart | None:
    """Accuracy over a figure of fidelity, a point for each member; None without any.

    Args:
      title: of the chart.
      phases: what was measured.
      figure: of the test split.
      label: of the horizontal axis.
      look: of the phases.
      percent: whether the figure is a share.
    """
    found = {
        phase: [
            (member["test"][figure], member["test"]["accuracy"])
            for member in measured.values
            if {figure, "accuracy"} <= member.get("test", {}).keys()
        ]
        for phase, measured in phases.items()
    }
    found = {phase: points for phase, points in found.items() if points}
    if not found:
        return None
    with _themed(title):
        drawn, axes = _axes()
        words = []
        for phase, points in found.items():
            xs, ys = zip(*points, strict=True)
            style = look[phase]
            axes.plot(
                xs, ys, color=_SERIES[style.color], marker=style.marker, linestyle="none",
                markersize=7, alpha=0.85,
            )  # fmt: skip
            x, y = statistics.mean(xs), statistics.mean(ys)
            words.append(f"{phase} {_shown(x, percent)}, accuracy {_shown(y, True)}")
        axes.margins(0.1)
        axes.set(xlabel=label, ylabel="test accuracy")
        _show_percent(axes.yaxis)
        if percent:
            _show_percent(axes.xaxis)
        return Chart(title, tuple(found), _svg(drawn, f"{title}: {'; '.join(words)}."))


def config_chart(described: Mapping[str, Any], phases: Phases) -> Chart | None:
    """A figure that a config asks for; None if it has no point of this run."""
    with _themed(described["caption"]):
        figure = figures.make(described, phases)
        if figure is None:
            return None
        # The page has the caption below it, where its lines are as long as the page is wide.
        figure.axes[0].set_title("")
        figure.set_size_inches(6.5, 3.8)
        for text in (text for legend in figure.legends for text in legend.get_texts()):
            text.set_fontsize(_FONT)
        labels = ", ".join(label for label, _ in described["series"])
        what = described.get("y_label", "test accuracy")
        words = f"{what} over {described['x_label']}, for {labels}."
        return Chart(described["caption"], (), _svg(figure, words))


def _shown(value: float, percent: bool) -> str:
    return f"{100 * value:.2f} %" if percent else f"{value:.3g}"


@contextmanager
def _themed(salt: str) -> Iterator[None]:
    import matplotlib as mpl
    from cycler import cycler

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        # Ids must differ between the charts of a page, and not between two pages of one run.
        "svg.hashsalt": salt,
        "text.parse_math": False,
        "font.size": _FONT,
        "axes.labelsize": _FONT,
        "xtick.labelsize": _FONT,
        "ytick.labelsize": _FONT,
        "legend.fontsize": _FONT,
        "axes.prop_cycle": cycler(color=_SERIES),
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.edgecolor": _GRID,
        "grid.color": _GRID,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
        "lines.solid_capstyle": "round",
    }
    with mpl.rc_context(settings):
        yield


def _figure(size: tuple[float, float], **options: Any) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, **options)


def _axes() -> tuple[Any, Any]:
    figure = _figure(_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(which="both", length=0)
    axes.locator_params(nbins=5)
    return figure, axes


def _show_percent(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def _show_loss(axes: Any, curves: Curves) -> None:
    """Sets the axis of a loss: logarithmic where one would see nothing but the largest."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    values = [y for members in curves.lines.values() for points in members for _, y in points]
    finite = [value for value in values if math.isfinite(value)]
    if min(finite, default=0) > 0 and max(finite) / min(finite) > _LOGARITHMIC:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        low, high = limits(curves)
        axes.set_ylim(max(low, 0.0) if min(finite, default=0) >= 0 else low, high)


def _svg(figure: Any, words: str) -> Markup:
    """A figure as an element of the page, with its content in words for who cannot see it."""
    file = io.StringIO()
    figure.savefig(
        file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    body = svg[svg.index(">") + 1 :]
    # A style sheet in a picture holds for the whole page, and so do its ids.
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r' id="[a-z0-9]+(?:\.\w+)?_\d+"', "", body)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, variable)
    body = body.replace("#e6e6e6", "var(--shade)")
    role = f'role="img" aria-label="{escape(words)}"' if words else 'aria-hidden="true"'
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(f"<svg {namespaces} {view[0]} {role}>{body}")
