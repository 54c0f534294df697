"""Figures in text: what is filled in, and what a cell cannot reach."""

import pytest
from small_run import refusal, small_config

from configs.tables import add_table
from experiments import cells
from experiments.report.measured import Figures, Phases

PHASES = Phases(
    kd=Figures(
        [
            {"test": {"accuracy": 0.5, "nll": None}, "parameters": 1234, "model": "lenet"},
            {"test": {"accuracy": 0.7, "nll": None}, "parameters": 1234, "model": "lenet"},
        ]
    )
)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("{kd[test][accuracy]:.1%}", "60.0% ± 14.1%"),
        ("KD: {kd[test][error]:.2f}", "KD: 0.40 ± 0.14"),
        ("{kd[parameters]:,}", "1,234 ± 0.0"),
        ("{other[test][accuracy]:.2%}", ""),
        ("{kd[test][other]:.2%}", ""),
        ("{kd[test]:.2%}{kd[model]}{kd[test][accuracy][deeper]}", ""),
        ("{kd[test][nll]:.3f}", ""),
        ("90.33", "90.33"),
    ],
)
def test_figures_are_filled_in_where_there_are_any(cell, expected):
    assert cells.Cell().fits(cell)
    assert cells.fill(cell, PHASES) == expected


@pytest.mark.parametrize(
    "cell",
    [
        "{kd.values}", "{kd.__class__.__init__.__globals__}", "{kd[test].values}", "{kd!r}", "{kd}",
        "{kd[test][accuracy]:999999999}", "{kd[test][accuracy]:.999999999f}",
        "{kd[test][accuracy]:{width}}", "{", "}", "{}", 5, None,
    ],
)  # fmt: skip
def test_nothing_else_is(cell):
    assert not cells.Cell().fits(cell)
    if isinstance(cell, str):
        assert cells.fill(cell, PHASES) == cell


def test_values_of_points_are_numbers_or_one_figure():
    assert cells.values(0.25, PHASES) == [0.25]
    assert cells.values("{kd[test][accuracy]:.2%}", PHASES) == [0.5, 0.7]
    fits = cells.Lines().fits
    assert fits((("ours", ((1, "{kd[test][accuracy]:.2%}"), (2.0, 0.5))),))
    for value in (
        (("a", ((1,),)),),
        (("a", ((1, "text"),)),),
        ((5, ()),),
        "ab",
        (("a", ((1, None),)),),
    ):
        assert not fits(value)


def test_a_table_of_a_config_is_looked_at_before_anything_is_written(tmp_path):
    config = small_config()
    table = {"caption": "A table.", "columns": ["", "here"]}
    add_table(config, "table", **table, rows=[["kd", "{kd.values}"]])
    line = refusal(config, tmp_path / "run")
    assert line.startswith("report.table.rows is")
    assert "text with figures such as {kd[test][accuracy]:.2%}" in line
    add_table(config, "table", **table, rows=[["kd", ""]])
    config.report.table.rows = [["kd"]]
    line = refusal(config, tmp_path / "run")
    assert line == "report.table.rows has a row of another length than its columns"
    del config.report.table.rows
    assert refusal(config, tmp_path / "run") == "report.table.rows is missing"
