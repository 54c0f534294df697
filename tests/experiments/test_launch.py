"""Several processes that train together, really started."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import cli, launch
from experiments.log import read_metrics

# A run of tests/small_run.py; asked to, the second process kills itself in the middle of a phase.
CONFIG = """
import os, signal
from small_run import small_config
from experiments.log import Bar
from kdjax import processes

def get_config(arg=None):
    advance = Bar.advance
    def killed(self, step):
        if self.name == "scratch" and step == 3 and processes.index() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        advance(self, step)
    if arg == "killed":
        Bar.advance = killed
    return small_config()
"""


@pytest.mark.parametrize(
    ("items", "n", "expected"),
    [
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([3, 5, 7], 2, [[3], [5]]),
        ([4], 3, [[4], [4], [4]]),
        ([], 2, [[], []]),
    ],
)
def test_each_process_has_its_part(items, n, expected):
    assert launch.parts(items, n) == expected


def stand_in(code):
    """A process that runs some code in place of a run."""
    running = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    return launch.Process(running, None)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(launch, "_GRACE", 0.5)


FOREVER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def test_one_that_fails_ends_all_within_seconds_and_is_named(capsys):
    began = time.monotonic()
    assert launch.supervise([stand_in(FOREVER), stand_in("raise SystemExit(3)")]) == 3
    assert time.monotonic() - began < 30
    assert "process 1 of 2 ended with 3" in capsys.readouterr().err


def test_one_that_is_killed_is_named_with_its_signal(capsys):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert launch.supervise([stand_in(code), stand_in(FOREVER)]) == 128 + signal.SIGKILL
    assert "process 0 of 2 was ended by SIGKILL" in capsys.readouterr().err


def test_one_that_has_lost_another_is_not_the_one_that_is_named(capsys):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    lost = stand_in(f"raise SystemExit({cli.LOST})")
    lost.running.wait()
    assert launch.supervise([lost, stand_in(code)]) == 128 + signal.SIGKILL
    assert "process 1 of 2 was ended by SIGKILL" in capsys.readouterr().err


def test_a_mistake_that_all_of_them_find_is_not_reported_again(capsys):
    assert launch.supervise([stand_in("raise SystemExit(2)") for _ in range(2)]) == 2
    assert capsys.readouterr().err == ""


def test_all_of_them_may_end_well():
    assert launch.supervise([stand_in(""), stand_in("")]) == 0


def test_one_that_was_asked_to_stop_waits_for_the_others_to_save():
    saving = stand_in(f"import time; time.sleep({2 * launch._GRACE}); raise SystemExit(143)")
    assert launch.supervise([saving, stand_in("raise SystemExit(143)")]) == 143
    assert saving.running.returncode == 143


def run(*arguments):
    """A run on two processes with one device each."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=2", "device_count=1")
    return subprocess.run(
        [sys.executable, "-m", "experiments.launch", "--processes=2", "--", *arguments],
        env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def numbers(value):
    """All figures of a tree that do not depend on time."""
    if isinstance(value, dict):
        skipped = ("seconds", "images_per_second", "eta_seconds", "seconds_of")
        return [x for key in sorted(value.keys() - {*skipped}) for x in numbers(value[key])]
    if isinstance(value, list):
        return [x for inner in value for x in numbers(inner)]
    return [value] if isinstance(value, (int, float)) else []


def test_two_processes_end_as_one_with_two_devices_even_if_one_is_killed(finished, tmp_path):
    config, workdir = tmp_path / "small.py", tmp_path / "run"
    config.write_text(CONFIG)
    done = run(f"--config={config}:killed", f"--workdir={workdir}")
    assert done.returncode == 128 + signal.SIGKILL, done.stderr
    assert "process 1 of 2 was ended by SIGKILL" in done.stderr
    assert not (workdir / "summary.json").exists()

    done = run(f"--config={config}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "teacher is finished" in done.stdout
    assert "2 processes" in done.stdout

    def files(of):
        found = {path.relative_to(of) for path in of.rglob("*")}
        several = {"checkpoints", "tensorboard"}
        return {path for path in found if not several & {*path.parts} and path.name[0] != "."}

    assert files(workdir) == files(finished)
    for name in ("teacher", "scratch", "kd"):
        found, expected = (read_metrics(of / name / "metrics.jsonl") for of in (workdir, finished))
        np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-3, atol=1e-3)
    command = json.loads((workdir / "summary.json").read_text())["command"]
    assert "coordinator_address" not in command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_processes=2", "--process_id=0"], "are given together"),
        (["--distributed", "--coordinator_address=127.0.0.1:1"], "are given together"),
        (
            ["--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=2"],
            "process 2 of 2 at 127.0.0.1:1 cannot be connected",
        ),
    ],
)
def test_what_does_not_connect_is_one_line(arguments, message, tmp_path):
    config = tmp_path / "small.py"
    config.write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.main", f"--config={config}", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_number_of_processes_is_positive(capsys):
    with pytest.raises(launch.UserError, match="processes is 0: it is a positive number"):
        launch.main(["--processes=0", "--", "--config=configs/train.py"])


def test_each_process_needs_a_gpu_where_there_are_some(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(launch.UserError, match="processes is 2: there are 1 GPUs"):
        launch.start([], 2)


def test_the_command_of_a_run_says_nothing_of_its_processes():
    from experiments.main import without_processes

    given = ["--config=a.py", "--process_id", "1", "--num_processes=2", "--distributed", "--x=2"]
    assert without_processes(given) == ["--config=a.py", "--x=2"]
