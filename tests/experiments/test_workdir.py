"""The names of run folders."""

import subprocess

import pytest

import kdjax
from configs import distill, recipes
from experiments import run, workdir


@pytest.mark.parametrize(
    ("module", "arg", "name"),
    [
        (distill, "methods=crd+kd,data=cifar10", "a-crd_kd-cifar10-"),
        (distill, "methods=kd", "a-kd-digits-"),
        (recipes, "mkd", "a-kd+more_teachers+1-digits-"),
    ],
)
def test_a_folder_says_what_was_run(module, arg, name):
    folder = workdir.default("a", run.resolve(module.get_config(arg)))
    assert folder.parts[0] == "runs"
    assert folder.name.startswith(name)


def test_another_config_has_another_folder_and_the_same_has_the_same():
    def folder(**changes):
        config = distill.get_config()
        config.update(changes)
        return workdir.default("distill", run.resolve(config))

    assert folder() == folder() == folder(devices=1)
    assert folder(seed=1) != folder()


def test_no_git_is_needed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert workdir.versions()["kdjax"] == kdjax.__version__


def test_the_commit_is_not_that_of_the_project_of_a_user(tmp_path, monkeypatch):
    """Installed, the code may lie in the repository of somebody else."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(workdir, "__file__", str(tmp_path / "site-packages/experiments/workdir.py"))
    assert workdir.versions()["kdjax"] == kdjax.__version__
