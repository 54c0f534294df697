"""When phases end."""

import json
import re

import pytest
from small_run import execute, refusal, small_config

from configs import common
from experiments.length import EarlyStopping, FirstOf, Length, Margin, StepLimit
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


@pytest.mark.parametrize(
    ("accuracy", "given", "ended"),
    [
        (0.62, {"margin": 0.02}, True),
        (0.61, {"margin": 0.02}, False),
        (0.60, {}, True),
        (0.59, {}, False),
        (0.50, {"margin": -0.1, "below": True}, True),
        (0.51, {"margin": -0.1, "below": True}, False),
    ],
)
def test_a_margin_over_another_network_ends_a_phase(accuracy, given, ended):
    end = Margin(max_steps=100, over="other", **given)
    row = {"validation/accuracy": accuracy, "validation/accuracy_of_other": 0.6}
    assert end.reason(9, []) == ""
    # Only the last evaluation counts.
    assert end.reason(9, [row, row | {"validation/accuracy": 0.59}]) == end.reason(
        9, [row | {"validation/accuracy": 0.59}]
    )
    assert bool(end.reason(9, [row])) == ended
    assert end.reason(100, []) == "100 steps"


def test_the_first_condition_that_is_met_ends_a_phase_and_is_named():
    end = FirstOf((StepLimit(10), Margin(10, "other"), EarlyStopping(8, 1)))
    assert end.max_steps == 8
    row = {"validation/accuracy": 0.5, "validation/accuracy_of_other": 0.6}
    assert end.reason(1, [row]) == ""
    assert end.reason(2, [row, row]).startswith("no better validation accuracy")
    assert "+0.1000 against other" in end.reason(
        2, [row, {**row, "validation/accuracy_of_other": 0.4}]
    )


def dual_config():
    """A teacher that learns until it is 5 points better than an untrained student; then two more.

    The student goes on from there, and cannot have the lead that would end it early.
    """
    config = small_config()
    for name in list(config.phases):
        del config.phases[name]
    config.data.validation = 0.2
    config.train.steps = 24
    config.train.optimizer.update(name="adam", learning_rate=5e-3)
    config.teacher.schedule.name = "constant"
    config.student.schedule.update(name="step", boundaries=(0.4,), horizon=1.0, unit="fraction")
    config.phases.student_0 = common.inherit(config.student, steps=2)
    config.phases.teacher_1 = common.inherit(
        config.teacher, compared_with=("student_0",),
        until={"lead": {"over": "student_0", "margin": 0.05}},
    )  # fmt: skip
    config.phases.student_1 = common.inherit(
        config.student, teachers=("teacher_1",), compared_with=("teacher_1",),
        continue_from="student_0", until={"lead": {"over": "teacher_1", "margin": 0.9}}, steps=6,
    )  # fmt: skip
    return config


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("dual") / "run"
    return execute(dual_config(), workdir)[0], workdir


def test_a_phase_ends_on_its_margin_and_the_next_goes_on_from_the_state_of_the_first(ended):
    summary, workdir = ended
    first, taught = (summary["phases"][name] for name in ("student_0", "teacher_1"))
    rows = [
        row
        for row in read_metrics(workdir / "teacher_1" / "metrics.jsonl")
        if "test/accuracy" in row
    ]
    leads = [row["validation/accuracy"] - first["validation"]["accuracy"] for row in rows]
    assert all(lead < 0.05 for lead in leads[:-1])
    assert leads[-1] >= 0.05
    assert taught["ended"].endswith("against student_0")
    assert taught["validation"]["accuracy_of_student_0"] == first["validation"]["accuracy"]
    # It went on from the first phase's optimiser, and with it from the position in a schedule
    # over one epoch of 15.6 steps, of which the first phase took two.
    folder = workdir / "student_1"
    rates = {row["step"]: row["learning_rate"] for row in read_metrics(folder / "metrics.jsonl")}
    assert rates[2] == pytest.approx(5e-3)
    assert rates[6] == pytest.approx(5e-4)
    stored = checkpoint.Checkpoints(folder / "checkpoints", read_only=True)
    arrays, _ = stored.read(6)
    counts = [value for key, value in arrays.items() if "count" in key]
    assert counts
    assert all(int(count) == 8 for count in counts)


def test_a_phase_that_ends_on_its_margin_resumes_to_the_same_step_and_reason(ended, tmp_path):
    whole, _ = ended
    advance = Bar.advance
    last = whole["phases"]["teacher_1"]["steps"]

    class Killed(BaseException):
        pass

    def interrupt(self, step):
        if self.name == "teacher_1" and step == last - 1:
            raise Killed
        advance(self, step)

    Bar.advance = interrupt
    try:
        with pytest.raises(Killed):
            execute(dual_config(), tmp_path / "run")
    finally:
        Bar.advance = advance
    again, _ = execute(dual_config(), tmp_path / "run")
    for name, phase in whole["phases"].items():
        for key in ("steps", "ended", "test", "validation"):
            assert again["phases"][name][key] == phase[key]


def test_what_a_phase_goes_on_from_has_the_same_state(tmp_path):
    for change, message in (
        (lambda c: c.phases.student_1.optimizer.update(name="sgd"), "or another optimizer"),
        (lambda c: c.phases.student_1.update(continue_from="nobody"), "not an earlier phase that"),
        (lambda c: c.phases.student_1.update(init_from="student_0"), "includes both"),
        (lambda c: c.phases.student_1.until.lead.update(over="student_0"), "one of compared_with"),
        (lambda c: c.phases.student_1.until.lead.update(lead=1), "its keys are over, margin"),
        (lambda c: c.phases.teacher_1.update(compared_with=("nobody",)), "is compared with 'nobody'"),
        (lambda c: c.data.update(validation=0.0), "there is no validation split"),
    ):  # fmt: skip
        config = dual_config()
        change(config)
        assert message in refusal(config, tmp_path / "run")
