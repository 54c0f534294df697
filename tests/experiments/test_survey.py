"""The tables of the CIFAR-10 survey, and its systems of several phases."""

import re

import pytest
from small_run import execute

from configs import recipes, survey
from configs import recipes_survey as parts
from experiments import plan, run
from kdjax.types import UserError

# As printed: alpha, temperature, accuracy; "normal training (0.8814)".
TABLE_1 = """
 | | 88.14
0.1 | 1 | 89.72
0.1 | 10 | 89.90
0.1 | 20 | 90.01
0.5 | 1 | 90.33
0.5 | 10 | 90.18
0.5 | 20 | 89.91
1 | 1 | 89.85
1 | 10 | 90.10
1 | 20 | 90.37
"""
# Teacher, parameters, layers, its accuracy, the student's.
TABLE_2 = """
ResNet8 | 89322 | 31 | 89.59 | 89.48
ResNet20 | 283754 | 67 | 93.02 | 90.16
ResNet26 | 380970 | 85 | 93.41 | 90.40
ResNet18 | 11173962 | 62 | 95.26 | 89.50
WRN10-1 | 77850 | 34 | 88.06 | 88.48
WRN16-4 | 2748890 | 56 | 95.42 | 89.58
"""
TABLE_3 = """
Teacher | 93.41
TAKD | 90.57
UDA | 90.52
MKD | 90.34
KD | 90.33
RKD | 90.22
NOKD | 89.42
SFD | 87.47
OH | 87.09
STL | 90.8
"""
TABLE_4 = """
Teacher | 93.41
UDA | 91.22
TAKD | 90.97
KD | 90.77
UDA-NOKD | 90.34
NOKD | 89.34
"""


def printed(text):
    return [[cell.strip() for cell in line.split("|")] for line in text.strip("\n").splitlines()]


@pytest.mark.parametrize(
    ("arg", "wanted"),
    [
        ("table=1,cells=printed", TABLE_1), ("table=2", TABLE_2), ("table=3", TABLE_3),
        ("table=3,code=text", TABLE_3), ("table=4", TABLE_4),
    ],
)  # fmt: skip
def test_a_table_has_the_numbers_of_the_survey_beside_the_last_and_the_best_of_ours(arg, wanted):
    config = survey.get_config(arg)
    table = config.report.paper
    ours = [
        i for i, name in enumerate(table.columns) if name in ("here", "last", "best", "agreement")
    ]
    rows = [[cell for i, cell in enumerate(row) if i not in ours] for row in table.rows]
    assert rows == printed(wanted)
    named = re.findall(r"{(\w+)\[test\]\[(accuracy|best_accuracy)\]", str(table.rows))
    assert {name for name, _ in named} <= set(config.phases)
    assert len(named) == 2 * len({name for name, _ in named})


def test_the_grid_is_twenty_five_cells_by_equation_1():
    phases = survey.get_config("table=1,data=cifar10").phases
    grid = [phase for name, phase in phases.items() if name.startswith("alpha")]
    assert len(grid) == 25
    settings = {
        (round(1 - p.objective.to_dict().get("cross_entropy", {"weight": 0.0})["weight"], 9),
         p.objective.kd.weight, p.objective.kd.temperature)
        for p in grid
    }  # fmt: skip
    assert settings == {(a, a, t) for a in survey.ALPHAS for t in survey.TEMPERATURES}
    assert {p.epochs for p in phases.values()} == {150}
    assert {p.optimizer.nesterov for p in phases.values()} == {True}


def test_the_grid_can_be_cut_into_runs():
    parts = [survey.get_config(f"table=1,cells=printed,alphas={some}") for some in ("0.1", "0.5/1")]
    cells = [[name for name in part.phases if name.startswith("alpha")] for part in parts]
    whole = survey.get_config("table=1,cells=printed").phases
    assert cells[0] + cells[1] == [name for name in whole if name.startswith("alpha")]
    with pytest.raises(UserError, match=r"no alpha '0\.2': choose from 0\.1, 0\.4"):
        survey.get_config("table=1,alphas=0.2")


def test_each_epoch_count_and_what_text_and_code_differ_in():
    assert survey.get_config("table=3,data=cifar10").phases.kd.epochs == 200
    assert survey.get_config("table=4,data=cifar10").phases.kd.epochs == 350
    code, text = (survey.get_config(f"table=3,code={code}").phases for code in ("code", "text"))
    assert code.mkd.teachers == ("teacher", "teacher_wrn_22_4")
    assert text.mkd.teachers == ("teacher", "more_teachers_seed1", "more_teachers_seed2")
    assert code.uda.extra_views.policy.to_dict() == {
        "policy": "autoaugment_cifar10", "crop": "none", "flip": False,
    }  # fmt: skip
    assert text.uda.extra_views.policy.policy == "randaugment"
    assert (code.sfd.objective.sfd.form, "form" in text.sfd.objective.sfd) == ("peak", False)


def small(data="digits"):
    config = parts.base("small_run:Tiny", "small_run:Tiny", data)
    config.data.update(resize=8, train_examples=300)
    config.train.update(steps=2, batch_size=16)
    config.student.shots = 0
    return config


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A run of two steps a phase, with an assistant."""
    config = small()
    parts.add_takd(config, ("resnet8",), 0.5, 5.0)
    summary, _ = execute(config, tmp_path_factory.mktemp("survey") / "run")
    return summary["phases"], config


def test_the_assistant_taught_the_student(several):
    phases, config = several
    assert config.phases.assistant_resnet8.teachers == ("teacher",)
    assert config.phases.takd.teachers == ("assistant_resnet8",)
    # Its agreement is measured with the assistant, whose accuracy its evaluation has.
    assistant = phases["assistant_resnet8"]["test"]
    assert phases["takd"]["test"]["teacher_accuracy"] == assistant["accuracy"]
    assert assistant["teacher_accuracy"] == phases["teacher"]["test"]["accuracy"]


def test_teachers_of_an_ensemble_differ_in_their_seeds():
    config = small()
    parts.add_mkd(config, (), "probabilities", 0.5, 5.0)
    plans, _ = plan.plan_all(run.resolve(config))
    members = {member.name: member for one in plans for member in one.members}
    taught_by = members["mkd"].teachers
    assert [members[name].seed for name in taught_by] == [0, 1, 2]
    assert len({members[name].phase for name in taught_by}) == 2
    assert config.phases.mkd.objective.kd.combine == "probabilities"


def test_both_sources_are_in_a_batch_in_equal_numbers():
    config = small()
    digits = {"name": "digits", "labels": False, "examples": 50}
    parts.add_uda_unlabelled(config, "uda_unlabelled", digits, 0.5, 5.0)
    plans, _ = plan.plan_all(run.resolve(config))
    tasks = {one.name: one.action.task for one in plans}
    assert tasks["uda_unlabelled"].batch_parts == (8, 8)
    assert len(tasks["uda_unlabelled"].all_views()) == 2
    assert (tasks["uda_unlabelled"].data.more.labels == -1).all()
    weights = {
        name: (term.weight, term.on)
        for name, term in config.phases.uda_unlabelled.objective.items()
    }
    # A quarter for each source in each of two views, over which the loss is a mean.
    assert weights == {
        "cross_entropy": (0.25, "labelled"), "kd": (0.25, "labelled"),
        "unlabelled": (0.5, "unlabelled"),
    }  # fmt: skip


def test_turns_follow_the_text_or_the_code():
    text, code = (
        recipes.get_config(f"dual,rounds=2,code={code}").phases for code in ("text", "code")
    )
    assert list(text) == ["student_0", "teacher_1", "student_1", "teacher_2", "student_2"]
    assert text.teacher_2.until.ahead.over == "student_1"
    assert code.teacher_2.until.ahead.over == "teacher_1"
    assert [name for name, phase in code.items() if phase.early_stopping] == [
        "teacher_1", "teacher_2",
    ]  # fmt: skip
    assert list(code.student_2.until) == ["level", "fallen"]
    assert (text.student_2.continue_from, text.teacher_2.continue_from) == (
        "student_1", "teacher_1",
    )  # fmt: skip
    total = text.student_1.optimizer.name, text.student_1.optimizer.learning_rate
    assert total == ("adam", 1e-3)


def test_activation_boundaries_have_their_share_of_the_epochs():
    text, code = (
        recipes.get_config(f"ab,data=cifar10,code={code}").phases for code in ("text", "code")
    )
    assert (text.ab_init.epochs, text.ab.epochs) == pytest.approx((120, 80))
    assert (code.ab_init.epochs, code.ab.epochs) == (10, 200)
    assert text.ab.init_from == "ab_init"


@pytest.mark.parametrize(
    ("module", "arg", "message"),
    [
        (recipes, "ensemble", "unknown recipe 'ensemble': choose from takd, mkd, uda"),
        (recipes, "uda,policy=cutmix", "unknown policy 'cutmix'"),
        (recipes, "ab,code=paper", "unknown code 'paper': choose from text, code"),
        (survey, "table=5", "unknown table 5: choose from 1, 2, 3, 4"),
        (survey, "table=4,methods=kd/mkd", "table 4 has no method 'mkd': choose from teacher"),
    ],
)
def test_mistakes_are_one_line(module, arg, message):
    with pytest.raises(UserError) as error:
        module.get_config(arg)
    assert message in str(error.value)
