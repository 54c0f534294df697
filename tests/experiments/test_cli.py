"""The command line: exit statuses and the one line on stderr."""

import json
import os
import pty
import subprocess
import sys

import pytest

from experiments import cli


def command(*arguments, module="experiments.main"):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config must have a value"),
        (
            ["--config=configs/nothing.py"],
            "no such config: 'configs/nothing.py': choose from configs/choices.py, ",
        ),
        (["--config=configs/distill.py:data=cifar11"], "choose from digits, cifar10, cifar100, "),
        (["--config=configs/distill.py:studnt=x"], "unknown config argument 'studnt'"),
        (["--config=configs/distill.py", "--config.data.nam=x"], "unknown config key 'nam'"),
        (["--config=configs/distill.py", "--config.train.epochs=ten"], "--config.train.epochs=ten"),
        (
            ["--config=configs/distill.py", "--config.train.accumulate=2"],
            "config key train.accumulate is now train.grad_accum_steps",
        ),
        (["--config=configs/distill.py", "--wrkdir=x"], "Unknown command line flag 'wrkdir'"),
        (["--config=configs/distill.py", "x"], "unexpected argument 'x'"),
        (
            ["--config=configs/distill.py", "--config.data.name=npz:no.npz"],
            "no such file: 'no.npz'",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message):
    done = command(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_split_that_the_data_does_not_have_is_refused(finished):
    done = command(f"--a={finished / 'kd'}", "--split=foo", module="experiments.evaluate")
    assert done.returncode == 2
    assert "data set 'digits' has no split 'foo': it has train, test" in done.stderr


def test_help_is_the_commands_own_text():
    done = command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m experiments.main --config=" in done.stdout
    assert "--workdir" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "configs/distill.py" in line]
    assert "Any teacher, student, objective and data set." in line
    assert "configs/common.py" not in done.stdout


def test_help_lists_the_keys_of_a_config():
    done = command("--config=configs/distill.py:student=vgg8", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config.data.name='digits'" in done.stdout
    assert "--config.train.optimizer.momentum=0.9" in done.stdout
    assert "one of teacher, scratch, kd" in done.stdout
    unknown = command("--config=configs/distill.py:studnt=vgg8", "--help")
    assert unknown.returncode == 2
    assert "unknown config argument 'studnt'" in unknown.stderr


def test_evaluate_prints_json_and_compares(finished):
    done = command(
        f"--a={finished / 'kd'}",
        f"--b={finished / 'teacher'}",
        "--trust=small_run",
        module="experiments.evaluate",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    expected = json.loads((finished / "summary.json").read_text())["phases"]["kd"]["test"]
    assert result["images"] == 596
    assert result["a"]["accuracy"] == expected["accuracy"]
    for key in ("agreement", "agreement_top5"):
        assert result[key] == expected[key]
    assert result["kl"] == pytest.approx(expected["kl"], rel=1e-5)


def test_evaluate_refuses_a_run_where_a_phase_is_meant(finished):
    done = command(f"--a={finished}", "--data=digits", module="experiments.evaluate")
    assert done.returncode == 2
    assert "name one of its phases, kd, scratch, teacher" in done.stderr


def test_a_signal_is_acknowledged_at_once_on_a_terminal():
    script = """
import os, signal
from experiments import cli
with cli.stop_signals() as stop:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    assert stop() == signal.SIGINT
"""
    terminal, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", script], stderr=theirs, check=False)
    os.close(theirs)
    assert done.returncode == 0
    assert os.read(terminal, 1000).count(b"stopping: what is due") == 1
    os.close(terminal)


def test_what_a_message_quotes_does_not_control_the_terminal(capsys):
    assert cli.fail("keys are \x1b[2Jx\x07, \u202ey\nz") == 2
    assert capsys.readouterr().err == "error: keys are \\x1b[2Jx\\x07, \\u202ey z\n"


def test_long_messages_are_cut(capsys):
    cli.fail("key " * 200_000)
    printed = capsys.readouterr().err
    assert len(printed) < 5000
    assert printed.endswith("more characters)\n")


def test_a_closed_output_is_one_line(tmp_path):
    """As with `| head`."""
    code = (
        "import sys\n"
        "from experiments import cli\n"
        "def main():\n"
        "    console = cli.Console()\n"
        "    for i in range(100_000):\n"
        "        console.print(f'line {i}')\n"
        "sys.exit(cli.start(main, ['x']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        printed = process.stderr.read()
        assert process.wait() == 2
    assert printed == "error: the output was closed; the same command resumes a run\n"


def test_ctrl_c_while_modules_are_imported_is_one_line():
    # What is started in the background ignores the signal, and so do the tests then.
    code = (
        "import signal, os; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import experiments, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr == "stopped by SIGINT\n"
