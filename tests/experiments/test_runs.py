"""What is said of several runs."""

import json
import shutil

import pytest
from small_run import small_config

from experiments import runs
from experiments.run import resolve
from kdjax import UserError


@pytest.fixture
def folder(finished, tmp_path):
    """A finished run, and one of another config that was stopped after its first phase."""
    shutil.copytree(finished, tmp_path / "first")
    shutil.copytree(finished, tmp_path / "second")
    (tmp_path / "second" / "summary.json").unlink()
    for name in ("scratch", "kd"):
        (tmp_path / "second" / name / "result.json").unlink()
    shutil.rmtree(tmp_path / "second" / "kd")
    config = small_config()
    config.phases.kd.objective.kd.temperature = 9.0
    text = json.dumps(resolve(config).to_dict())
    (tmp_path / "second" / "config.json").write_text(text)
    return tmp_path


def test_runs_are_listed_with_their_accuracies_and_how_far_they_are(folder):
    summary = json.loads((folder / "first" / "summary.json").read_text())
    accuracy = summary["phases"]["kd"]["test"]["accuracy"]
    found = {path.name: runs.read(path) for path in (folder / "first", folder / "second")}
    assert runs.state(found["first"]) == "finished"
    assert runs.state(found["second"]) == "scratch, step 6"
    rows = {row[0]: row for row in runs.listed(list(found.values())).rows}
    assert f"kd {accuracy:.2%}" in rows[str(folder / "first")][1]
    assert "kd" not in rows[str(folder / "second")][1]


def test_what_differs_is_shown_and_nothing_else(folder):
    config, results = runs.compared([runs.read(folder / name) for name in ("first", "second")])
    assert config.rows == [["phases.kd.objective.kd.temperature", "4.0", "9.0"]]
    (kd,) = [row for row in results.rows if row[0] == "kd: test accuracy"]
    assert kd[1].endswith("%")
    assert kd[2] == ""
    (teacher,) = [row for row in results.rows if row[0] == "teacher: test accuracy"]
    assert teacher[1] == teacher[2] != ""


def test_a_run_does_not_differ_from_itself(finished):
    config, _ = runs.compared([runs.read(finished)] * 2)
    assert config.rows == [["no difference", "", ""]]


def test_mistakes_are_one_line(finished, tmp_path, capsys):
    with pytest.raises(UserError, match=r"is not a run folder, which has a config\.json"):
        runs.read(tmp_path)
    for arguments, message in (
        ([str(tmp_path)], "there are no runs in"),
        ([str(tmp_path / "nowhere")], "no such folder: "),
        ([str(finished), str(tmp_path)], "is not a run folder"),
        (["--nothing"], "unrecognized arguments: --nothing"),
    ):
        assert runs.main(arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert message in line


def test_the_command_prints_a_table(folder, capsys):
    assert runs.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "finished" in printed
    assert "scratch, step 6" in printed


def test_a_damaged_run_is_named_below_the_others(folder, capsys):
    (folder / "second" / "config.json").write_text("[]")
    assert runs.main([str(folder)]) == 0
    printed = "".join(capsys.readouterr().out.split())
    assert str(folder / "first") in printed
    expected = (
        f"left out: {str(folder / 'second' / 'config.json')!r} is damaged: it holds no object"
    )
    assert "".join(expected.split()) in printed
