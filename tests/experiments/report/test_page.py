"""The page about a run: what it shows, what it leaves out, and what it escapes."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from configs import common
from configs.tables import add_figure, add_table, measured
from experiments.report import page, predictions, runs, sections
from experiments.report.agreement import Prediction
from experiments.report.predictions import Compared, Predictions
from kdjax.data.sources import Split
from kdjax.types import UserError

CAPTION = "A <script>alert(1)</script> table & more."


def changed(finished, folder, change):
    """A copy of a finished run with another summary."""
    shutil.copytree(finished, folder)
    summary = json.loads((folder / "summary.json").read_text())
    change(summary)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def with_paper(summary):
    """Adds a paper's table and figure, and a command."""
    config = common.base()
    rows = [["KD", "70.66", measured("kd")], ["<i>", "", ""]]
    add_table(config, "one", caption=CAPTION, columns=["", "paper", "here"], rows=rows)
    series = {"here": {0.0: measured("scratch"), 1.0: measured("kd")}, "a paper": {0.5: 0.7}}
    add_figure(config, "two", caption="A figure.", x_label="weight", series=series)
    summary["config"]["report"] = config.to_dict()["report"]
    summary["command"] = "python -m experiments.main --config=a.py '--config.x=<b>'"


@pytest.fixture(scope="module")
def described(finished, tmp_path_factory):
    folder = changed(finished, tmp_path_factory.mktemp("report") / "<run>", with_paper)
    return page.describe(runs.read(folder))


def test_the_networks_predict_what_the_run_has_measured(described):
    tests = {name: one["test"] for name, one in described.run.summary["phases"].items()}
    assert described.left_out == described.remark == ""
    kd = {one.phase: one for one in described.students}["kd"]
    images = kd.images
    assert np.trace(kd.confusion.counts) == round(tests["kd"]["agreement"] * images)
    assert kd.confusion.counts.sum() == images
    assert kd.outcomes.both + kd.outcomes.student == pytest.approx(tests["kd"]["accuracy"])
    assert kd.outcomes.both + kd.outcomes.teacher == pytest.approx(tests["teacher"]["accuracy"])
    assert 1 - kd.apart == pytest.approx(tests["kd"]["agreement"])
    # The mean over classes, weighted by their images.
    headings, rows = described.per_class.headings, described.per_class.rows
    share = np.array([[float(cell.strip("%")) for cell in row[2:]] for row in rows])
    counts = np.array([int(row[1]) for row in rows])
    weighted = dict(zip(headings[2:], counts @ share / counts.sum(), strict=True))
    assert weighted["kd"] == pytest.approx(100 * tests["kd"]["accuracy"], abs=0.1)


def test_all_parts_are_on_the_page_and_nothing_of_it_is_code(described):
    text = page.html([described])
    for part in (
        "Results", "Curves", "Fidelity against accuracy", "Teacher and student", "Accuracy by class",
        "here − paper", "Images on which kd and teacher disagree", "A figure.", "data:image/png;base64,",
        "A &lt;script&gt;alert(1)&lt;/script&gt; table &amp; more.", "&lt;i&gt;",
        "<title>&lt;run&gt;", "--config.x=&lt;b&gt;",
    ):  # fmt: skip
        assert part in text, part
    assert "<script" not in text
    # Nothing is fetched.
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "@import" not in text
    assert "url(h" not in text


def test_the_markdown_has_the_tables(described):
    text = page.markdown([described])
    accuracy = described.run.summary["phases"]["kd"]["test"]["accuracy"]
    difference = f"{100 * accuracy - 70.66:+.2f}".replace("-", "−")
    assert f"| KD | 70.66 | {accuracy:.2%} | {difference} |" in text
    for part in ("# <run>", "### Accuracy by class", "| teacher's class |", "- Command: `python"):
        assert part in text


def test_several_runs_are_compared_first(described):
    text = page.html([described, described])
    assert text.index("Comparison") < text.index('<details class="run">')
    assert text.count('<details class="run">') == 2
    table = page.compared([described.run] * 2)
    assert [row[0] for row in table.rows] == ["<run>"] * 6
    assert "## Comparison" in page.markdown([described, described])


def test_without_the_data_the_tables_are_shown_and_it_is_said_why(finished, tmp_path):
    def elsewhere(summary):
        summary["config"]["data"]["name"] = "npz:gone.npz"

    run = runs.read(changed(finished, tmp_path / "run", elsewhere))
    one = page.describe(run)
    assert "gone.npz" in one.left_out
    text = page.html([one])
    assert "images are left out. The networks could not be evaluated: no such file" in text
    assert "Results" in text
    assert "Accuracy by class" not in text
    asked = page.describe(run, tables_only=True)
    assert asked.left_out == page.TABLES_ONLY


def test_networks_that_are_not_those_of_the_summary_are_remarked_on(finished, tmp_path):
    def better(summary):
        summary["phases"]["kd"]["test"]["accuracy"] = 1.0

    one = page.describe(runs.read(changed(finished, tmp_path / "run", better)))
    assert re.search(r"kd is right on \d+\.\d+% of the images here, and on 100.00%", one.remark)
    assert one.remark in page.html([one])


def test_an_unfinished_run_shows_what_it_has(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "scratch")
    (folder / "kd/result.json").unlink()
    one = page.describe(runs.read(folder))
    assert one.facts[0] == ("State", "not finished: phases without a result are left out")
    assert [row[0] for row in one.results.rows] == ["teacher"]
    assert one.students == []
    (folder / "teacher/result.json").unlink()
    with pytest.raises(UserError, match="has no finished phase yet"):
        page.describe(runs.read(folder))


class _Images:
    """A test split of four images of one pixel."""

    def __init__(self, labels):
        images = np.zeros((len(labels), 1, 1, 3), np.uint8)
        self.split, self.labels = Split(images, np.array(labels)), np.array(labels)

    def __len__(self):
        return len(self.labels)


def test_of_many_classes_those_are_shown_that_differ_most():
    labels = np.arange(100) % 50
    teacher = Prediction(labels, np.ones(100, np.float32))
    wrong = np.where(labels == 7, 9, labels)
    student = Compared("kd", Prediction(wrong, np.ones(100, np.float32)), teacher, ("a/teacher",))
    names = [f"class {i}" for i in range(50)]
    found = Predictions(_Images(labels), 50, names, {"kd": [student]}, {"a/teacher": teacher})
    table = sections.per_class(found)
    assert "The 20 of 50 classes" in table.caption
    assert ["class 7", "2", "100.0%", "0.0%"] in table.rows
    (one,) = sections.students(found)
    assert one.confusion.picture.startswith("data:image/png")
    assert [(pair.teacher, pair.student, pair.images) for pair in one.confusion.pairs] == [
        (7, 9, 2)
    ]
    assert one.outcomes.teacher == pytest.approx(0.02)
    assert {example.label for example in one.examples} == {"class 7"}


def test_without_labels_nobody_is_right():
    own = Prediction(np.array([0, 1]), np.ones(2, np.float32))
    teacher = Prediction(np.array([1, 1]), np.ones(2, np.float32))
    members = {"kd": [Compared("kd", own, teacher, ("t",))]}
    found = Predictions(_Images([-1, -1]), 2, ["cat", "dog"], members, {})
    (one,) = sections.students(found)
    assert one.outcomes is None
    assert one.apart == 0.5
    assert [(e.label, e.teacher, e.student) for e in one.examples] == [("", "dog", "cat")]
    assert sections.per_class(found).rows == []


def test_names_of_classes_are_those_of_the_network(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    names = [f"digit {i}" for i in range(10)]
    file = folder / "teacher/network.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"class_names": names}))
    found = predictions.predict(runs.read(folder))
    assert found.class_names == names


def test_a_folder_that_is_no_run_is_refused(finished, tmp_path):
    with pytest.raises(UserError, match=r"is not a run folder, which has a config\.json$"):
        runs.read(tmp_path)
    with pytest.raises(UserError, match="it is a phase of the run"):
        runs.read(finished / "kd")


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "experiments.report", "--trust=small_run", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=cwd,
    )  # fmt: skip


def test_the_command_writes_a_page_and_markdown(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    done = command(folder, "--tables_only", cwd=".")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{folder / 'report.html'}, {folder / 'report.md'}\n"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert "| kd |" in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run given"),
        (["{run}", "--out=report.pdf"], "its name ends in .html"),
    ],
)
def test_a_mistake_is_one_line(finished, arguments, message):
    done = command(*(one.format(run=finished) for one in arguments), cwd=".")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_run_of_an_earlier_version_is_shown_as_far_as_it_got(tmp_path):
    with zipfile.ZipFile(Path(__file__).parents[1] / "old_run/run.zip") as archive:
        archive.extractall(tmp_path)
    one = page.describe(runs.read(tmp_path))
    assert one.left_out == ""
    ((name, model, parameters, length, *_),) = one.results.rows
    assert (name, model, parameters, length) == ("teacher", "resnet8", "1,054", "6 steps")
    assert one.facts[0][0] == "State"
