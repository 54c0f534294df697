"""Every row of the report's tables runs, and is in its place beside the report's number."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from small_run import small_config

from configs import methods, review
from experiments import data, members, plan, report, run
from experiments.length import Length, StepLimit
from experiments.objective import make_objective
from kdjax import distillers, schedules, train
from kdjax.data import batches, views
from kdjax.types import TeacherInputs, UserError

TABLES = (*(f"table={n}" for n in range(1, 7)), "figure=6")


def test_every_row_of_every_table_makes_two_steps():
    """All objectives at once, on the digits, between two networks of eight layers."""
    objectives = {}
    for table in TABLES:
        for name, group in review.get_config(table).phases.items():
            # Rows that differ in their weights alone are the same program.
            terms = {n: {k: v for k, v in t.items() if k not in ("weight", "schedule")}
                     for n, t in group.objective.items()}  # fmt: skip
            objectives.setdefault(str(terms), (f"{table} {name}", terms))
    config = small_config()
    del config.phases["scratch"]
    config.train.update(steps=2, batch_size=16, sync_batch_norm=False)
    config.phases.kd.objective = ConfigDict({"cross_entropy": {"weight": 1.0}})
    digits = data.read("digits")
    plans, _ = plan.plan_all(run.resolve(config))
    teacher, student = (one.network for one in plans)
    terms = {
        name: (1.0, make_objective(terms, Length(StepLimit(2), 1.0)))
        for name, terms in objectives.values()
    }
    assert len(terms) >= 6 + 4 + 2 + 1 + 8
    shared = dict(
        student=student,
        teachers=[teacher],
        distiller=distillers.weighted_sum(**terms),
        optimizer=optax.sgd(1e-3),
    )
    taught = jax.jit(teacher.init)(jax.random.key(1), jnp.zeros((1, 8, 8, 1)))
    arrays = jax.tree.map(jnp.asarray, batches.resident(digits.train.split))
    # Not compiled as a whole: the methods have most of their initialisers in common.
    state = train.init_state(
        jax.random.key(0), **shared, image_shape=digits.image_shape, num_classes=10, batch_size=16,
        teacher_variables=[taught], train_labels=arrays["labels"],
    )  # fmt: skip
    view = views.make_views(num_classes=10, image_size=8, flip=False)
    step = jax.jit(train.make_train_step(**shared, views=view))
    for i in range(2):
        before = state
        batch = {"index": jnp.arange(16 * i, 16 * (i + 1))[None]}
        state, metrics = step(state, TeacherInputs((taught,)), arrays, batch, jax.random.key(0))
        assert set(terms) <= set(metrics)
        for name, value in metrics.items():
            assert jnp.isfinite(value), name
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), *jax.device_get((before, state)))
        for name, variables in moved.method_params.items():
            assert any(jax.tree.leaves(variables)) or not jax.tree.leaves(variables), name


@pytest.mark.parametrize("table", TABLES)
def test_every_phase_fills_its_cell(table):
    config = review.get_config(table)
    phases = {
        name: {"phase": name, "model": "m", "parameters": 1, "steps": 1, "seconds": 1.0, "images_per_second": 1.0,
               "test": {"accuracy": (i + 1) / 1000, "nll": 1.0, "ece": 0.1}}
        for i, name in enumerate(config.phases)
    }  # fmt: skip
    _, paper = report.tables({"config": config.to_dict(), "phases": phases})
    cells = [cell for row in paper.rows for cell in row]
    for name, measured in phases.items():
        if name != "teacher":
            assert f"{measured['test']['accuracy']:.2%}" in cells


@pytest.mark.parametrize(
    ("arg", "rows", "columns"),
    [
        ("table=1,data=cifar100", 14, 11),
        ("table=1,student=resnet20", 14, 3),
        ("table=2", 14, 7),
        ("", 6, 6),
        ("table=4", 3, 6),
        ("table=5", 3, 4),
        ("table=6", 2, 4),
        ("figure=6", 11, 3),
    ],
)
def test_every_phase_has_its_cell_in_a_table_of_the_reports_size(arg, rows, columns):
    config = review.get_config(arg)
    paper = config.report.paper
    assert (len(paper.rows), len(paper.columns)) == (rows, columns)
    mentioned = set(re.findall(r"{(\w+)\[test\]", str(paper.rows)))
    assert mentioned | {"teacher"} == set(config.phases) | {"teacher"}


def test_table_3_has_the_rows_of_the_report():
    config = review.get_config("table=3,data=cifar100")
    assert config.report.paper.rows == [
        ["", "", "", "", "69.50%", "{same_level[test][accuracy]:.2%}"],
        ["✓", "", "", "", "69.58%", "{review[test][accuracy]:.2%}"],
        ["✓", "✓", "", "", "69.92%", "{residual[test][accuracy]:.2%}"],
        ["✓", "✓", "✓", "", "71.28%", "{abf[test][accuracy]:.2%}"],
        ["✓", "✓", "", "✓", "71.51%", "{hcl[test][accuracy]:.2%}"],
        ["✓", "✓", "✓", "✓", "71.79%", "{abf_hcl[test][accuracy]:.2%}"],
    ]
    objectives = {
        n: p.objective.review.to_dict() for n, p in config.phases.items() if n != "teacher"
    }
    assert {(o.get("fusion", "attention"), "levels" in o) for o in objectives.values()} == {
        ("none", True), ("pairs", True), ("sum", True), ("attention", True),
        ("sum", False), ("attention", False),
    }  # fmt: skip
    assert {o["weight"] for o in objectives.values()} == {0.6}
    assert (config.teacher.model, config.student.model) == ("resnet56", "resnet20")


def test_the_protocol_is_that_of_the_report():
    shuffle = review.get_config("table=2,data=cifar100").phases.review_wrn_40_2_shufflenetv1
    assert (shuffle.epochs, shuffle.batch_size) == (240, 128)
    assert shuffle.optimizer.learning_rate == pytest.approx(0.02)
    assert shuffle.optimizer.nesterov
    assert shuffle.teachers == ("teacher_wrn_40_2",)
    teacher = review.get_config("table=2,data=cifar100").phases.teacher_wrn_40_2
    assert teacher.optimizer.learning_rate == pytest.approx(0.1)


def test_weights_are_those_of_the_tables_and_rise_over_twenty_epochs():
    weights = {
        name: group.objective.review.weight
        for table in (1, 2)
        for name, group in review.get_config(f"table={table},data=cifar100").phases.items()
        if name.startswith("review")
    }
    assert weights == {
        "review_resnet56_resnet20": 0.7,
        "review_resnet110_resnet32": 1.0,
        "review_resnet32x4_resnet8x4": 5.0,
        "review_wrn_40_2_wrn_16_2": 5.0,
        "review_wrn_40_2_wrn_40_1": 5.0,
        "review_resnet32x4_shufflenetv1": 5.0,
        "review_wrn_40_2_shufflenetv1": 5.0,
        "review_resnet32x4_shufflenetv2": 8.0,
    }
    given = methods.objective(["review"])["review"]["schedule"]
    schedule = schedules.create(peak_value=5.0, **given, total_steps=2400, steps_per_epoch=10)
    steps = (0, 9, 10, 19, 199, 200, 2399)
    expected = (0, 0, 0.25, 0.25, 4.75, 5, 5)
    assert [float(schedule(step)) for step in steps] == pytest.approx(expected)


def test_hcl_alone_has_no_other_loss():
    assert list(review.get_config("figure=6").phases.hcl_alone.objective) == ["review"]


def test_every_teacher_and_student_of_tables_1_and_2_is_trained_once_and_before_it_is_needed():
    for table, count in ((1, 4 + 5 + 5 * 9), (2, 2 + 2 + 3 * 9)):
        phases = review.get_config(f"table={table},data=cifar100").phases
        assert len(phases) == count
        seen = set()
        for name, group in phases.items():
            assert set(group.teachers) <= seen
            seen.add(name)


def test_the_seeds_of_a_phase_share_a_cell():
    config = review.get_config("table=6")
    config.seeds = (0, 1, 2)
    expanded = members.expand(run.resolve(config).phases.to_dict())
    assert [one.seed for one in expanded["abf_sum"]] == [0, 1, 2]
    assert sum(map(len, expanded.values())) == 1 + 3 * 3
    assert config.report.paper.rows[1][2] == "{abf_sum[test][accuracy]:.2%}"


def test_objectives_of_all_tables_are_methods():
    for arg in (*(f"table={n}" for n in range(1, 7)), "figure=6"):
        for group in review.get_config(arg).phases.values():
            make_objective(group.objective, Length(StepLimit(100), 10.0))


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("table=7", "there is no table=7,figure=0: choose from table=1, table=2"),
        ("figure=5", "there is no table=0,figure=5"),
        ("table=3,figure=6", "there is no table=3,figure=6"),
        ("table=1,student=resnet8", "table 1 has no teacher to resnet8: choose from resnet56 to"),
        ("table=two", "table='two' is not int"),
    ],
)
def test_bad_arguments_are_one_line(arg, message):
    with pytest.raises(UserError, match=message):
        review.get_config(arg)
