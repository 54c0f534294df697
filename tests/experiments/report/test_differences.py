"""Differences to a paper's numbers, in tables as configs have them."""

import pytest

from configs import common
from configs.tables import add_table, measured
from experiments.report import differences
from experiments.report.measured import Figures, Phases

PHASES = Phases(
    kd=Figures(
        [{"test": {"accuracy": a, "kl": k, "top5": 0.9}} for a, k in ((0.7, 0.2), (0.72, 0.4))]
    )
)
ACCURACY, KL = measured("kd"), measured("kd", "kl", ".3f")


def table(columns, *rows):
    config = common.base()
    add_table(config, "t", caption="c", columns=columns, rows=[list(row) for row in rows])
    (found,) = differences.filled(config.to_dict()["report"], PHASES)
    return found.headings, found.rows


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("70.66", 70.66), ("69.06%", 69.06), ("93.13*", 93.13), ("84.54±0.21", 84.54), ("~.725", 0.725),
        ("99.08 (99.2)", 99.08), ("78.9 79.3 78.7", pytest.approx(78.9667, abs=1e-4)), (".9107", 0.9107),
        ("-1.5", -1.5), ("", None), ("ResNet18", None), ("resnet8x4", None), ("50k", None),
        (".146 -> .123", None),
    ],
)  # fmt: skip
def test_numbers_are_read_as_papers_print_them(text, number):
    assert differences.printed(text) == number


@pytest.mark.parametrize("printed", ["70.66", "70.66%", "70.66 ± 0.2", "~.7066"])
def test_a_share_is_compared_in_points_however_it_is_printed(printed):
    headings, rows = table(["", "paper", "here"], ["KD", printed, ACCURACY])
    assert headings == ["", "paper", "here", "here − paper"]
    assert rows == [["KD", printed, "71.00% ± 1.41%", "+0.34"]]


def test_figures_that_are_no_shares_are_compared_as_they_are_unless_in_other_units():
    _, rows = table(["", "KL, paper", "accuracy", "KL"], ["a", ".5", "", KL], ["b", "53.3", "", KL])
    assert [row[4:] for row in rows] == [["−0.200"], [""]]


def test_columns_are_found_by_their_headings():
    columns = ["", "accuracy, paper", "KL, paper", "accuracy", "KL"]
    headings, rows = table(columns, ["a", "80.00", ".5", ACCURACY, KL])
    assert headings[3:] == ["accuracy", "here − accuracy, paper", "KL", "here − KL, paper"]
    assert rows[0][4::2] == ["−9.00", "−0.200"]


def test_several_columns_of_ours_stand_below_as_many_of_the_paper():
    top5 = measured("kd", "top5")
    headings, rows = table(
        ["", "0.3", "0.4", "here", "here"], ["a", "70.0", "80.0", ACCURACY, top5]
    )
    assert headings == ["", "0.3", "0.4", "here", "here − 0.3", "here", "here − 0.4"]
    assert rows[0][4::2] == ["+1.00", "+10.00"]


def test_rows_may_be_ours_and_the_papers():
    _, rows = table(["", "β = 0", "β = 1"], ["report", "73.47", ""], ["here", ACCURACY, ACCURACY])
    assert rows[2] == ["here − report", "−2.47", ""]


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        # Nothing of the paper, another network, parameters, and a cell of words and a figure.
        (["", "accuracy"], ["KD", ACCURACY]),
        (["model", "here"], ["resnet20", ACCURACY]),
        (["", "paper", "here"], ["KD", "0.5", "{kd[parameters]:.1f}"]),
        (["", "paper", "here"], ["KD", "70.0", f"about {ACCURACY}"]),
        (["", "paper", "here"], ["KD", "70.0", measured("absent")]),
    ],
)  # fmt: skip
def test_there_is_no_difference_where_nothing_stands_beside_ours(columns, row):
    headings, rows = table(columns, row)
    assert headings == columns
    assert len(rows) == 1
