"""Tables on narrow terminals: whole words, whole numbers, and all that a paper's table has."""

import io

import pytest
from rich.console import Console

from experiments.report.measured import measured
from experiments.report.tables import Cells, phase_table
from experiments.report.terminal import show_tables

TEST = {"accuracy": 0.8667, "nll": 0.512, "ece": 0.041, "agreement": 0.8647, "kl": 0.4831}


def phases(seeds=3):
    """The final table of the quick start, with the names of its phases."""
    results = {}
    for phase in ("teacher", "scratch", "kd", "function_matching"):
        for seed in range(seeds):
            test = {key: value + 0.01 * seed for key, value in TEST.items()}
            results[f"{phase}_seed{seed}"] = {
                "phase": phase, "model": "wrn_10_1", "parameters": 77562, "steps": 6000,
                "epochs": 160.0, "seconds": 10.0, "images_per_second": 2646.0, "test": test,
            }  # fmt: skip
    return measured({"phases": results})


def shown(table, width):
    console = Console(file=io.StringIO(), width=width)
    show_tables([table], console)
    return console.file.getvalue()


def words(table):
    return {word for row in (table.headings, *table.rows) for cell in row for word in cell.split()}


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_final_table_has_whole_words_and_numbers_on_any_terminal(width):
    table = phase_table(phases())
    printed = shown(table, width)
    lines = printed.splitlines()
    assert max(map(len, lines)) <= width
    drawn = printed.partition("(not shown")[0].replace("─", "")
    assert set(drawn.split()) <= words(table)
    # A number and its deviation are side by side.
    assert printed.count("87.67% ± 1.00%") == 4
    assert "160" in printed
    assert "function_matching" in printed


def test_what_is_left_out_of_a_narrow_table_is_said():
    table = phase_table(phases())
    assert "(not shown: " not in shown(table, 200)
    printed = shown(table, 80)
    assert "(not shown: " in printed
    assert all(heading in " ".join(printed.split()) for heading in table.headings)


def test_the_columns_of_a_wide_table_follow_below_beside_what_tells_rows_apart():
    columns = [f"figure {i}, of the paper" for i in range(9)]
    rows = [["WRN", name, *(f"{i}{i}.00% ± 1.{i}0%" for i in range(9))] for name in ("one", "two")]
    table = Cells("A [caption] of a table.", ["pair", "name", *columns], rows)
    printed = shown(table, 80)
    assert max(map(len, printed.splitlines())) <= 80
    assert all(printed.count(cell) == 2 for cell in rows[0][2:])
    # Each part says which row is which: both are called WRN.
    parts = printed.count("WRN") // 2
    assert parts > 1
    assert printed.count(" one ") == printed.count(" two ") == parts
    assert "A [caption] of a table." in printed
    assert words(table) <= set(printed.split())
