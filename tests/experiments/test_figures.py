"""Plots of accuracy over a varied value, and of one figure against another."""

import numpy as np
import pytest

from configs import common
from configs.tables import add_figure, add_scatter, measured
from experiments import figures, report
from experiments.report.measured import Figures, Phases

FIGURES = {"model": "m", "parameters": 1, "steps": 1, "seconds": 1.0, "images_per_second": 1.0}
SERIES = {
    "here": {0.0: measured("zero"), 10.0: measured("ten"), 1.0: measured("one")},
    "a paper": {0.0: 0.25, 10.0: 0.5},
}


def _summary(accuracies, **options):
    """A summary of a run with SERIES as its figure; accuracies by phase, one per seed."""
    config = common.base()
    described = {"caption": "A figure.", "x_label": "beta", "series": SERIES, "x_scale": "symlog"}
    add_figure(config, "beta", **(described | options))
    phases = {
        f"{phase}_seed{i}": {**FIGURES, "phase": phase, "test": {"accuracy": accuracy, "nll": 1.0}}
        for phase, values in accuracies.items()
        for i, accuracy in enumerate(values)
    }
    return {"config": config.to_dict(), "phases": phases}


def _measured(**accuracies):
    """What was measured in phases, by the accuracies of their seeds."""
    return Phases(
        {
            name: Figures([{"test": {"accuracy": one}} for one in values])
            for name, values in accuracies.items()
        }
    )


def test_points_are_means_and_deviations_in_order_of_the_varied_value():
    phases = _measured(zero=[0.25], ten=[0.5, 0.75], one=[])
    assert figures.points(list(SERIES["here"].items()), phases) == [
        (0.0, 0.25, 0.0, 0.0),
        (10.0, 0.625, pytest.approx(0.1767767), 0.0),
    ]
    assert figures.points([(2, 0.5), (1, 0.25)], {}) == [(1, 0.25, 0, 0), (2, 0.5, 0, 0)]


def test_a_run_draws_its_points_with_error_bars_beside_the_printed_ones_and_the_range(tmp_path):
    summary = _summary({"zero": [0.2, 0.4], "ten": [0.6, 0.6]}, span=(0.5, 2.0), span_label="best")
    report.write(summary, tmp_path)
    assert (tmp_path / "beta.png").read_bytes().startswith(b"\x89PNG")
    phases = _measured(zero=[0.2, 0.4], ten=[0.6, 0.6], one=[])
    (axes,) = figures.make(summary["config"]["report"]["beta"], phases).axes
    ours, printed = axes.containers
    assert [bars.get_label() for bars in (ours, printed)] == ["here", "a paper"]
    line, _, (bars,) = ours
    assert line.get_xydata().tolist() == [[0.0, pytest.approx(0.3)], [10.0, 0.6]]
    (_, low), (_, high) = bars.get_segments()[0]
    assert high - low == pytest.approx(2 * 0.1414214)
    assert printed[0].get_xydata().tolist() == [[0.0, 0.25], [10.0, 0.5]]
    (span,) = axes.patches
    assert (span.get_x(), span.get_width(), span.get_label()) == (0.5, 1.5, "best")
    assert (axes.get_xlabel(), axes.get_xscale()) == ("beta", "symlog")


def test_without_points_of_this_run_nothing_is_drawn_and_a_figure_is_no_table(tmp_path):
    summary = _summary({"other": [0.5]})
    report.write(summary, tmp_path)
    assert not (tmp_path / "beta.png").exists()
    assert len(report.tables(summary)) == 1


POINTS = {
    "mixup": [(measured("mixup", "agreement"), measured("mixup", "nll", ".3f")), (0.855, 1.25)],
    "baseline": [(measured("none", "agreement"), measured("none", "nll", ".3f")), (0.835, 1.5)],
}


def test_a_scatter_has_deviations_of_both_figures_and_a_papers_points_as_crosses(tmp_path):
    config = common.base()
    add_scatter(config, "points", caption="c", x_label="agreement", y_label="NLL", series=POINTS)
    tests = [{"agreement": 0.8, "nll": 1.0}, {"agreement": 0.9, "nll": 3.0}]
    phases = {
        f"mixup_seed{i}": {**FIGURES, "phase": "mixup", "test": {"accuracy": 0.5, **test}}
        for i, test in enumerate(tests)
    }
    summary = {"config": config.to_dict(), "phases": phases}
    report.write(summary, tmp_path)
    assert (tmp_path / "points.png").read_bytes().startswith(b"\x89PNG")
    assert len(report.tables(summary)) == 1
    described = config.to_dict()["report"]["points"]
    (axes,) = figures.make(described, report.measured(summary)).axes
    ours, printed, other = axes.containers
    assert ours[0].get_xydata().tolist() == [[pytest.approx(0.85), 2.0]]
    (across,), (up,) = (bars.get_segments() for bars in ours[2])
    assert np.ptp(across, axis=0) == pytest.approx([2 * 0.0707107, 0])
    assert np.ptp(up, axis=0) == pytest.approx([0, 2 * 1.4142136])
    assert [bars[0].get_xydata().tolist() for bars in (printed, other)] == [
        [[0.855, 1.25]], [[0.835, 1.5]],
    ]  # fmt: skip
    assert [bars[0].get_marker() for bars in axes.containers] == ["o", "x", "x"]
    assert ours[0].get_color() == printed[0].get_color() != other[0].get_color()
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["mixup", "baseline"]
    # Agreement is in percent, by its format, and NLL is not.
    assert axes.xaxis.get_major_formatter()(0.5, 0) == "50.0%"
    assert "%" not in axes.yaxis.get_major_formatter()(0.5, 0)


def test_a_scatter_without_points_of_this_run_is_not_drawn_and_halves_of_points_are_refused():
    config = common.base()
    add_scatter(config, "points", caption="c", x_label="x", y_label="y", series=POINTS)
    nothing = _measured(mixup=[], none=[])
    assert figures.make(config.to_dict()["report"]["points"], nothing) is None
    with pytest.raises(ValueError, match=r"mixup: .* is half a point"):
        add_scatter(
            config, "half", caption="c", x_label="x", y_label="y",
            series={"mixup": [(measured("mixup"), 0.5)]},
        )  # fmt: skip
