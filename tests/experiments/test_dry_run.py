"""What a run would cost."""

import io
import re

import pytest
from ml_collections import ConfigDict
from rich.console import Console
from small_run import small_config

from experiments import dry_run
from experiments.plan import plan_all
from experiments.run import resolve


def said(config, workdir):
    console = Console(file=io.StringIO(), width=200)
    dry_run.dry_run(resolve(config), workdir, console)
    return console.file.getvalue()


def cells(printed, phase):
    (line,) = [line for line in printed.splitlines() if re.match(rf"{phase}  |{phase} \(", line)]
    return re.split(r"\s{2,}", line.strip())


def test_phases_are_listed_with_what_they_cost_and_nothing_is_written(tmp_path):
    config = small_config()
    config.phases.kd.update(steps=0, epochs=1000.0, seeds=(0, 1))
    del config.phases["scratch"]
    printed = said(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    name, model, parameters, multiply_adds, images, epochs, steps, time = cells(printed, "kd")
    assert (name, model, images, epochs) == ("kd (2 seeds)", "small_run:Tiny", "500", "1000")
    # Batches of 32 of 500 images.
    assert steps == "15,625"
    # A convolution of 3x3 from 1 to 16 channels on 8x8 pixels is the least that it computes.
    assert float(multiply_adds.split()[0]) * 1e6 > 9 * 16 * 64
    assert int(parameters.replace(",", "")) > 1000
    assert time.endswith(("s", "min", "h"))
    assert "nothing was written" in printed
    assert "GB of memory" in printed


def test_time_is_that_of_all_steps_and_evaluations():
    config = small_config()
    config.phases.kd.update(steps=100, eval_every=0.0)
    plans, _ = plan_all(resolve(config))
    plan = plans[-1]
    images = sum(len(split) for split in plan.data.splits.values()) + len(plan.data.splits["test"])
    cost = dry_run.Cost(compiling=5.0, step=0.5, image=0.01)
    assert dry_run._seconds(plan, cost) == pytest.approx(5 + 50 + 0.01 * images)


def test_phases_that_differ_in_numbers_alone_are_measured_once(tmp_path):
    config = small_config()
    config.phases.again = config.phases.kd.copy_and_resolve_references()
    config.phases.again.objective.kd.temperature = 2.0
    config.phases.again.optimizer.learning_rate = 0.01
    config.phases.other = config.phases.kd.copy_and_resolve_references()
    config.phases.other.objective = ConfigDict({"kd": {"weight": 1.0}})
    printed = said(config, tmp_path / "run")
    measured = [line.split(":")[0] for line in printed.splitlines() if "a few steps" in line]
    # The teacher learns as the student from scratch does, but beside no teacher.
    assert measured == ["teacher", "scratch", "kd", "other"]


def test_durations():
    assert [dry_run._duration(s) for s in (45.4, 720, 12600)] == ["45 s", "12 min", "3.5 h"]
