"""The tables of a paper beside what a run measured."""

import io
import json

import pytest
from rich.console import Console
from small_run import execute, small_config

from configs import common
from configs.tables import add_table, measured
from experiments import report

FIGURES = {
    "model": "resnet8", "parameters": 1, "steps": 1, "seconds": 1.0, "images_per_second": 1.0,
    "test": {},
}  # fmt: skip


def _described(*rows):
    config = common.base()
    columns = [str(i) for i in range(len(rows[0]))]
    add_table(config, "t", caption="A table.", columns=columns, rows=list(rows))
    return config


def _filled(config, members):
    """The rows of the config's table; `members` has results by phase and name."""
    phases = {
        name: {**FIGURES, "phase": phase, **result} for (phase, name), result in members.items()
    }
    summary = {"config": config.to_dict(), "phases": phases}
    return report.tables(summary)[1].rows


def test_cells_are_this_runs_figures_in_the_form_asked_for():
    config = _described(
        ["KD", "70.66", measured("kd")],
        ["KL", "", measured("kd", "kl", ".3f", split="train")],
    )
    members = {("kd", "kd"): {"test": {"accuracy": 0.7071}, "train": {"kl": 0.12345}}}
    assert _filled(config, members) == [["KD", "70.66", "70.71%"], ["KL", "", "0.123"]]


def test_seeds_of_a_phase_are_mean_and_deviation():
    config = _described([measured("kd")])
    members = {
        ("kd", f"kd_seed{i}"): {"test": {"accuracy": a}} for i, a in enumerate((0.7, 0.8, 0.9))
    }
    assert _filled(config, members) == [["80.00% ± 10.00%"]]


def test_errors_are_one_minus_what_was_measured_for_each_seed():
    config = _described([measured("kd", "error"), measured("kd", "disagreement")])
    members = {("kd", f"kd_seed{i}"): {"test": {"accuracy": a}} for i, a in enumerate((0.7, 0.9))}
    assert _filled(config, members) == [["20.00% ± 14.14%", ""]]


@pytest.mark.parametrize("result", [None, {}, {"test": {"kl": 0.1}}])
def test_a_figure_that_was_not_measured_is_an_empty_cell(result):
    members = {} if result is None else {("kd", "kd"): result}
    assert _filled(_described([measured("kd")]), members) == [[""]]


def test_what_is_in_brackets_is_printed():
    """Levels, for example, would be markup of the console."""
    config = common.base()
    add_table(
        config, "t", caption="Levels [h].", columns=["[h, 4]"], rows=[["[h, h/2]"]]
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=80)
    report.show({"config": config.to_dict(), "phases": {}}, console)
    printed = console.file.getvalue()
    assert all(text in printed for text in ("Levels [h].", "[h, 4]", "[h, h/2]"))


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="1 columns, but a row of"):
        _described(["a"], ["a", "b"])


def test_a_run_prints_its_tables_writes_them_and_does_not_depend_on_them(tmp_path):
    def config(caption):
        config = small_config()
        del config.phases["scratch"], config.phases["kd"]
        row = ["Teacher", "73.04%", measured("teacher")]
        columns = ["network", "paper", "here"]
        add_table(config, "one", caption=caption, columns=columns, rows=[row])
        return config

    summary, printed = execute(config("Table 1 of a paper."), tmp_path / "run")
    accuracy = f"{summary['phases']['teacher']['test']['accuracy']:.2%}"
    written = (tmp_path / "run/table.md").read_text()
    assert written.startswith("| phase | model |")
    assert written.endswith(
        "\n\nTable 1 of a paper.\n\n| network | paper | here |\n| --- | --- | ---: |\n"
        f"| Teacher | 73.04% | {accuracy} |\n"
    )
    assert "Table 1 of a paper." in printed
    assert json.loads((tmp_path / "run/config.json").read_text())["report"]["one"]["rows"]
    _, again = execute(config("Table 1, once more."), tmp_path / "run")
    assert "Table 1, once more." in again
    assert accuracy in again


def _lengths(*results):
    """The column of epochs for phases of one member each."""
    phases = {str(i): {**FIGURES, "phase": str(i), **result} for i, result in enumerate(results)}
    table = report.tables({"config": {"report": {}}, "phases": phases})[0]
    i = list(table.headings).index("epochs")
    return [row[i] for row in table.rows]


def test_a_table_says_how_long_each_phase_was_trained():
    assert _lengths(
        {"steps": 9000, "epochs": 160.02}, {"steps": 57, "epochs": 3.04}, {"epochs": 1200.0},
        # Without data, or of an earlier version; and a network that was only loaded.
        {"steps": 80000}, {"steps": 0},
    ) == ["160", "3", "1,200", "80,000 steps", ""]  # fmt: skip


def test_seeds_that_ended_at_different_epochs_have_a_deviation():
    phases = {
        f"{phase}_seed{i}": {**FIGURES, "phase": phase, "epochs": epochs}
        for phase, both in {"same": (60.0, 60.0), "early": (20.0, 40.0)}.items()
        for i, epochs in enumerate(both)
    }
    rows = report.tables({"config": {"report": {}}, "phases": phases})[0].rows
    assert [row[3] for row in rows] == ["60", "30 ± 14"]
    # One program has one speed.
    assert rows[0][-2] == "1"
