"""The recipes of Cho & Hariharan 2019: which teachers make good students, and when to stop."""

import re

import jax
import numpy as np
import pytest
from small_run import execute, refusal

from configs import recipes
from experiments import plan, report, run
from experiments.length import make_length
from experiments.log import read_metrics
from kdjax import checkpoint, networks
from kdjax.types import UserError

# Student's error, and KD error on train and test, by student and teacher; as printed.
CAPACITY = """
wrn_16_1 | wrn_16_3 | 7.681 | 1.70 | 6.32
wrn_16_1 | wrn_16_4 | 7.733 | 1.69 | 6.52
wrn_16_1 | wrn_16_6 | | 1.94 | 6.91
wrn_16_1 | wrn_16_8 | 8.028 | 1.69 | 7.01
wrn_28_1 | wrn_28_3 | | .23 | 4.05
wrn_28_1 | wrn_28_4 | | .25 | 4.53
wrn_28_1 | wrn_28_6 | | .23 | 4.54
wrn_28_1 | wrn_28_8 | | .31 | 4.81
"""
# Teacher and its error; error by full and early-stopped KD; losses of full -> early-stopped KD.
ESKD = """
ResNet18 | 30.24 | 30.57 | 29.01 | .146 -> .123 | 2.916 -> 2.234 | 3.358 -> 2.491
ResNet34 | 26.70 | 30.79 | 29.16 | .145 -> .123 | 1.357 -> 2.359 | 1.503 -> 2.582
ResNet50 | 23.85 | 30.95 | 29.35 | .146 -> .124 | 1.553 -> 2.659 | 1.721 -> 2.940
ResNet152 | | | 29.45 | | |
"""
# Epochs of 18.75 steps for a teacher and of 2.5 steps for a student, which has four of each class.
TEACHER_STEP, STUDENT_STEP = 1 / 18.75, 1 / 2.5


def printed(text):
    return [[cell.strip() for cell in line.split("|")] for line in text.strip("\n").splitlines()]


def small(arg, teacher_steps=2, student_steps=2):
    """A recipe with networks that compile quickly, whatever its table calls them."""
    config = recipes.get_config(arg)
    config.data.train_examples = 300
    config.log_every = 1
    config.train.batch_size = 16
    # At the usual 0.1 LeNet stays at chance.
    config.train.optimizer.learning_rate = 0.01
    config.teacher.epochs = teacher_steps * TEACHER_STEP
    config.student.epochs = student_steps * STUDENT_STEP
    for phase in config.phases.values():
        phase.model = "lenet"
    return config


def rows_here(summary):
    """The rows of the paper's table, filled in."""
    return report.tables(summary)[1].rows


def learning_rates(workdir, phase):
    return [row["learning_rate"] for row in read_metrics(workdir / phase / "metrics.jsonl")]


def rate_on_cifar(phase):
    """The learning rate of a phase at a share of its length, with 50,000 images."""
    length = make_length("phase", phase, 50_000 / 128)
    schedule, steps = length.learning_rate(phase), length.end.max_steps
    return lambda share: float(schedule(min(round(share * steps), steps - 1)))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Early-stopped KD for two of four steps, also of a teacher of two steps instead of four."""
    workdir = tmp_path_factory.mktemp("eskd") / "run"
    config = small("eskd,stops=.5,early=.5", teacher_steps=4, student_steps=4)
    return execute(config, workdir)[0], workdir


def test_after_the_stop_there_are_labels_alone_and_no_teacher(stopped):
    summary, workdir = stopped
    for name in ("eskd_50", "eskd_early_50"):
        first = read_metrics(workdir / f"{name}_kd" / "metrics.jsonl")
        second = read_metrics(workdir / name / "metrics.jsonl")
        assert all("train/kd" in row for row in first)
        assert not any("train/kd" in row for row in second)
        # With a weight of 1.
        for row in second:
            assert row["train/loss"] == pytest.approx(row["train/cross_entropy"])
    phases = summary["config"]["phases"]
    assert phases["eskd_50"]["teachers"] == ()
    assert phases["eskd_early_50_kd"]["teachers"] == ("teacher_early",)
    # It is still compared with the teacher.
    teacher = summary["phases"]["teacher_early"]["test"]["accuracy"]
    assert summary["phases"]["eskd_early_50"]["test"]["accuracy_of_teacher_early"] == teacher


def test_the_student_goes_on_at_its_place_in_the_schedule(stopped):
    _, workdir = stopped
    full = learning_rates(workdir, "kd")
    assert len(set(full)) == len(full) == 4
    parts = [learning_rates(workdir, name) for name in ("eskd_50_kd", "eskd_50")]
    assert [len(part) for part in parts] == [2, 2]
    assert [*parts[0], *parts[1]] == pytest.approx(full)
    # The optimiser has made four steps.
    stored = checkpoint.Checkpoints(workdir / "eskd_50" / "checkpoints", read_only=True)
    arrays, _ = stored.read(2)
    counts = [int(value) for key, value in arrays.items() if "count" in key]
    assert counts
    assert set(counts) == {4}


def test_the_student_that_goes_on_normalises_images_as_before(stopped):
    _, workdir = stopped
    normal = {
        tuple(networks.load(str(workdir / name)).network.mean)
        for name in ("teacher", "eskd_50_kd", "eskd_50")
    }
    assert len(normal) == 1


def test_our_rows_of_the_table_are_complete(stopped):
    summary, _ = stopped
    *paper, ours, early = rows_here(summary)
    assert len(paper) == 4
    for row, teacher in ((ours, "teacher"), (early, "teacher_early")):
        assert row[:2] == [f"wrn_16_2, {teacher}", "50 %"]
        for cell in row[2:]:
            assert all(part and part != "nan" for part in cell.split(" -> ")), row
    accuracy = summary["phases"]["eskd_early_50"]["test"]["accuracy"]
    assert early[5] == f"{1 - accuracy:.2%}"


def test_stops_are_shares_of_whatever_the_student_has():
    config = recipes.get_config("eskd,stops=.25/.75,data=cifar10")
    config.student.epochs = 100.0
    phases = run.resolve(config).phases
    lengths = {
        name: (phase.epochs, phase.schedule.horizon)
        for name, phase in phases.items()
        if name.startswith("eskd_25") or name.startswith("eskd_75")
    }
    assert lengths == {
        "eskd_25_kd": (25, 100), "eskd_25": (75, 100),
        "eskd_75_kd": (75, 100), "eskd_75": (25, 100),
    }  # fmt: skip


def test_an_early_stopped_teacher_is_annealed_to_its_own_end():
    early = recipes.get_config("eskd,data=cifar10").phases.teacher_early
    short = recipes.get_config("early_teacher,data=cifar10,epochs=20/35/200").phases
    assert (early.epochs, short.teacher_35.epochs) == (50, 35)
    for phase in (early, short.teacher_20, short.teacher_35, short.teacher_200):
        rate = rate_on_cifar(phase)
        # "15/50", "60/200": the first drop is at 0.3 of the length, and two more follow.
        shares = (0.0, 0.299, 0.301, 0.599, 0.601, 0.799, 0.801, 1.0)
        wanted = [0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008]
        assert [rate(share) for share in shares] == pytest.approx(wanted)
    assert short.kd_35.teachers == ("teacher_35",)
    assert short.kd_35.epochs == 200


def test_short_teachers_teach_a_student_each(tmp_path):
    # One step and two.
    summary, _ = execute(small("early_teacher,epochs=.1/.05"), tmp_path / "run")
    phases = summary["phases"]
    assert [phases[f"teacher_{name}"]["steps"] for name in ("0_05", "0_1")] == [1, 2]
    for name in ("0_05", "0_1"):
        teacher = phases[f"teacher_{name}"]["test"]["accuracy"]
        assert phases[f"kd_{name}"]["test"]["teacher_accuracy"] == teacher
    *ours, none = rows_here(summary)
    assert [row[:2] for row in ours] == [["wrn_16_2", "0.05"], ["wrn_16_2", "0.1"]]
    assert all(all(row[:-1]) for row in ours)
    assert none[3] == f"{1 - phases['scratch']['test']['accuracy']:.2%}"


def test_students_of_early_stopped_teachers_may_stop_early_themselves():
    phases = recipes.get_config("early_teacher,epochs=20/50,stop=.5,data=cifar10").phases
    assert phases.eskd_20_kd.teachers == ("teacher_20",)
    assert (phases.eskd_20.continue_from, phases.eskd_20.teachers) == ("eskd_20_kd", ())
    assert (phases.eskd_20.epochs, phases.eskd_50_kd.epochs) == (100, 100)


def test_a_kept_teacher_is_that_of_its_epoch(tmp_path):
    accuracies = {}
    # After two steps and eight. A run that ends sooner is the same if its rate is.
    for name, epochs in (("long", ".1/.42"), ("short", ".1")):
        config = small(f"early_teacher,source=checkpoint,epochs={epochs}")
        config.teacher.schedule.name = "constant"
        del config.phases["scratch"]
        phases = execute(config, tmp_path / name)[0]["phases"]
        accuracies[name] = {
            phase: result["test"]["teacher_accuracy"]
            for phase, result in phases.items()
            if phase.startswith("kd_")
        }
    assert accuracies["long"]["kd_0_1"] == accuracies["short"]["kd_0_1"]
    assert accuracies["long"]["kd_0_1"] != accuracies["long"]["kd_0_42"]


def test_kd_error_is_one_minus_agreement_on_train_and_test(tmp_path):
    config = small("capacity,student=resnet8,teachers=resnet8/resnet14")
    workdir = tmp_path / "run"
    summary, _ = execute(config, workdir)
    rows = rows_here(summary)
    assert [row[:2] for row in (*rows[:2], rows[-1])] == [
        ["resnet8", "resnet8"], ["resnet8", "resnet14"], ["resnet8", "none"],
    ]  # fmt: skip
    for row in rows[:2]:
        kd, teacher = (summary["phases"][f"{name}_{row[1]}"] for name in ("kd", "teacher"))
        assert kd["test"]["teacher_accuracy"] == teacher["test"]["accuracy"]
        assert row[2:] == [
            f"{1 - teacher['test']['accuracy']:.2%}",
            "", f"{1 - kd['test']['accuracy']:.2%}",
            "", f"{1 - kd['train']['agreement']:.2%}",
            "", f"{1 - kd['test']['agreement']:.2%}",
        ]  # fmt: skip
    assert (workdir / "capacity.png").exists()
    assert (workdir / "fidelity.png").exists()


def test_teachers_differ_in_width_or_in_depth_alone():
    wide, deep, other = (
        [phase.model for name, phase in recipes.get_config(arg).phases.items() if "teacher" in name]
        for arg in (
            "capacity,data=cifar10", "capacity,data=cifar10,vary=depth,student=wrn_16_2",
            "capacity,student=resnet8,teachers=resnet20/resnet56",
        )
    )  # fmt: skip
    assert wide == [f"wrn_16_{width}" for width in (1, 2, 3, 4, 6, 8)]
    assert deep == [f"wrn_{depth}_2" for depth in (16, 22, 28, 34, 40)]
    assert other == ["resnet20", "resnet56"]


@pytest.mark.parametrize(
    "arg",
    ["capacity", "eskd", "early_teacher", "early_teacher,source=checkpoint", "born_again", "chain"],
)
def test_cells_with_our_figures_name_phases_that_there_are(arg):
    config = recipes.get_config(arg)
    named = set(re.findall(r"{(\w+)\[", str(config.report.to_dict())))
    # Without `stop` there are no students by early-stopped KD.
    named = {name for name in named if not (arg.startswith("early") and name.startswith("eskd"))}
    # And there is no ensemble of one network.
    named -= {"ensemble_generations_1", "ensemble_scratch_1"}
    assert named
    assert named <= set(config.phases)


def test_tables_have_the_papers_numbers():
    table = recipes.get_config("capacity").report.paper
    rows = [[row[i] for i in (0, 1, 3, 5, 7)] for row in table.rows if row[0] != "wrn_10_1"]
    assert rows == printed(CAPACITY)
    for student in ("wrn_16_1", "wrn_28_1"):
        table = recipes.get_config(f"capacity,data=cifar10,student={student}").report.paper
        rows = {row[1]: [row[i] for i in (0, 1, 3, 5, 7)] for row in table.rows}
        for row in printed(CAPACITY):
            assert row[0] != student or rows[row[1]] == row
    rows = recipes.get_config("eskd").report.paper.rows[:4]
    assert [[row[0], row[2], *row[4:]] for row in rows] == printed(ESKD)
    assert {row[3] for row in rows} == {"30.24"}


def test_a_chain_ends_in_a_student_beside_one_of_a_medium_teacher_from_scratch():
    phases = recipes.get_config("chain,data=cifar10").phases
    assert {name: (phase.model, phase.teachers) for name, phase in phases.items()} == {
        "teacher": ("wrn_16_8", ()),
        "medium_1": ("wrn_16_3", ("teacher",)),
        "medium_scratch": ("wrn_16_3", ()),
        "scratch": ("wrn_16_1", ("teacher",)),
        "chain": ("wrn_16_1", ("medium_1",)),
        "direct": ("wrn_16_1", ("medium_scratch",)),
        "large": ("wrn_16_1", ("teacher",)),
    }
    # The medium networks are teachers, and have all images of the digits.
    digits = recipes.get_config("chain").phases
    shots = {name for name, phase in digits.items() if phase.shots}
    assert shots == {"scratch", "chain", "direct", "large"}


def test_every_student_of_a_chain_is_measured_against_who_taught_it(tmp_path):
    config = small("chain")
    for phase in config.phases.values():
        phase.model = "small_run:Tiny"
    phases = execute(config, tmp_path / "run")[0]["phases"]
    taught = {
        "medium_1": "teacher", "chain": "medium_1", "direct": "medium_scratch", "large": "teacher"
    }  # fmt: skip
    for student, teacher in taught.items():
        expected = phases[teacher]["test"]["accuracy"]
        assert phases[student]["test"]["teacher_accuracy"] == expected


def test_longer_chains_go_from_teacher_to_teacher():
    phases = recipes.get_config("chain,models=resnet56/resnet32/resnet20/resnet8").phases
    assert phases.medium_2.teachers == ("medium_1",)
    assert phases.chain.teachers == ("medium_2",)
    assert phases.medium_scratch.model == phases.medium_2.model == "resnet20"


@pytest.fixture(scope="module")
def generations(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("born_again") / "run"
    config = small("born_again,generations=2", student_steps=6)
    return execute(config, workdir)[0], workdir, config


def test_generations_teach_each_other_and_as_many_networks_learn_from_scratch(generations):
    phases = generations[0]["phases"]
    assert list(phases) == [
        "generation_1", "generation_2", "scratch_2", "ensemble_generations_2", "ensemble_scratch_2",
    ]  # fmt: skip
    first = phases["generation_1"]["test"]["accuracy"]
    assert phases["generation_2"]["test"]["teacher_accuracy"] == first
    described = generations[0]["config"]["phases"]
    assert "kd" in described["generation_2"]["objective"]
    assert list(described["scratch_2"]["objective"]) == ["cross_entropy"]
    assert [phases[name]["seed"] for name in ("generation_1", "generation_2", "scratch_2")] == [
        0, 1, 1,
    ]  # fmt: skip


def probabilities(folder, images):
    """float32 [n, k] of a trained network."""
    trained = networks.load(str(folder))
    logits = trained.network.evaluate(trained.variables, images / np.float32(255)).logits
    return np.asarray(jax.nn.softmax(logits))


def test_a_row_of_an_ensemble_is_the_mean_of_the_probabilities(generations):
    summary, workdir, config = generations
    plans, _ = plan.plan_all(run.resolve(config))
    test = plans[0].data.splits["test"]
    images = np.asarray(test.split.images)
    for name, members in {
        "ensemble_generations_2": ("generation_1", "generation_2"),
        "ensemble_scratch_2": ("generation_1", "scratch_2"),
    }.items():
        each = [probabilities(workdir / member, images) for member in members]
        mean = np.mean(each, axis=0)
        result = summary["phases"][name]["test"]
        nll = -np.log(mean[np.arange(len(mean)), test.labels]).mean()
        assert result["nll"] == pytest.approx(nll, rel=2e-5)
        assert result["accuracy"] == pytest.approx((mean.argmax(-1) == test.labels).mean())
        assert all(abs(nll - summary["phases"][one]["test"]["nll"]) > 2e-4 for one in members)
    ours = rows_here(summary)[1]
    cells = ("generation_2", "ensemble_generations_2", "scratch_2", "ensemble_scratch_2")
    assert ours == ["2"] + [
        f"{1 - summary['phases'][name]['test']['accuracy']:.2%}" for name in cells
    ]


def test_the_weight_of_kd_is_an_argument():
    for arg, labels in (("eskd", 0.1), ("eskd,alpha=.1", 0.9)):
        terms = recipes.get_config(arg).phases.kd.objective
        assert terms.cross_entropy.weight == pytest.approx(labels)
        assert terms.kd.weight == pytest.approx(1 - labels)
        assert terms.kd.temperature == 4


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("capacity,vary=size", "unknown vary 'size': choose from width, depth"),
        ("capacity,student=resnet8", "student 'resnet8' is not a wrn: name its teachers"),
        ("capacity,stops=.5", "unknown config argument 'stops': choose from recipe, data"),
        ("eskd,stops=.5/1", "KD stops at 1 of the schedule: a stop is between 0 and 1"),
        ("eskd,stops=half", "stops is 'half': it is positive numbers, joined by /"),
        ("eskd,early=1", "early is 1: it is a share of the epochs, below 1"),
        ("eskd,alpha=0", "alpha is 0: it is the weight of KD, above 0 and at most 1"),
        ("early_teacher,source=long", "unknown source 'long': choose from short, checkpoint"),
        ("early_teacher,epochs=0/5", "epochs is '0/5': it is positive numbers"),
        ("born_again,generations=1", "generations is 1: there are at least 2"),
        ("chain,models=resnet20/resnet8", "a chain has at least 3, joined by /"),
    ],
)
def test_mistakes_are_one_line(arg, message):
    with pytest.raises(UserError) as error:
        recipes.get_config(arg)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_goes_on_is_compared_with_a_phase_that_there_is(tmp_path):
    config = small("eskd,stops=.5,early=0")
    config.phases.eskd_50.continue_from = "eskd_25_kd"
    assert "goes on from 'eskd_25_kd', which is not an earlier" in refusal(config, tmp_path / "run")
