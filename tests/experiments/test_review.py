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
CODES = ("chen", "report")
# The tables of the report as printed, row by row; Table 3 has its ticks as 0 and 1.
PRINTED = {
    "table=1": """
        69.06 71.14 72.50 73.26 71.98 / 73.04 74.38 79.14 76.66 76.66
        70.66 73.08 73.33 74.92 73.54 / 69.21 71.06 73.50 73.58 72.24
        70.34 72.61 73.64 74.54 73.54 / 69.61 71.82 71.90 73.35 72.22
        71.16 73.48 75.51 75.48 74.14 / 70.55 72.31 73.44 74.08 72.77
        70.38 72.61 73.09 74.11 73.30 / 70.98 73.23 74.95 75.24 74.33
        71.89 73.89 75.63 76.12 75.09 / 71.79 73.71 76.02 76.27 75.21
        0.7 1.0 5.0 5.0 5.0""",
    "table=2": """
        70.50 70.50 71.82 / 79.14 76.66 79.14
        74.07 74.83 73.33 / 73.59 73.73 73.54 / 74.10 72.89 74.69 / 72.28 72.21 73.21
        75.11 76.05 75.65 / 71.73 73.32 72.73 / 73.38 73.61 73.40 / 75.98 75.85 76.82
        77.45 77.14 77.78 / 76.94 77.44 77.86 / 5.0 5.0 8.0""",
    "table=3": "69.50 / 69.58 / 69.92 / 71.28 / 71.51 / 71.79",
    "table=4": "71.62 71.62 71.79 71.77 71.91",
    "table=5": "71.46 71.75 71.79",
    "table=6": "71.79 71.51 71.62",
    # The points of the figure are not in the text: the range and the run without labels are.
    "figure=6": "71.79 / 1.5",
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("table", TABLES)
def test_every_number_of_the_report_is_in_its_cell(table, code):
    """In the order of the report, and nothing else that is printed as a number."""
    config = review.get_config(f"{table},data=cifar100,code={code}")
    lines = [line.split() for line in PRINTED[table].replace("\n", "/").split("/")]
    expected = [[float(number) for number in line] for line in lines if line]
    found = []
    for row in config.report.paper.rows:
        cells = [cell for cell in row[1:] if "{" not in cell]
        if row[0] == "Review KD Loss Weight":
            found.append([float(cell) for cell in cells if cell])
        else:
            found.append([float(cell.split("%")[0].strip("~")) for cell in cells if "%" in cell])
    assert [row for row in found if row] == expected


def test_the_levels_and_weights_of_tables_4_and_5_are_printed():
    levels = "[4, 1] [h, 2, 1] [h, 4, 2, 1] [h, h/2, h/4] [h, h-1, h-2, h-3]"
    falling = ["[1, 0.5]", "[1, 0.5, 0.25]", "[1, 0.5, 0.25, 0.125]"]
    table = review.get_config("table=4").report.paper
    assert table.columns[1:] == re.findall(r"\[.*?\]", levels)
    assert table.rows[0][1:] == [*falling, falling[1], falling[2]]
    table = review.get_config("table=5").report.paper
    assert table.columns[1:] == ["[h, 4, 2, 1]"] * 3
    assert table.rows[0][1:] == ["[0.125, 0.25, 0.5, 1]", "[1, 1, 1, 1]", falling[2]]


def test_misprints_are_marked_beside_the_number_they_are_of():
    marked = {}
    for table in (1, 2):
        for row in review.get_config(f"table={table}").report.paper.rows:
            for cell in row:
                if found := re.fullmatch(r"([\d.]+)% \(misprint of ([\d.]+)%\)", cell):
                    marked[row[0], found[1]] = found[2]
    assert marked == {
        ("PKT", "73.54"): "73.45", ("PKT", "72.89"): "73.89", ("KD", "73.33"): "74.45",
    }  # fmt: skip


@pytest.mark.slow
def test_every_row_of_every_table_makes_two_steps():
    """All objectives at once, on the digits, between two networks of eight layers."""
    objectives = {}
    for table in TABLES:
        for name, group in review.get_config(table).phases.items():
            # Rows that differ in their weights alone are the same program.
            terms = {n: {k: v for k, v in t.items() if k not in ("weight", "schedule")}
                     for n, t in group.objective.items()}  # fmt: skip
            if "norms" in terms.get("ofd", {}):
                terms["ofd"]["norms"] = [f"layer{stage}_0_bn2" for stage in (1, 2, 3)]
            objectives.setdefault(str(terms), (f"{table} {name}", terms))
    config = small_config()
    del config.phases["scratch"]
    for group in config.phases.values():
        group.model, group.model_options = "resnet8", ConfigDict({"widths": (16, 16, 32, 24)})
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


def test_each_row_of_tables_1_and_2_has_the_protocol_of_its_number():
    phases = review.get_config("table=2,data=cifar100").phases
    pair = "wrn_40_2_shufflenetv1"
    ours, kd, scratch = (
        phases[n] for n in (f"review_{pair}", f"kd_{pair}", "scratch_shufflenetv1")
    )
    teacher = phases.teacher_wrn_40_2
    assert {phase.epochs for phase in (ours, kd, scratch, teacher)} == {240}
    assert (teacher.optimizer.learning_rate, teacher.batch_size) == (0.1, 128)
    assert (ours.optimizer.learning_rate, ours.batch_size) == (pytest.approx(0.02), 128)
    assert (ours.optimizer.nesterov, teacher.optimizer.nesterov) == (True, True)
    assert ours.schedule.boundaries == (151 / 240, 181 / 240, 211 / 240)
    # The statistics of CIFAR-10 on CIFAR-100.
    assert ours.mean == teacher.mean == pytest.approx((0.4914, 0.4824, 0.4467), abs=1e-4)
    assert ours.teacher_batch_norm == "batch"
    for quoted in (kd, scratch):
        assert (quoted.optimizer.learning_rate, quoted.batch_size) == (0.01, 64)
        assert not quoted.optimizer.nesterov
        assert quoted.schedule.boundaries == (150 / 240, 180 / 240, 210 / 240)
        assert (quoted.mean, quoted.teacher_batch_norm) == ((), "running")
    resnet = review.get_config("table=1,data=cifar100").phases
    assert resnet.kd_resnet56_resnet20.optimizer.learning_rate == 0.05
    assert resnet.review_resnet56_resnet20.optimizer.learning_rate == 0.1


@pytest.mark.parametrize(("name", "batch_size", "rate"), [("crd", 64, 0.01), ("review", 128, 0.02)])
def test_a_protocol_sets_all_rows_alike(name, batch_size, rate):
    config = review.get_config(f"table=2,data=cifar100,protocol={name}")
    for phase, group in config.phases.items():
        assert group.batch_size == batch_size
        light = phase.endswith("v1") or phase.endswith("v2")
        assert group.optimizer.learning_rate == pytest.approx(rate if light else 5 * rate)
    config.train.batch_size = 32
    assert {group.batch_size for group in config.phases.values()} == {32}


def test_on_the_digits_all_rows_have_the_protocol_of_the_digits():
    groups = review.get_config("table=1").phases.values()
    assert {(group.batch_size, group.optimizer.learning_rate) for group in groups} == {(64, 0.1)}


@pytest.mark.parametrize("code", CODES)
def test_the_code_decides_on_warm_up_and_weights(code):
    default = {"table=1": "chen", "table=3": "report", "table=5": "report", "figure=6": "report"}
    for table, usual in default.items():
        given = review.get_config(f"{table},code={code}")
        assert (given.to_dict() == review.get_config(table).to_dict()) == (code == usual)
        reviews = [p for p in given.phases.values() if "review" in p.objective]
        for phase in reviews:
            term = phase.objective.review
            assert ("schedule" in term) == (code == "chen")
            assert (term.get("weighting") == "fixed") == (code == "report")
            assert phase.teacher_batch_norm == "batch"
            assert term.get("stem", False) == (
                code == "report" and term.get("fusion") in ("none", "pairs")
            )


def test_rows_with_an_untrained_teacher_are_a_further_column():
    config = review.get_config("table=3,untrained=1")
    config.teacher.checkpoint = "trained/teacher"
    untrained = config.phases.untrained
    assert (untrained.steps, untrained.optimizer.learning_rate, untrained.checkpoint) == (1, 0, "")
    taught = [name for name, group in config.phases.items() if group.teachers == ("untrained",)]
    assert taught == ["same_level_untrained", "review_untrained", "residual_untrained"]
    last = [row[-1] for row in config.report.paper.rows]
    assert last == [f"{{{name}[test][accuracy]:.2%}}" for name in taught] + [""] * 3
    for name in taught:
        trained = config.phases[name.removesuffix("_untrained")]
        assert config.phases[name].objective == trained.objective


def test_ofd_has_the_margins_of_the_last_batch_norms():
    norms = {
        name.split("_", 1)[1]: tuple(group.objective.ofd.norms)
        for table in (1, 2)
        for name, group in review.get_config(f"table={table}").phases.items()
        if name.startswith("ofd")
    }
    assert norms["resnet56_resnet20"] == ("layer1_8_bn2", "layer2_8_bn2", "layer3_8_bn2")
    assert norms["wrn_40_2_wrn_16_2"] == ("block2_layer_0_bn1", "block3_layer_0_bn1", "bn1")
    assert norms["resnet32x4_shufflenetv2"] == ("layer1_4_bn2", "layer2_4_bn2", "layer3_4_bn2")


def test_figure_6_is_drawn_over_the_weight_with_the_range_of_the_report():
    figure = review.get_config("figure=6,data=cifar100").report.figure_6
    (ours, points), (_, printed) = figure.series
    assert ours == "here"
    weights = (0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 2.0, 5.0)
    assert tuple(x for x, _ in points) == weights
    assert all(f"weight_{x:g}".replace(".", "_") in y for x, y in points)
    assert (figure.span, printed) == ((0.5, 1.0), ((0.6, 0.7179),))
    # A number on CIFAR-100 has no place beside accuracies on the digits.
    assert len(review.get_config("figure=6").report.figure_6.series) == 1


@pytest.mark.usefixtures("shapes_known")
@pytest.mark.parametrize("table", TABLES)
def test_every_table_can_be_planned(table):
    """By both codes. Of Tables 1 and 2 the pair with the smallest networks."""
    smallest = {"table=1": "student=resnet20", "table=2": "teacher=wrn_40_2"}
    arg = smallest.get(table, f"untrained={int(table == 'table=3')}")
    for code in CODES:
        config = review.get_config(f"{table},code={code},{arg}")
        config.debug = True
        resolved = run.resolve(config)
        if code == "report":
            # Only knowledge review differs, and its teachers are needed.
            for name, phase in list(resolved.phases.items()):
                if phase.teachers and "review" not in phase.objective:
                    del resolved.phases[name]
        plans, _ = plan.plan_all(resolved)
        assert len(plans) == len(resolved.phases)


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
        ("table=3,code=tian", "unknown code='tian': choose from chen, report"),
        ("table=1,protocol=x", "unknown protocol 'x': choose from crd, survey, review"),
        ("table=4,untrained=1", "untrained=1 is for table=3 alone"),
    ],
)
def test_bad_arguments_are_one_line(arg, message):
    with pytest.raises(UserError, match=message):
        review.get_config(arg)
