"""The console command and what is installed."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import kdjax
from experiments import command, main, usage

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]


def run(*arguments, cwd=None):
    code = "import sys; from experiments.command import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False,
        cwd=cwd,
    )  # fmt: skip


def test_every_command_is_a_module():
    for module in command.COMMANDS.values():
        assert importlib.util.find_spec(f"experiments.{module}") is not None


def test_help_says_what_each_command_does(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kdjax", "--help"])
    assert command.main() == 0
    printed = capsys.readouterr().out
    assert "  train              Trains and distils as a config describes." in printed
    assert "  runs               Lists runs, or compares some of them." in printed


def test_mistakes_and_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kdjax", "trian"])
    assert command.main() == 2
    assert "error: unknown command 'trian': choose from train, " in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["kdjax", "--version"])
    assert command.main() == 0
    assert capsys.readouterr().out == f"kdjax {kdjax.__version__}\n"


def test_configs_are_found_outside_of_the_repository(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    argv = ["kdjax train", "--config=configs/distill.py:data=digits"]
    assert main.prepare(argv) == 0
    assert argv[1] == f"--config={usage.CONFIGS / 'distill.py'}:data=digits"
    assert main.prepare(["kdjax train", "--config=configs/nothing.py"]) == 2
    assert "no such config: 'configs/nothing.py'" in capsys.readouterr().err
    # A file of one's own takes precedence.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "distill.py").write_text("")
    argv = ["kdjax train", "--config=configs/distill.py"]
    assert main.prepare(argv) == 0
    assert argv[1] == "--config=configs/distill.py"


def test_a_command_runs_outside_of_the_repository(tmp_path):
    done = run("models", "wrn_16_2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "703,284" in done.stdout


def test_the_project_is_described():
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in Path("LICENSE").read_text()
    assert PROJECT["scripts"]["kdjax"] == "experiments.command:main"
    assert f"version: {kdjax.__version__}" in Path("CITATION.cff").read_text()
    assert Path("kdjax/py.typed").exists()
