"""The run folder, resuming after an interruption, and errors."""

import collections
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from rich.console import Console
from small_run import execute, refusal, small_config

from configs import common, methods
from experiments import cli, data, report, run, workdir
from experiments.log import read_metrics
from experiments.tasks import Supervised
from kdjax import checkpoint, networks, train
from kdjax.types import UserError

METRICS = {"accuracy", "top5", "nll", "ece"}
TIMES = ("images_per_second", "eta_seconds", "seconds", "seconds_of")


def untimed(value):
    """Without the figures that differ from run to run."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in TIMES}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def snapshot(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_the_run_folder_holds_what_is_promised(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert list(summary["phases"]) == ["teacher", "scratch", "kd"]
    assert summary["seed"] == 0
    assert {"jax", "flax", "optax", "orbax-checkpoint"} <= set(summary["versions"])
    kd = summary["phases"]["kd"]
    assert kd["model"] == "small_run:Tiny"
    assert kd["parameters"] == 9 * (16 + 2 * 16**2) + 2 * 3 * 16 + (16 * 8**2 + 1) * 10
    assert kd["steps"] == 6
    assert set(kd["seconds_of"]) == {"steps", "data", "evaluation", "logging", "checkpoints"}
    assert 0 < kd["seconds_of"]["data"] < sum(kd["seconds_of"].values()) < kd["seconds"]
    taught = METRICS | {"agreement", "agreement_top5", "kl", "teacher_accuracy"}
    taught |= {"loss/kd", "loss/cross_entropy"}
    running = {"running_agreement", "running_kl"}
    assert (set(kd["train"]), set(kd["test"])) == (taught | running, taught | {"best_accuracy"})
    alone = METRICS | {"loss/cross_entropy"}
    assert set(summary["phases"]["teacher"]["test"]) == alone | {"best_accuracy"}
    assert kd["test"]["accuracy"] * 596 == pytest.approx(round(kd["test"]["accuracy"] * 596))
    assert kd["test"]["teacher_accuracy"] == summary["phases"]["teacher"]["test"]["accuracy"]
    assert json.loads((finished / "config.json").read_text()) == summary["config"]
    network = json.loads((finished / "kd/network.json").read_text())
    assert network["class_names"] == list("0123456789")
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    rows = read_metrics(finished / "kd" / "metrics.jsonl")
    assert rows[-1]["step"] == 6
    assert kd["test"]["best_accuracy"] == max(row.get("test/accuracy", 0) for row in rows)
    assert {"epoch", "images_per_second", "train/loss", "train/kd", "test/agreement"} <= set(
        rows[-1]
    )
    assert any(file.name.startswith("events") for file in (finished / "kd/tensorboard").iterdir())


def test_the_reported_accuracy_is_that_of_the_stored_network(finished):
    trained = networks.load(str(finished / "kd"))
    digits = data.read("digits")
    pixels = digits.splits["test"].split.images / 255.0
    logits = trained.network.evaluate(trained.variables, pixels.astype(np.float32)).logits
    correct = int(np.sum(np.argmax(logits, -1) == digits.splits["test"].labels))
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["phases"]["kd"]["test"]["accuracy"] == correct / 596


def test_a_finished_run_says_so_and_changes_nothing(finished):
    before = snapshot(finished)
    summary, printed = execute(small_config(), finished)
    assert "is finished; nothing was changed" in printed
    assert snapshot(finished) == before
    assert summary["phases"]["kd"]["steps"] == 6


def test_a_folder_of_another_config_is_refused_with_the_keys(finished):
    before = snapshot(finished)
    config = small_config()
    config.phases.kd.objective.kd.temperature = 2.0
    with pytest.raises(
        UserError, match=r"phases\.kd\.objective\.kd\.temperature \(4\.0 there, 2\.0 here\)"
    ):
        execute(config, finished)
    assert snapshot(finished) == before


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not a run folder"):
        execute(small_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def run_elsewhere(workdir, *lines):
    """Makes a small run in another process, after the lines of a script."""
    script = [
        "import sys; sys.path.insert(0, 'tests')",
        "from pathlib import Path",
        "from small_run import execute, small_config",
        "from experiments import cli",
        *lines,
        f"main = lambda: execute(small_config(), Path({str(workdir)!r}))",
        "sys.exit(cli.start(main, sys.argv))",
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(script)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_run_ends_with_the_same_figures(finished, tmp_path, number):
    """Interrupted in its second phase, at a step at which it would not have saved anyway."""
    workdir = tmp_path / "run"
    done = run_elsewhere(
        workdir,
        "import os",
        "from experiments.log import Bar",
        "advance = Bar.advance",
        "def interrupt(self, step):",
        f"    if self.name == 'scratch' and step == 3: os.kill(os.getpid(), {int(number)})",
        "    advance(self, step)",
        "Bar.advance = interrupt",
    )
    expected = -signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM
    assert done.returncode == expected, done.stderr
    assert not (workdir / "summary.json").exists()
    if number == signal.SIGTERM:
        assert "SIGTERM" in done.stderr
        assert checkpoint.Checkpoints(workdir / "scratch/checkpoints", read_only=True).steps() == [
            2,
            3,
        ]
    summary, _ = execute(small_config(), workdir)
    undisturbed = json.loads((finished / "summary.json").read_text())
    assert untimed(summary["phases"]) == untimed(undisturbed["phases"])
    for name in summary["phases"]:
        assert untimed(read_metrics(workdir / name / "metrics.jsonl")) == untimed(
            read_metrics(finished / name / "metrics.jsonl")
        )


def test_two_runs_cannot_share_a_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (
        workdir.locked(folder),
        pytest.raises(UserError, match="another run is working"),
        workdir.locked(folder),
    ):
        pytest.fail("the second lock was given")


def _damage(folder: Path):
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 0xFF
            file.write_bytes(content)


def test_a_damaged_checkpoint_is_skipped_and_a_run_without_another_is_refused(tmp_path):
    config = small_config()
    workdir = tmp_path / "run"
    for name in ("scratch", "kd"):
        del config.phases[name]
    first, _ = execute(config, workdir)
    (workdir / "summary.json").unlink()
    (workdir / "teacher/result.json").unlink()
    _damage(workdir / "teacher/checkpoints/6")
    again, printed = execute(config, workdir)
    assert "checkpoint 6 was moved to _damaged: resuming from step 4" in printed
    assert untimed(again["phases"]) == untimed(first["phases"])

    (workdir / "summary.json").unlink()
    (workdir / "teacher/result.json").unlink()
    for step in (workdir / "teacher/checkpoints").iterdir():
        _damage(step)
    with pytest.raises(UserError, match="corrupt checkpoint"):
        execute(config, workdir)


@pytest.mark.parametrize("garbled", [True, False])
def test_damaged_checkpoints_are_one_line_on_stderr(finished, tmp_path, garbled):
    """Orbax reads in the background, and would tell of it after the run has said its line."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    (workdir / "kd/result.json").unlink()
    for file in (workdir / "kd/checkpoints").rglob("*/state/**/*"):
        if file.is_file():
            file.write_bytes(bytes(len(file.read_bytes())) if garbled else b"")
    done = run_elsewhere(workdir)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: corrupt checkpoint 6 in ")


def test_best_selects_on_validation_and_never_on_test(tmp_path):
    config = small_config(select="best")
    del config.phases["scratch"], config.phases["kd"]
    config.data.validation = 0.2
    # It learns and then unlearns, so that the last network is not the best.
    config.train.optimizer.update(learning_rate=0.5, weight_decay=0.0)
    config.train.steps = 16
    config.train.schedule.update(name="step", boundaries=(8.0,), decay_rate=200.0, unit="steps")
    config.train.optimizer.grad_clip_norm = 1.0
    summary, _ = execute(config, tmp_path / "run")
    rows = [r for r in read_metrics(tmp_path / "run/teacher/metrics.jsonl") if "test/accuracy" in r]
    best = max(row["validation/accuracy"] for row in rows)
    measured = summary["phases"]["teacher"]
    assert measured["validation"]["accuracy"] == best
    assert rows[-1]["validation/accuracy"] < best
    selected = json.loads((tmp_path / "run/teacher/result.json").read_text())["step"]
    (row,) = (row for row in rows if row["step"] == selected)
    assert measured["test"]["accuracy"] == row["test/accuracy"]


def test_some_steps_are_traced(tmp_path):
    config = small_config()
    config.profile = "2:4"
    config.phases = {"teacher": config.phases.teacher}
    execute(config, tmp_path)
    (file,) = (tmp_path / "teacher" / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    operations = collections.Counter(
        event["args"]["hlo_op"] for event in events if "hlo_op" in event.get("args", {})
    )
    # Two steps and no others, on each device; what is inside a loop is counted more often.
    assert min(operations.values()) == 2 * jax.local_device_count()
    assert all(n % (2 * jax.local_device_count()) == 0 for n in operations.values())


def test_teachers_and_initial_variables_come_from_other_runs(finished, tmp_path):
    config = small_config()
    config.teacher.checkpoint = str(finished / "teacher")
    config.student.init_from = str(finished / "scratch")
    config.student.optimizer.learning_rate = 0.0
    del config.phases["scratch"]
    config.phases.kd.teachers = ("teacher", str(finished / "scratch"))
    summary, printed = execute(config, tmp_path / "run")
    before = json.loads((finished / "summary.json").read_text())["phases"]
    assert summary["phases"]["teacher"]["steps"] == 0
    # Both are measured before any step is made.
    first = printed[: printed.index("step ")]
    for name in ("teacher", "scratch"):
        folder, accuracy = finished / name, before[name]["test"]["accuracy"]
        (line,) = [line for line in first.splitlines() if str(folder) in line]
        assert f"small_run:Tiny from {folder}, test" in line or line.startswith(
            f"{folder}: small_run:Tiny, test"
        )
        assert f"test accuracy {accuracy:.2%}" in line
    trained = before["teacher"]["test"]
    # What was only loaded has no objective, and no evaluations of which one could be the best.
    del trained["best_accuracy"], trained["loss/cross_entropy"]
    assert summary["phases"]["teacher"]["test"] == trained
    start = networks.load(str(finished / "scratch")).variables["params"]
    after = networks.load(str(tmp_path / "run/kd")).variables["params"]
    np.testing.assert_array_equal(start["fc"]["kernel"], after["fc"]["kernel"])


def test_a_phase_is_initialised_from_an_earlier_one(tmp_path):
    config = small_config()
    config.phases.kd.update(init_from="scratch", batch_size=16)
    config.phases.kd.optimizer.learning_rate = 0.0
    execute(config, tmp_path / "run")
    ended, started = (networks.load(str(tmp_path / "run" / name)) for name in ("scratch", "kd"))
    chex.assert_trees_all_equal(ended.variables["params"], started.variables["params"])


def test_the_logits_of_a_teacher_with_a_fixed_view_are_computed_once(tmp_path, monkeypatch):
    config = small_config()
    del config.phases.scratch
    config.data.train_examples = 64
    config.train.augment.teacher_view = "fixed"
    reused = []
    make_train_step = train.make_train_step

    def watched(**given):
        step = make_train_step(**given)

        def watching(states, teachers, data, batch, rng):
            reused.append(all(one.logits is not None for one in teachers))
            return step(states, teachers, data, batch, rng)

        return watching

    monkeypatch.setattr(train, "make_train_step", watched)
    once, _ = execute(config, tmp_path / "once")
    # The first phase is the teacher itself.
    assert not reused[0]
    assert all(reused[1:])
    monkeypatch.setattr(Supervised, "reuses_teacher_logits", lambda self: False)
    every_time, _ = execute(config, tmp_path / "again")
    chex.assert_trees_all_close(
        *(one["phases"]["kd"]["test"] for one in (once, every_time)), rtol=1e-3
    )


def test_initial_variables_of_another_network_are_refused(tmp_path):
    config = small_config()
    config.teacher.model = "resnet14"
    config.phases.kd.init_from = "teacher"
    with pytest.raises(
        UserError, match="phase 'kd' is initialised from 'teacher', another network"
    ):
        execute(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_methods_first_phase_hands_its_variables_on(tmp_path):
    config = small_config()
    methods.add_methods(config, ["ft"])
    del config.phases.scratch, config.phases.kd
    execute(config, tmp_path / "run")
    before, after = (
        checkpoint.Checkpoints(tmp_path / f"run/{name}/checkpoints", read_only=True).read(steps)[0]
        for name, steps in (("ft_init", 6), ("ft", 6))
    )
    kept = [key for key in after if key.startswith(".method_state") and "paraphraser" in key]
    assert len(kept) == 12
    for key in kept:
        # It was trained as parameters and is kept as state.
        np.testing.assert_array_equal(after[key], before[key.replace("_state", "_params")])


def test_methods_that_have_nothing_in_common_are_refused(finished, tmp_path):
    config = small_config()
    config.phases.kd.init_methods_from = str(finished / "kd")
    with pytest.raises(UserError, match="has nothing for the methods of this phase"):
        execute(config, tmp_path / "run")


def test_seeds_of_a_phase_are_a_row_with_mean_and_deviation():
    test = [{"accuracy": a, "nll": 1.0, "ece": 0.1} for a in (0.5, 0.6, 0.7)]
    phases = {
        f"kd_seed{i}": {
            "phase": "kd",
            "model": "m",
            "parameters": 7,
            "steps": 1,
            "seconds": 2.0,
            "images_per_second": 100.0,
            "test": values,
        }
        for i, values in enumerate(test)
    }
    text = report.markdown({"phases": phases, "config": {"report": {}}})
    assert "| kd (3 seeds) | m | 7 | 1 step | 60.00% ± 10.00% |" in text
    assert len(text.splitlines()) == 3


def test_phases_of_one_architecture_start_differently(finished):
    first = [
        read_metrics(finished / name / "metrics.jsonl")[0]["train/cross_entropy"]
        for name in ("teacher", "scratch")
    ]
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.teacher.update(model="resnet9"), "unknown model 'resnet9'"),
        (lambda c: c.teacher.update(model=""), "no model given"),
        (lambda c: c.train.update(dtype="float16"), "train.dtype is 'float16': it must be one of float32, bfloat16"),
        (lambda c: c.train.update(mean=(0.5,) * 3, std=(0.5,) * 3), "the images have 1 channel"),
        (lambda c: c.train.update(mean=(0.5,), std=(0.0,)), "train.std is (0.0): it must be a tuple"),
        (lambda c: c.train.update(batch_size=0), "batch_size is 0"),
        (lambda c: c.train.update(batch_size=10**9), "lower batch_size (1000000000) or raise grad_accum"),
        (lambda c: c.train.update(grad_accum_steps=5), "multiple"),
        (lambda c: c.train.update(steps=0, epochs=0.0), "has no steps"),
        (lambda c: c.train.update(steps=-1), "steps is -1"),
        (lambda c: c.train.update(select="first"), "train.select is 'first': it must be one of last, best"),
        (lambda c: c.train.update(select="best"), "set data.validation"),
        (lambda c: c.train.update(checkpoint="nothing.pth"), "no such phase folder or file of weights"),
        (lambda c: c.train.optimizer.update(name="lion"), "train.optimizer.name is 'lion'"),
        (lambda c: c.train.schedule.update(name="sine"), "train.schedule.name is 'sine'"),
        (lambda c: c.train.augment.update(teacher_view="blind"), "train.augment.teacher_view is 'blind'"),
        (lambda c: c.train.augment.update(mixup=1.0), "only with teacher_view='function_matching'"),
        (lambda c: c.train.augment.update(policy="aa"), "train.augment.policy is 'aa': it must be one of '', autoaugm"),
        (lambda c: c.phases.kd.update(teachers=("nobody",)), "neither an earlier phase"),
        (lambda c: c.train.update(teacher_batch_norm="off"), "one of running, batch"),
        (lambda c: c.phases.kd.update(init_methods_from="nobody"), "init_methods_from is 'nobody'"),
        (lambda c: c.phases.kd.update(teachers=()), "method 'kd' needs a teacher"),
        (lambda c: c.phases.kd.objective.update(okd={"weight": 1.0}), "unknown method 'okd'"),
        (lambda c: c.phases.kd.objective.kd.update(tau=1.0), "method 'kd' has no argument tau"),
        (lambda c: c.data.update(name="cifar10"), "unknown data set 'cifar10': choose from digits"),
        (lambda c: c.data.update(image_size=9), "data.image_size is 9, but the images are 8x8"),
        (lambda c: c.data.update(train_examples=5000), "there are 1201 training images"),
        (lambda c: c.update(devices=3), "devices is 3: there are 2"),
        (lambda c: c.update(profile="100"), "profile is '100': give FIRST:LAST"),
        (lambda c: c.update(profile="9:9"), "profile is '9:9': give FIRST:LAST"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_nothing_is_written(tmp_path, change, message):
    config = small_config()
    change(config)
    assert message in refusal(config, tmp_path / "run")


def test_a_phase_that_diverges_does_not_end_the_others(tmp_path):
    config = small_config()
    config.phases.student_of_it = common.inherit(config.phases.kd, teachers=("scratch",))
    config.phases.scratch.optimizer.learning_rate = 1e30
    console = Console(file=io.StringIO(), width=160)
    folder = tmp_path / "run"
    with pytest.raises(UserError) as error:
        run.run(run.resolve(config), folder, console)
    assert re.fullmatch(
        r"phase 'scratch': the loss is (nan|inf) at step \d \(cross_entropy\): lower "
        r"optimizer.learning_rate or set "
        r"optimizer.grad_clip_norm; phase 'student_of_it' was left out",
        str(error.value),
    )
    table = console.file.getvalue()
    assert "scratch (diverged)" in table
    assert (folder / "table.md").read_text().count("%") == 3  # accuracies of two, one agreement
    assert (folder / "kd" / "result.json").exists()
    assert not (folder / "student_of_it").exists()
    assert not (folder / "summary.json").exists()


def test_a_phase_that_diverges_in_its_last_update_is_no_success(tmp_path):
    config = small_config()
    del config.phases["scratch"], config.phases["kd"]
    config.phases.teacher.optimizer.learning_rate = 1e-3
    # 5 of 6 steps: the loss of the last one is still finite.
    config.phases.teacher.schedule.update(
        name="step", unit="steps", boundaries=(5.0,), decay_rate=1e35
    )
    with pytest.raises(
        UserError, match=r"phase 'teacher': nll on the \w+ split is nan after step 6"
    ):
        execute(config, tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not (tmp_path / "run" / "teacher" / "result.json").exists()
    # The same command says the same.
    with pytest.raises(UserError, match="nll on the"):
        execute(config, tmp_path / "run")


def test_the_default_folder_is_of_the_config_and_not_of_the_machine():
    one, same, other = (run.resolve(small_config()) for _ in range(3))
    same.data.dir, same.devices = "/elsewhere", 1
    other.seed = 1
    names = [workdir.default("distill", config) for config in (one, same, other)]
    assert names[0] == names[1] != names[2]
    assert names[0].parts[0] == "runs"


def test_signal_handlers_are_restored(finished):
    before = signal.getsignal(signal.SIGTERM)
    with cli.stop_signals() as stop:
        assert stop() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stop() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
