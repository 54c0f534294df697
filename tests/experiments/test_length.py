"""When phases end."""

import json
import re

import pytest
from small_run import execute, small_config

from experiments.length import EarlyStopping, Length, StepLimit
from experiments.log import Bar, read_metrics
from kdjax import checkpoint
from kdjax.types import UserError


def rows(*accuracies):
    return [{"step": i, "validation/accuracy": a} for i, a in enumerate(accuracies)]


def test_a_phase_of_so_many_steps():
    end = StepLimit(3)
    assert [end.reason(step, []) for step in (0, 2, 3, 4)] == ["", "", "3 steps", "3 steps"]


@pytest.mark.parametrize(
    ("accuracies", "ended"),
    [
        ((), False),
        ((0.5, 0.6), False),
        ((0.5, 0.6, 0.6), False),
        ((0.5, 0.6, 0.6, 0.6), True),
        ((0.9, 0.6, 0.7), True),
        ((0.5, 0.4, 0.6, 0.5), False),
    ],
)
def test_early_stopping_waits_for_a_better_validation_accuracy(accuracies, ended):
    end = EarlyStopping(max_steps=100, patience=2)
    assert bool(end.reason(9, rows(*accuracies))) == ended
    assert end.reason(100, rows(*accuracies))


def test_schedules_are_laid_out_over_the_most_steps():
    length = Length(EarlyStopping(max_steps=10, patience=1), steps_per_epoch=5.0)
    rate = length.schedule(name="linear", peak_value=1.0, warmup=0.4)
    assert [float(rate(step)) for step in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def early_config(**changes):
    """Two seeds of a network that unlearns, so that early stopping ends it."""
    config = small_config(early_stopping=2, select="best")
    del config.phases["scratch"], config.phases["kd"]
    config.data.validation = 0.2
    config.teacher.seeds = (0, 1)
    config.train.update(steps=24)
    config.train.optimizer.update(learning_rate=0.5, weight_decay=0.0, grad_clip_norm=1.0)
    config.train.schedule.update(name="step", boundaries=(6.0,), decay_rate=100.0, unit="steps")
    config.update(changes)
    return config


def expected_end(evaluations, patience=2):
    """The step at which the rows of all evaluations say that early stopping ends a phase."""
    accuracies = [row["validation/accuracy"] for row in evaluations]
    for n in range(1, len(accuracies) + 1):
        if n - 1 - accuracies.index(max(accuracies[:n])) >= patience:
            return evaluations[n - 1]["step"]
    return evaluations[-1]["step"]


def test_members_end_at_steps_of_their_own_and_resume_to_them(tmp_path):
    config = early_config()
    config.train.early_stopping = 0
    execute(config, tmp_path / "whole")
    names = ("teacher_seed0", "teacher_seed1")
    evaluations = {
        name: [
            r for r in read_metrics(tmp_path / "whole" / name / "metrics.jsonl") if "test/nll" in r
        ]
        for name in names
    }
    ends = {name: expected_end(rows) for name, rows in evaluations.items()}
    assert min(ends.values()) < 24
    summary, _ = execute(early_config(), tmp_path / "run")
    for name in names:
        result = summary["phases"][name]
        assert result["steps"] == ends[name]
        assert re.match(r"no better|24 steps", result["ended"])
        logged = read_metrics(tmp_path / "run" / name / "metrics.jsonl")
        assert logged[-1]["step"] == ends[name]
        best = max(row["validation/accuracy"] for row in logged if "test/nll" in row)
        assert result["validation"]["accuracy"] == best

    # Ended between the last evaluation and the result of the phase.
    first = min(ends, key=ends.get)
    (tmp_path / "run/summary.json").unlink()
    (tmp_path / "run" / first / "result.json").unlink()
    again, _ = execute(early_config(), tmp_path / "run")
    assert again["phases"][first]["steps"] == ends[first]
    assert again["phases"][first]["test"] == summary["phases"][first]["test"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.train.update(early_stopping=-1), "early_stopping is -1"),
        (lambda c: c.data.update(validation=0.0, ), "there is no validation split"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, change, message):
    config = early_config()
    config.train.select = "last"
    change(config)
    with pytest.raises(UserError, match=message):
        execute(config, tmp_path / "run")


def test_a_signal_at_an_evaluation_changes_no_row(finished, tmp_path, monkeypatch):
    """What is due is evaluated and logged before the run stops."""
    from experiments import cli

    advance, stopping = Bar.advance, []

    def interrupt(self, step):
        if self.name == "teacher" and step == 4:
            stopping.append(15)
        advance(self, step)

    class Stop:
        def __enter__(self):
            return lambda: stopping[0] if stopping else None

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(Bar, "advance", interrupt)
    monkeypatch.setattr(cli, "stop_signals", Stop)
    with pytest.raises(cli.Interrupted):
        execute(small_config(), tmp_path / "run")
    assert (
        checkpoint.Checkpoints(tmp_path / "run/teacher/checkpoints", read_only=True).steps()[-1]
        == 4
    )
    stopping.clear()
    monkeypatch.undo()
    summary, _ = execute(small_config(), tmp_path / "run")
    timed = ("images_per_second", "eta_seconds")
    for name in summary["phases"]:
        ours, theirs = (
            [
                {k: v for k, v in row.items() if k not in timed}
                for row in read_metrics(folder / name / "metrics.jsonl")
            ]
            for folder in (tmp_path / "run", finished)
        )
        assert ours == theirs
    undisturbed = json.loads((finished / "summary.json").read_text())["phases"]["kd"]["test"]
    assert summary["phases"]["kd"]["test"] == undisturbed
