"""Plots of accuracy over a varied value."""

import pytest

from configs import common
from configs.tables import add_figure, measured
from experiments import figures, report

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


class _Cells:
    """A phase's figure, as `experiments.report` has it."""

    def __init__(self, *values):
        self.values = values

    def __getitem__(self, key):
        return self


def test_points_are_means_and_deviations_in_order_of_the_varied_value():
    phases = {"zero": _Cells(0.25), "ten": _Cells(0.5, 0.75), "one": _Cells()}
    assert figures.points(list(SERIES["here"].items()), phases) == [
        (0.0, 0.25, 0.0),
        (10.0, 0.625, pytest.approx(0.1767767)),
    ]
    assert figures.points([(2, 0.5), (1, 0.25)], {}) == [(1, 0.25, 0), (2, 0.5, 0)]


def test_a_run_draws_its_points_with_error_bars_beside_the_printed_ones_and_the_range(tmp_path):
    summary = _summary({"zero": [0.2, 0.4], "ten": [0.6, 0.6]}, span=(0.5, 2.0), span_label="best")
    report.write(summary, tmp_path)
    assert (tmp_path / "beta.png").read_bytes().startswith(b"\x89PNG")
    phases = {"zero": _Cells(0.2, 0.4), "ten": _Cells(0.6, 0.6), "one": _Cells()}
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
