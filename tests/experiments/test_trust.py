"""A run folder may come from anybody: code that its files name is neither imported nor called."""

import json
import shutil

import pytest

import kdjax
from experiments import prediction
from experiments.report import predictions, runs
from kdjax import UserError, networks, references

# Leaves a trace when it is imported, and another one when it is called.
PLANTED = """
from pathlib import Path

HERE = Path(__file__).parent
(HERE / "imported").touch()

def run(*args, **kwargs):
    (HERE / "called").touch()
"""


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A run folder in whose surroundings lies a module that the path leads to."""
    monkeypatch.setattr(references, "_trusted", {"small_run"})
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "planted.py").write_text(PLANTED)
    (tmp_path / "file.pth").touch()
    shutil.copytree(finished, tmp_path / "run")
    yield tmp_path / "run"
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "called").exists()


def change(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def assert_refused(name, call, *args):
    with pytest.raises(UserError, match=f"{name!r} is code.*--trust={name.split(':')[0]}") as error:
        call(*args)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [("planted:run", {}), ("os:system", {"command": "touch called"}), ("builtins:exec", {})],
)
def test_the_model_of_a_phase(run, name, options):
    change(run / "kd/network.json", lambda one: one.update(model=name, options=options))
    for load in (networks.load, kdjax.load):
        assert_refused(name, load, str(run / "kd"))


def test_the_model_of_a_teacher_that_is_looked_up(run):
    change(run / "teacher/network.json", lambda one: one.update(model="planted:run"))
    assert_refused("planted:run", prediction.load_networks, str(run / "kd"), "auto")


@pytest.mark.parametrize(
    "name", ["planted:run", "domains:plain:planted:run", "domains:texture:digits@planted:run"]
)
@pytest.mark.parametrize("group", ["data", "evaluation"])
def test_the_data_of_a_run(run, group, name):
    (run / "summary.json").unlink()
    change(run / "config.json", lambda one: one[group].update(name=name))
    assert_refused("planted:run", predictions.predict, runs.read(run))


def test_data_sets_that_are_programs_of_others(run):
    (run / "summary.json").unlink()
    change(run / "config.json", lambda one: one["data"].update(name="tfds:planted:run"))
    assert_refused("tfds:planted:run", predictions.predict, runs.read(run))


def test_a_teacher_from_a_file(run):
    teacher = f"planted:run={run.parent / 'file.pth'}"
    (run / "summary.json").unlink()
    change(run / "config.json", lambda one: one["phases"]["kd"].update(teachers=[teacher]))
    assert_refused("planted:run", predictions.predict, runs.read(run))


def test_a_model_that_the_caller_names_is_that_of_the_folder(run):
    change(run / "kd/network.json", lambda one: one.update(model="planted:run"))
    with pytest.raises(UserError, match="has model planted:run, but small_run:Tiny is needed here"):
        networks.load(str(run / "kd"), model="small_run:Tiny")
    references.trust("planted:other")
    assert_refused("planted:run", networks.load, str(run / "kd"))


def test_what_is_trusted_is_loaded(run):
    assert networks.load(str(run / "kd")).name == "small_run:Tiny"
    references._trusted.clear()
    assert_refused("small_run:Tiny", networks.load, str(run / "kd"))
    references.trust("small_run:Tiny")
    assert networks.load(str(run / "kd")).name == "small_run:Tiny"


def test_the_name_of_a_folder_vouches_for_nothing(run, monkeypatch):
    """A folder may be called as if somebody had written MODEL=FOLDER."""
    change(run / "kd/network.json", lambda one: one.update(model="planted:run"))
    shutil.copytree(run / "kd", run / "planted:run=kd")
    monkeypatch.chdir(run)
    for load in (networks.load, kdjax.load):
        assert_refused("planted:run", load, "planted:run=kd")
