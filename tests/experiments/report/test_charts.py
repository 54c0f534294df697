"""Charts as elements of a page: its colours, its ids, and their content in words."""

import re

from configs import common
from configs.tables import add_figure, measured
from experiments.report import charts
from experiments.report.curves import Curves, limits
from experiments.report.measured import Figures, Phases

CURVES = Curves(
    "test/accuracy", "epoch",
    {"kd": [[(1.0, 0.2), (2.0, 0.6)], [(1.0, 0.4), (2.0, 0.8)]], "<b>": [[(1.0, 0.1)]]},
)  # fmt: skip
LOOK = charts.styles(["kd", "<b>"])


def test_a_chart_says_its_content_and_has_the_pages_colours():
    chart = charts.line_chart("Accuracy", CURVES, LOOK, percent=True)
    assert 'aria-label="Accuracy: kd ends at 70.00 %; &lt;b&gt; ends at 10.00 %."' in chart.svg
    assert chart.phases == ("kd", "<b>")
    assert {"var(--series-0)", "var(--series-1)", "var(--line)"} <= set(
        re.findall(r"var\([\w-]+\)", chart.svg)
    )
    # What is not of the page would be wrong in the dark.
    assert not re.findall(r"#0[12]000\d|#000000|#ffffff", chart.svg)
    assert "<style" not in chart.svg
    assert "http://" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", chart.svg)


def test_charts_of_one_page_have_no_id_in_common():
    found = [charts.line_chart(title, CURVES, LOOK, percent=True).svg for title in ("a", "b")]
    found.append(charts.key(LOOK["kd"]))
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in found]
    assert not set(ids[0]) & set(ids[1])
    assert found[0] == charts.line_chart("a", CURVES, LOOK, percent=True).svg


def test_phases_are_told_apart_by_more_than_their_colour():
    looks = charts.styles([str(i) for i in range(24)])
    assert len(set(looks.values())) == 24
    assert len({look.marker for look in list(looks.values())[:8]}) == 8


def test_losses_far_apart_are_on_a_logarithmic_axis():
    spread = Curves("test/nll", "epoch", {"kd": [[(1.0, 40.0), (2.0, 0.1)]]})
    near = Curves("test/nll", "epoch", {"kd": [[(1.0, 0.4), (2.0, 0.1)]]})
    labels = [
        re.findall(r">([\d.]+)</text>", charts.line_chart("NLL", one, LOOK, percent=False).svg)
        for one in (spread, near)
    ]
    assert {"0.1", "1", "10"} <= set(labels[0])
    assert "10" not in labels[1]


def test_limits_leave_out_the_first_rise():
    points = [(float(i), value) for i, value in enumerate((0.0, 0.5, 0.6, 0.7))]
    low, high = limits(Curves("", "epoch", {"kd": [points]}))
    assert 0.4 < low < 0.5
    assert 0.7 < high < 0.8


def test_a_phase_that_diverged_is_drawn_as_far_as_it_got():
    members = [[(1.0, 2.0), (2.0, 1.0), (3.0, float("nan"))], [(1.0, float("inf"))]]
    curves = Curves("train/loss", "epoch", {"kd": members})
    low, high = limits(curves)
    assert 0.9 < low < 1.0
    assert 2.0 < high < 2.1
    assert "ends at" in charts.line_chart("Loss", curves, LOOK, percent=False).svg


def test_accuracy_over_fidelity_has_a_point_for_each_member_with_a_teacher():
    tests = [{"accuracy": 0.7, "agreement": 0.8}, {"accuracy": 0.8, "agreement": 0.9}]
    phases = Phases(
        teacher=Figures([{"test": {"accuracy": 0.9}}]),
        kd=Figures([{"test": test} for test in tests]),
    )
    look = charts.styles(list(phases))
    chart = charts.scatter_chart("Fidelity", phases, "agreement", "agreement", look, percent=True)
    assert chart.phases == ("kd",)
    assert "kd 85.00 %, accuracy 75.00 %" in chart.svg
    assert chart.svg.count("<use") >= 2
    assert charts.scatter_chart("", phases, "kl", "KL", look, percent=False) is None


def test_a_figure_of_a_config_is_drawn_in_the_pages_colours():
    config = common.base()
    series = {"here": {0.0: measured("kd"), 1.0: measured("kd")}, "a paper": {0.0: 0.25}}
    add_figure(config, "f", caption="A figure.", x_label="beta", series=series, span=(0.2, 0.5))
    described = config.to_dict()["report"]["f"]
    chart = charts.config_chart(described, Phases(kd=Figures([{"test": {"accuracy": 0.5}}])))
    assert "test accuracy over beta, for here, a paper." in chart.svg
    assert "var(--shade)" in chart.svg
    assert "A figure." not in chart.svg
    assert charts.config_chart(described, Phases()) is None
