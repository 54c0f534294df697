"""The recipes of Stanton et al. 2021: what makes each that experiment, and a few steps of each."""

import re

import numpy as np
import pytest
from small_run import execute

from configs import common, recipes
from experiments import plan, run
from experiments.data import Subset
from kdjax import checkpoint, networks
from kdjax.types import UserError

TINY = "tiny_network:Tiny"
_NETWORK = f",teacher={TINY}"
# Each recipe by arguments with which it has few phases.
SMALL = {
    "fidelity_data": f"m=1,amounts=0/100{_NETWORK}",
    "fidelity_augmentation": f"m=2{_NETWORK}",
    "fidelity_split": f"m=1,temperatures=4{_NETWORK}",
    "fidelity_mnist": f"images=digits,amounts=50{_NETWORK}",
    "fidelity_temperature": f"m=1,temperatures=4{_NETWORK}",
    "fidelity_ensemble": f"m=2{_NETWORK}",
    "fidelity_labels": f"m=1,weights=0/.5{_NETWORK}",
    "fidelity_capacity": f"m=1,pairs={TINY}>{TINY}",
    "fidelity_init": f"lambdas=0/.25/1,scale_lr=0{_NETWORK}",
    "fidelity_optimizer": f"lengths=300/1000{_NETWORK}",
    "fidelity_start": f"temperature=4{_NETWORK}",
}


def small(recipe):
    """The recipe with tiny networks, in debug form."""
    config = recipes.get_config(f"{recipe},{SMALL[recipe]}")
    config.debug = True
    return config


def students(config):
    return {name: phase for name, phase in config.phases.items() if phase.teachers}


def cells(described):
    """All cells of a table or a figure."""
    if "rows" in described:
        return [cell for row in described.rows for cell in row]
    return [cell for _, points in described.series for pair in points for cell in pair]


@pytest.mark.parametrize("data", ["digits", "cifar100"])
@pytest.mark.parametrize("recipe", SMALL)
def test_tables_and_plots_name_phases_that_there_are(recipe, data):
    config = recipes.get_config(f"{recipe},data={data}")
    named = set()
    for described in config.report.values():
        found = [re.match(r"{(\w+)\[", str(cell)) for cell in cells(described)]
        named |= {match[1] for match in found if match}
    assert named <= set(config.phases)
    shown = {name for name in students(config) if not name.startswith("independent")}
    assert shown <= named


@pytest.mark.parametrize("recipe", SMALL)
def test_students_learn_from_kd_alone_by_the_papers_protocol(recipe):
    config = recipes.get_config(f"{recipe},data=cifar100")
    for name, phase in config.phases.items():
        assert (phase.mean, phase.std) == ((0.5,) * 3, (0.5,) * 3)
        assert phase.augment.crop_last
        assert phase.schedule.name == "cosine"
        if phase.ensemble:
            continue
        if phase.teachers:
            assert phase.batch_size == 128
            assert phase.objective.kd.combine == "ensemble"
            if recipe != "fidelity_labels":
                assert list(phase.objective) == ["kd"], name
        else:
            assert (phase.batch_size, phase.optimizer.learning_rate) == (256, 0.1)
            assert list(phase.objective) == ["cross_entropy"]
    assert config.student.epochs == 300
    assert config.student.optimizer.to_dict() == {
        "name": "sgd", "learning_rate": 0.05, "momentum": 0.9, "nesterov": True,
        "delta": 0.075, "weight_decay": 1e-4, "decoupled": False, "decay_mask": "all",
        "grad_clip_norm": 0.0,
    }  # fmt: skip


# Of each recipe, the phases that differ in kind; that of `fidelity_init` has a test of its own.
RUN = {
    "fidelity_data": "teacher_1 independent_teacher_1 more_100 independent_100",
    "fidelity_augmentation": "teacher_1 teacher_2 ensemble combined mixup_t4 synthetic_t4",
    "fidelity_split": "teacher_1 m1_t4_D1",
    "fidelity_mnist": "teacher_1 same other_50",
    "fidelity_temperature": "teacher_1 m1_t4",
    "fidelity_ensemble": "teacher_1 teacher_2 m2",
    "fidelity_labels": "teacher_1 m1_a0_5",
    "fidelity_capacity": "Tiny_1 Tiny_to_Tiny_m1",
    "fidelity_optimizer": "teacher_1 adam_1000",
    "fidelity_start": "teacher_1 same",
}


@pytest.mark.parametrize("recipe", RUN)
def test_every_recipe_runs(recipe, tmp_path):
    config = small(recipe)
    for name in list(config.phases):
        if name not in RUN[recipe].split():
            del config.phases[name]
    summary, printed = execute(config, tmp_path / "run")
    phases = summary["phases"]
    assert list(phases) == RUN[recipe].split()
    for name in students(config):
        assert phases[name]["steps"] == 2
        for figures in (
            phases[name]["test"]["agreement"],
            phases[name]["train"]["running_agreement"],
        ):
            assert 0 <= figures <= 1
    assert "Stanton et al. 2021" in printed
    assert (tmp_path / "run/fidelity.png").exists() == ("fidelity" in config.report)


def planned(recipe):
    """The plans of the recipe with tiny networks, by phase."""
    config = recipes.get_config(f"{recipe},{SMALL[recipe]}")
    plans, _ = plan.plan_all(run.resolve(config))
    return {one.name: one for one in plans}


def test_halves_are_disjoint_and_teachers_have_only_the_first():
    plans = planned("fidelity_split")

    def positions(name):
        config = plans[name].config.subset
        subset = Subset(parts=config.parts, part=tuple(config.part), seed=config.seed)
        chosen = subset.choose(np.zeros(200, np.int32), 10)
        assert len(chosen) == len(plans[name].data.train)
        return set(chosen.tolist())

    d0, d1, both = (positions(f"m1_t4_{part}") for part in ("D0", "D1", "both"))
    assert len(d0) == len(d1) == 100
    assert not d0 & d1
    assert d0 | d1 == both == set(range(200))
    for teacher in ("teacher_1", "teacher_2", "teacher_3"):
        assert positions(teacher) == d0
    # The images themselves, too: no half has those of the other.
    images = [
        {image.tobytes() for image in plans[f"m1_t4_{part}"].data.train.split.images}
        for part in ("D0", "D1")
    ]
    assert images[0] != images[1]
    assert len(images[0] & images[1]) < 10


def test_a_temperature_grid_shares_a_half_or_has_students_on_another():
    subsets = {
        arg: [recipes.get_config(f"fidelity_temperature,m=1{arg}").phases[name].subset.to_dict()
              for name in ("teacher_1", "m1_t4")]
        for arg in ("", ",student_part=1", ",student_part=0/1", ",halves=0")
    }  # fmt: skip
    parts = {arg: [(one["parts"], one["part"]) for one in both] for arg, both in subsets.items()}
    assert parts == {
        "": [(2, (0,)), (2, (0,))],
        ",student_part=1": [(2, (0,)), (2, (1,))],
        ",student_part=0/1": [(2, (0,)), (2, (0, 1))],
        ",halves=0": [(1, ()), (1, ())],
    }


def test_both_sources_give_images_in_proportion_and_an_epoch_is_a_pass_over_both():
    plans = planned("fidelity_data")
    task = plans["more_100"].action.task
    # Of 100 images each.
    assert task.batch_parts == (16, 16)
    assert len(plans["more_100"].data.more) == 100
    assert (plans["more_100"].data.more.labels == -1).all()
    epochs = plans["more_100"].config.epochs
    steps = {name: plans[name].action.end.max_steps for name in ("more_0", "more_100")}
    assert steps["more_0"] == pytest.approx(epochs * 100 / 32, abs=1)
    assert steps["more_100"] == pytest.approx(epochs * 200 / 32, abs=1)
    gan, ood = (
        recipes.get_config("fidelity_augmentation,data=cifar100").phases[name].more_images
        for name in ("synthetic_t4", "ood")
    )
    assert gan.share == 0.2
    assert (ood.name, ood.examples, ood.share) == ("tfds:svhn_cropped", 10_000, 1 / 6)
    amounts = recipes.get_config("fidelity_data,data=cifar100").phases
    assert [name for name in amounts if name.startswith("more")] == [
        "more_0", "more_12500", "more_25000", "more_37500", "more_50000",
    ]  # fmt: skip


def test_a_network_that_is_only_compared_with_is_not_run_in_training():
    plans = planned("fidelity_data")
    phase = plans["independent_100"]
    assert phase.members[0].teachers == ("independent_teacher_1",)
    assert phase.members[0].compared_with == ("teacher_1",)
    # The step takes the variables of one teacher, and that is the independent one.
    assert len(phase.action.task.teachers) == 1
    assert phase.action.task.teachers[0] is plans["independent_teacher_1"].network


def test_the_baseline_of_an_ensemble_is_compared_with_the_ensemble():
    phases = recipes.get_config("fidelity_data,m=3").phases
    baseline = phases.baseline_0
    assert baseline.ensemble == ("independent_0",)
    assert baseline.teachers == ("teacher_1", "teacher_2", "teacher_3")
    assert not set(baseline.teachers) & set(phases.independent_0.teachers)


def test_a_student_of_m_teachers_has_the_first_m_as_an_ensemble():
    phases = recipes.get_config("fidelity_ensemble,m=4").phases
    for m in range(1, 5):
        student = phases[f"m{m}"]
        assert student.teachers == tuple(f"teacher_{i}" for i in range(1, m + 1))
        assert student.objective.kd.to_dict() == {
            "weight": 1.0, "temperature": 1.0, "combine": "ensemble",
        }  # fmt: skip


def test_labels_have_the_weight_a_and_kd_the_rest():
    phases = recipes.get_config("fidelity_labels,m=1").phases
    weights = {
        name: {term: given["weight"] for term, given in phase.objective.to_dict().items()}
        for name, phase in phases.items()
        if phase.teachers
    }
    assert weights["m1_a0"] == {"kd": 1.0}
    assert weights["m1_a0_3"] == {"kd": pytest.approx(0.7), "cross_entropy": 0.3}


def test_the_policies_differ_in_their_augmentation_alone():
    phases = students(recipes.get_config("fidelity_augmentation,data=cifar100"))
    assert len(phases) == 11
    plain = phases["baseline"].augment.to_dict()
    assert (plain["crop"], plain["padding"], plain["flip"]) == ("padded", 4, True)
    changed = {}
    for name, phase in phases.items():
        given = phase.augment.to_dict()
        changed[name] = {key: value for key, value in given.items() if value != plain[key]}
        assert phase.objective.kd.temperature == (4.0 if name.endswith("_t4") else 1.0)
    three = {"rotation": 20.0, "vertical_flip": True, "jitter": 0.2}
    mixed = {"mixup": 1.0, "teacher_view": "function_matching"}
    assert changed == {
        "baseline": {}, "baseline_t4": {}, "synthetic_t4": {}, "ood": {}, "noise": {"noise": 0.2},
        **{key: {key: value} for key, value in three.items()}, "combined": three,
        "mixup": mixed, "mixup_t4": mixed,
    }  # fmt: skip
    turned = recipes.get_config("fidelity_augmentation,rotation=90").phases
    assert turned.combined.augment.rotation == 90


def test_capacity_has_teachers_of_each_model_once():
    phases = recipes.get_config("fidelity_capacity,data=cifar100,m=3").phases
    models = [phase.model for phase in phases.values() if not phase.teachers]
    assert models == ["preresnet20"] * 3 + ["preresnet56"] * 3
    student = phases.preresnet56_to_preresnet110_m3
    assert student.model == "preresnet110"
    assert {phases[teacher].model for teacher in student.teachers} == {"preresnet56"}


def test_mnists_teacher_has_few_images_and_its_students_all():
    phases = recipes.get_config("fidelity_mnist,data=mnist").phases
    assert {name: phase.shots for name, phase in phases.items()} == {
        "teacher_1": 20, "same": 20, "all": 0, "other_174483": 0, "other_348966": 0,
        "other_697932": 0,
    }  # fmt: skip
    assert phases.other_697932.images.name == "tfds:emnist/byclass"
    assert not phases.other_697932.images.labels
    assert (phases.teacher_1.epochs, phases.teacher_1.model) == (100, "lenet5")


def test_the_rate_falls_with_lambda_in_the_code_and_not_in_the_text():
    code, text = (recipes.get_config(f"fidelity_init,scale_lr={i}") for i in (1, 0))
    rates = [
        code.phases[f"lambda_{mix}"].optimizer.learning_rate for mix in ("0", "0_25", "0_875", "1")
    ]
    assert rates == pytest.approx([0.05, 0.0375, 0.00625, 1e-6])
    assert {one.optimizer.learning_rate for one in students(text).values()} == {0.05}
    for config in (code, text):
        started = students(config).values()
        mixes = [one.init_mix for one in started]
        assert mixes == [0, 0.25, 0.375, 0.5, 0.75, 0.875, 1]
        assert {one.init_from for one in started} == {"teacher_1"}
        assert {one.model_options.norm for one in config.phases.values()} == {"layer"}
        assert not any(one.reestimate_batch_norm for one in started)
    batch = recipes.get_config("fidelity_init,norm=batch")
    assert all(one.reestimate_batch_norm for one in students(batch).values())


def test_a_start_on_the_line_is_the_teacher_at_one_and_the_own_initialisation_at_zero(tmp_path):
    line, own = small("fidelity_init"), small("fidelity_init")
    for config in (line, own):
        # Students that do not move end where they start.
        config.student.optimizer.learning_rate = 0.0
    for phase in students(own).values():
        phase.update(init_from="", init_mix=1.0, teachers=())
        phase.objective = common.base().student.objective
    del own.phases["teacher_1"], own.phases["lambda_1"]
    parameters = {}
    for folder, config in (("line", line), ("own", own)):
        execute(config, tmp_path / folder)
        for name in config.phases:
            trained = networks.load(str(tmp_path / folder / name))
            parameters[folder, name] = checkpoint.flatten(trained.variables["params"])
    teacher = parameters["line", "teacher_1"]
    for key, start in parameters["line", "lambda_1"].items():
        np.testing.assert_allclose(start, teacher[key], atol=1e-6)
    for mix, name in ((0.0, "lambda_0"), (0.25, "lambda_0_25")):
        for key, start in parameters["line", name].items():
            expected = mix * teacher[key] + (1 - mix) * parameters["own", name][key]
            np.testing.assert_allclose(start, expected, atol=1e-6)
    kernel = "['conv']['kernel']"
    assert np.abs(parameters["own", "lambda_0"][kernel] - teacher[kernel]).max() > 0.1


def test_lengths_are_in_proportion_and_longer_ones_have_no_weight_decay():
    phases = recipes.get_config("fidelity_optimizer,data=cifar100").phases
    settings = {
        name: (phase.epochs, phase.optimizer.name, phase.optimizer.weight_decay)
        for name, phase in phases.items()
        if phase.teachers
    }
    assert settings == {
        "sgd_300": (300, "sgd", 1e-4),
        "sgd_1000": (pytest.approx(1000), "sgd", 0.0),
        "sgd_5000": (pytest.approx(5000), "sgd", 0.0),
        "adam_1000": (pytest.approx(1000), "adam", 0.0),
        "adam_5000": (pytest.approx(5000), "adam", 0.0),
    }
    config = recipes.get_config("fidelity_optimizer")
    config.student.epochs = 30.0
    assert config.phases.sgd_1000.epochs == pytest.approx(100)
    (student,) = students(recipes.get_config("fidelity_optimizer,lengths=300"))
    assert student == "sgd_300"


def test_one_student_starts_where_its_teacher_started():
    phases = recipes.get_config("fidelity_start").phases
    assert list(phases.teacher_1.keep) == [0.0]
    assert (phases.random.init_from, phases.same.init_from) == ("", "teacher_1@0")
    assert {phase.model_options.norm for phase in phases.values()} == {"batch"}


def test_numbers_of_the_paper_stand_beside_ours():
    (row,) = (
        row
        for row in recipes.get_config("fidelity_temperature").report.paper.rows
        if row[:2] == ["5", "8"]
    )
    assert row[2:4] == ["62.18", "75.32"]
    rows = recipes.get_config("fidelity_data,data=cifar100").report.paper.rows
    assert [row[:4] for row in rows[:2]] == [
        ["+0", "~72.5", "~72.0", "~77.0"], ["+12500", "~73.5", "~72.5", "~79.0"],
    ]  # fmt: skip
    row = recipes.get_config("fidelity_augmentation").report.paper.rows[7]
    assert row[:6] == ["MixUp", "~.750", "~.835", "~.740", "~1.2", "~.845"]
    row = recipes.get_config("fidelity_init").report.paper.rows[2]
    assert row[:4] == ["0.375", "51.19 51.75 51.42", "97.8 97.25 97.6", "1.0e-2 1.7e-2 1.4e-2"]


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("fidelity_split,m=1/x", "m is '1/x': it is whole numbers from 1 on, joined by /"),
        ("fidelity_ensemble,m=0", "m is 0: it is a number of teachers, at least 1"),
        ("fidelity_labels,weights=0/2", "weights is '0/2': it is numbers from 0 to 1"),
        ("fidelity_init,lambdas=-1", "lambdas is '-1': it is numbers from 0 to 1"),
        ("fidelity_init,scale_lr=2", "scale_lr is 2: choose from 0, 1"),
        ("fidelity_capacity,pairs=a", "pairs is 'a': pairs are TEACHER>STUDENT"),
        ("fidelity_capacity,teacher=a", "unknown config argument 'teacher'"),
        ("fidelity_data,data=npz:x", "training images of data=npz:x is not known: set examples=N"),
    ],
)
def test_mistakes_are_one_line(arg, message):
    with pytest.raises(UserError) as error:
        recipes.get_config(arg)
    assert message in str(error.value)
