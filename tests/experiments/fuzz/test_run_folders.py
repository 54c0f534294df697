"""Damaged files in a run folder: what reads them works, or refuses them with one line."""

import io
import shutil

import pytest
from damage import damaged, damaged_json, read_or_refused
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from small_run import execute, small_config

from experiments import report, runs
from experiments.log import read_metrics
from experiments.report import page
from experiments.report.runs import read
from kdjax import checkpoint, networks

JSON = ("config.json", "summary.json", "kd/result.json", "kd/network.json")


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(finished, folder)
    return folder


@pytest.fixture(scope="module")
def files(finished):
    return {name: (finished / name).read_bytes() for name in JSON}


class put:
    """Context in which a file has another content; a summary is there only if it is that."""

    def __init__(self, run, name, content):
        self.run, self.name, self.content = run, name, content

    def __enter__(self):
        self.before = {name: (self.run / name).read_bytes() for name in {self.name, "summary.json"}}
        if self.name != "summary.json":
            (self.run / "summary.json").unlink()
        (self.run / self.name).write_bytes(self.content)

    def __exit__(self, *_):
        for name, content in self.before.items():
            (self.run / name).write_bytes(content)


def show(folder):
    """Everything that is shown of a run in text."""
    found = read(folder)
    console = Console(file=io.StringIO(), width=80)
    report.show_tables([runs.listed([found])], console)
    report.show_tables(runs.compared([found, found]), console)
    report.show(found.summary, console)
    return report.markdown(found.summary)


@pytest.mark.parametrize("name", JSON)
@given(data=st.data())
def test_listing_and_tables(run, files, name, data):
    with put(run, name, data.draw(damaged_json(files[name]))):
        read_or_refused(show, run)


@pytest.mark.parametrize("name", ["summary.json", "config.json"])
@given(data=st.data())
def test_pages(run, files, name, data):
    with put(run, name, data.draw(damaged_json(files[name]))):
        read_or_refused(lambda: page.html([page.describe(read(run), tables_only=True)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", JSON)
@settings(max_examples=40)
@given(data=st.data())
def test_going_on(run, files, name, data):
    with put(run, name, data.draw(damaged_json(files[name]))):
        read_or_refused(execute, small_config(), run)


@given(data=st.data())
def test_networks(run, files, data):
    with put(run, "kd/network.json", data.draw(damaged_json(files["kd/network.json"]))):
        read_or_refused(networks.load, str(run / "kd"))


@given(data=st.data())
def test_logs(finished, tmp_path_factory, data):
    content = (finished / "kd" / "metrics.jsonl").read_bytes()
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    path.write_bytes(data.draw(damaged(content)))
    known = set(content.splitlines())
    assert all(isinstance(row["step"], int) for row in read_metrics(path))
    assert len(known & set(path.read_bytes().splitlines())) <= len(read_metrics(path))


@given(data=st.data())
def test_checkpoints(finished, tmp_path_factory, data):
    """A damaged checkpoint is refused; it never holds other numbers."""
    source = finished / "teacher" / "checkpoints"
    folder = tmp_path_factory.mktemp("checkpoints") / "copy"
    shutil.copytree(source, folder)
    stored = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    chosen = data.draw(st.sampled_from(stored))
    chosen.write_bytes(data.draw(damaged(chosen.read_bytes())))
    expected = _arrays(source)
    found = read_or_refused(_arrays, folder)
    shutil.rmtree(folder.parent)
    if not isinstance(found, str):
        for step, arrays in found.items():
            assert arrays.keys() == expected[step].keys()
            assert all((arrays[key] == expected[step][key]).all() for key in arrays)


def _arrays(folder):
    with_steps = checkpoint.Checkpoints(folder, read_only=True)
    return {step: with_steps.read(step)[0] for step in with_steps.steps()}
