"""Every config and variant is read, inherits, and can be planned."""

from pathlib import Path

import numpy as np
import pytest
from small_run import execute

from configs import (
    choices,
    common,
    compare,
    distill,
    function_matching,
    imagenet,
    methods,
    recipes,
    survey,
    train,
    zero_shot,
)
from experiments import plan, run
from kdjax import distillers
from kdjax.types import UserError

# Variants of function matching whose networks are tried in another one.
SMALL = ("pet", "food", "sun")

CASES = [
    *((zero_shot, data) for data in (None, *zero_shot.DATA)),
    *((zero_shot, f"cifar10,table={table}") for table in (1, 5)),
    (zero_shot, "table=2,code=paper,teacher=wrn_16_2"),
    (zero_shot, "svhn,table=3"),
    (zero_shot, "mnist,table=6"),
    *((zero_shot, f"digits,study={study}") for study in zero_shot.STUDIES if study),
    (zero_shot, "svhn,figure=3"),
    (zero_shot, "mnist,shots=10"),
    (zero_shot, "cifar10,method=dfq,code=report"),
    (zero_shot, "method=fast"),
    (function_matching, None),
    # Tracing BiT's 50 blocks takes seconds: `flowers` and `imagenet` have them.
    *((function_matching, name) for name in function_matching.VARIANTS if name not in SMALL),
    *((function_matching, f"{name},networks=resnet") for name in SMALL),
    (function_matching, "flowers,schedule=medium,networks=resnet"),
    (function_matching, "pet,schedule=long,networks=resnet"),
    (function_matching, "food,schedule=long,patient=all,networks=resnet"),
    (function_matching, "sun,views=all,crops=1000,networks=resnet"),
    (function_matching, "imagenet,schedule=medium"),
    (function_matching, "digits,views=all,crops=4,distances=kl/hard/euclidean"),
    (imagenet, None),
    (imagenet, "pair=resnet50/mobilenetv1,methods=kd/ofd/review"),
    (choices, None),
    (choices, "figure=9,data=cifar100"),
    (distill, None),
    (distill, "teacher=wrn_40_2,student=wrn_16_2,methods=kd,data=cifar100"),
    (distill, "methods=cross_entropy,scratch=0"),
    (distill, "methods=ft+kd,student=shufflenetv2,data=cifar100,protocol=review"),
    (distill, "methods=ab,joint=1,protocol=survey,data=cifar10"),
    (compare, "methods=kd/fsp/crd+kd"),
    (compare, "table=modern,student=resnet20,methods=kd/dkd_standardized/mlkd_standardized"),
    (recipes, "feature_losses"),
    (recipes, "uda_unlabelled,data=cifar10"),
    (recipes, "uda_unlabelled"),
    (recipes, "dual,rounds=1,code=code"),
    (recipes, "properties,jitter=0.4"),
    (recipes, "properties_mnist"),
    (recipes, "properties_mnist,data=mnist"),
    # The others have the same networks.
    (recipes, "fidelity_data,m=3,amounts=0/50"),
    (recipes, "fidelity_capacity,m=1"),
    (recipes, "fidelity_init,lambdas=0/1"),
    (recipes, "fidelity_mnist"),
    (recipes, "capacity,teachers=wrn_10_1/wrn_10_2"),
    (recipes, "eskd"),
    (recipes, "chain"),
    (recipes, "early_teacher,source=checkpoint,epochs=20/35/200"),
    (survey, "table=1,cells=printed"),
    (survey, "table=2"),
    (survey, "table=3,data=cifar10"),
    (train, None),
    (train, "resnet20,data=cifar10"),
]


@pytest.mark.usefixtures("shapes_known")
@pytest.mark.parametrize(
    ("module", "arg"), CASES, ids=[f"{m.__name__}:{a or ''}" for m, a in CASES]
)
def test_every_config_can_be_planned_on_the_digits(module, arg):
    """Names, shapes and methods fit, at the variant's own image size."""
    config = module.get_config(arg)
    config.debug = True
    resolved = run.resolve(config)
    plans, _ = plan.plan_all(resolved)
    trained = [one for one in plans if not one.config.ensemble]
    assert [one.action.end.max_steps for one in trained] == [2] * len(trained)
    assert len(plans) == len(config.phases)


def test_every_config_has_a_docstring_with_its_command():
    for file in Path("configs").glob("*.py"):
        if "get_config" in (text := file.read_text()):
            # A family of recipes is called through the file of all.
            name = "recipes.py" if file.stem.startswith("recipes") else file.name
            assert f"--config=configs/{name}" in text


def test_debug_keeps_data_and_teacher_that_are_at_hand(finished, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 120), ("test", 60)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 8, 8, 1)).astype(np.uint8)
        arrays[f"{split}_labels"] = np.arange(n) % 10
    np.savez(tmp_path / "own.npz", **arrays)
    config = distill.get_config("student=resnet8")
    config.debug = True
    config.data.update(name=f"npz:{tmp_path / 'own.npz'}", resize=0)
    config.teacher.update(model="small_run:Tiny", checkpoint=str(finished / "teacher"))
    resolved = run.resolve(config)
    assert resolved.data.name.startswith("npz:")
    plans, _ = plan.plan_all(resolved)
    assert plans[0].action.trained.name == "small_run:Tiny"
    for split in plans[1].data.splits.values():
        assert np.bincount(split.labels).max() <= 5
    assert plans[1].action.end.max_steps == 2


def test_debug_runs_any_config_on_embedded_data(tmp_path):
    config = function_matching.get_config("cifar10")
    config.debug = True
    config.student.model = config.teacher.model = "small_run:Tiny"
    config.data.resize = 8
    del config.phases["scratch"], config.phases["kd"]
    summary, printed = execute(config, tmp_path / "run")
    assert [p["steps"] for p in summary["phases"].values()] == [2, 2]
    assert summary["config"]["data"]["name"] == "digits"
    assert "function_matching" in printed


def test_a_change_reaches_what_inherits_and_nothing_else():
    config = common.base()
    config.phases.one = common.inherit(config.teacher, optimizer={"grad_clip_norm": 1.0})
    config.phases.two = common.inherit(config.student)
    config.train.epochs = 3.0
    config.train.optimizer.learning_rate = 0.5
    config.teacher.epochs = 7.0
    assert config.phases.one.epochs == 7.0
    assert config.phases.two.epochs == 3.0
    assert config.phases.one.optimizer.learning_rate == 0.5
    assert (
        config.phases.one.optimizer.grad_clip_norm,
        config.phases.two.optimizer.grad_clip_norm,
    ) == (1.0, 0.0)
    config.seed = 5
    assert config.phases.two.seed == 5


def test_published_schedules():
    flowers = function_matching.get_config("flowers,schedule=medium")
    student = flowers.phases.function_matching
    assert (student.epochs, student.batch_size) == (100_000, 512)
    assert student.optimizer.learning_rate * student.optimizer.weight_decay == pytest.approx(1e-4)
    assert list(student.objective) == ["kd"]
    assert (flowers.data.whole, flowers.data.resize, flowers.data.image_size) == (True, 160, 128)
    imagenet = function_matching.get_config("imagenet,schedule=long").phases.function_matching
    assert (imagenet.epochs, imagenet.batch_size, imagenet.schedule.warmup) == (9_600, 4096, 5000)
    # Table 4 of Beyer et al. 2022: epochs, T, learning rate and weight decay.
    for variant, table in {
        "food": {"fast": (100, 10, 0.01, 1e-3), "medium": (1000, 10, 0.001, 3e-4),
                 "long": (3000, 5, 0.01, 1e-4)},
        "sun": {"fast": (100, 10, 0.01, 1e-3), "long": (3000, 10, 0.01, 3e-5)},
    }.items():  # fmt: skip
        for schedule, (epochs, temperature, rate, decay) in table.items():
            config = function_matching.get_config(f"{variant},schedule={schedule}")
            phase = config.phases.function_matching
            assert (phase.epochs, phase.objective.kd.temperature) == (epochs, temperature)
            assert phase.optimizer.learning_rate == rate
            assert phase.optimizer.weight_decay * rate == pytest.approx(decay)
    crd = distill.get_config("student=wrn_16_2,data=cifar100").phases.kd
    assert (crd.epochs, crd.batch_size, crd.optimizer.learning_rate) == (240, 64, 0.05)
    assert [round(b * 240) for b in crd.schedule.boundaries] == [150, 180, 210]
    assert crd.objective.to_dict() == {
        "cross_entropy": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0},
    }  # fmt: skip


@pytest.mark.parametrize("variant", ["flowers", "pet", "food", "sun", "imagenet"])
def test_only_students_by_kl_alone_have_the_long_schedule(variant):
    def lengths(arguments):
        config = function_matching.get_config(f"{variant},{arguments}")
        return {name: phase.epochs for name, phase in config.phases.items()}

    fast, long = (lengths(f"schedule={name},views=all,crops=5") for name in ("fast", "long"))
    baselines = ("teacher", "scratch", "kd")
    for name in baselines:
        assert fast[name] == long[name] <= 2500
    assert len({long[name] for name in long if name not in baselines}) == 1
    assert long["function_matching"] >= 10 * fast["function_matching"]
    everyone = lengths("schedule=long,patient=all")
    assert set(everyone.values()) == {long["function_matching"]}


def test_distances_and_averages_are_further_phases():
    config = function_matching.get_config("digits,crops=7,distances=kl/hard/euclidean")
    names = ["averaged", "function_matching", "hard", "euclidean"]
    assert list(config.phases)[3:] == names
    averaged = config.phases.averaged.augment
    assert (averaged.teacher_view, averaged.teacher_crops, averaged.mixup) == ("fixed", 7, 0.0)
    kl, *others = (config.phases[name] for name in names[1:])
    for name, phase in zip(names[2:], others, strict=True):
        assert phase.objective.kd.distance == name
        assert phase.augment.to_dict() == kl.augment.to_dict()
        assert phase.epochs == kl.epochs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("views=fix", "unknown views 'fix': choose from fixed, independent"),
        ("distances=kl/agree", "unknown distances 'agree': choose from kl, hard, euclidean"),
        ("patient=teacher", "unknown patient 'teacher': choose from student, all"),
        ("sun,schedule=short", "unknown schedule 'short': choose from fast, medium, long"),
        ("pet,networks=vgg", "unknown networks 'vgg': choose from bit, resnet"),
        ("imagenet,resolution=192", "resolution is 192: imagenet has 224 or 160, and the others"),
        ("pet,resolution=160", "resolution is 160: imagenet has 224 or 160, and the others"),
    ],
)
def test_a_mistake_in_the_arguments_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        function_matching.get_config(arguments)


def test_the_four_views_differ_in_nothing_else():
    phases = function_matching.get_config("digits,views=all").phases
    views = {name: p for name, p in phases.items() if name not in ("teacher", "scratch", "kd")}
    assert list(views) == ["fixed", "independent", "consistent", "function_matching"]
    for name, phase in views.items():
        assert phase.augment.teacher_view == name
        assert phase.augment.mixup == (name == "function_matching")
        assert phase.objective.to_dict() == {"kd": {"weight": 1.0, "temperature": 2.0}}
        assert phase.epochs == phases.function_matching.epochs


def test_protocols_are_the_papers():
    review = distill.get_config("student=shufflenetv1,data=cifar100,protocol=review")
    assert review.phases.kd.optimizer.learning_rate == pytest.approx(0.02)
    assert review.phases.teacher.optimizer.learning_rate == 0.1
    assert (review.phases.kd.batch_size, review.phases.kd.optimizer.nesterov) == (128, True)
    survey = distill.get_config("data=cifar10,protocol=survey").phases.kd
    assert (survey.epochs, survey.batch_size) == (200, 128)
    assert [int(b * 200) for b in survey.schedule.boundaries] == [66, 132]
    assert survey.objective.to_dict() == {
        "cross_entropy": {"weight": 0.5}, "kd": {"weight": 0.5, "temperature": 5.0},
    }  # fmt: skip
    mobile = distill.get_config("student=mobilenetv2_half,data=cifar100").phases.kd
    assert mobile.optimizer.learning_rate == pytest.approx(0.01)


def test_every_method_has_a_recipe():
    assert sorted([*methods.RECIPES, "cross_entropy"]) == distillers.names()


@pytest.mark.parametrize(
    ("teacher", "student", "beta"),
    [
        ("resnet56", "resnet20", 2.0),
        ("resnet110", "resnet32", 2.0),
        ("resnet32x4", "resnet8x4", 8.0),
        ("wrn_40_2", "wrn_16_2", 6.0),
        ("wrn_40_2", "shufflenetv1", 8.0),
        ("vgg13", "vgg8", 6.0),
        ("vgg13", "mobilenetv2_half", 6.0),
        ("resnet50", "mobilenetv2_half", 8.0),
    ],
)
def test_dkds_beta_is_mdistillers(teacher, student, beta):
    assert methods.objective(["dkd"], teacher, student)["dkd"]["beta"] == beta


@pytest.mark.parametrize(
    ("student", "paraphraser", "translator"),
    [
        ("resnet20", 0.01, 0.05),
        ("wrn_16_2", 0.01, 0.05),
        ("vgg8", 0.05, 0.05),
        ("shufflenetv1", 0.01, 0.01),
        ("mobilenetv2_half", 0.01, 0.01),
    ],
)
def test_learning_rates_of_factor_transfer_are_repdistillers(student, paraphraser, translator):
    config = distill.get_config(f"methods=ft,student={student},data=cifar100,protocol=crd")
    first, second = config.phases.ft_init, config.phases.ft
    assert first.optimizer.learning_rate == pytest.approx(paraphraser)
    assert second.optimizer.learning_rate == pytest.approx(translator)


def test_methods_beside_one_another_have_their_own_weights():
    both = methods.objective(["crd", "kd"])
    assert [both[name]["weight"] for name in ("cross_entropy", "kd", "crd")] == [1.0, 1.0, 0.8]


def test_methods_with_a_first_phase_have_two_phases():
    config = distill.get_config("methods=ab")
    config.student.epochs = 40.0
    config.student.optimizer.learning_rate = 0.3
    first, second = config.phases.ab_init, config.phases.ab
    assert (first.epochs, second.epochs) == (5.0, 40.0)
    assert list(first.objective) == ["ab"]
    assert first.schedule.name == "constant"
    assert list(second.objective) == ["cross_entropy"]
    assert (second.init_from, second.init_methods_from) == ("ab_init", "")
    joint = distill.get_config("methods=ab,joint=1").phases
    assert list(joint) == ["teacher", "scratch", "ab"]
    assert list(joint.ab.objective) == ["cross_entropy", "ab"]


@pytest.mark.parametrize(
    ("module", "arg", "message"),
    [
        (function_matching, "cifar11", "unknown variant 'cifar11': choose from digits"),
        (function_matching, "pet,schedule=slow", "unknown schedule 'slow'"),
        (function_matching, "digits,views=some", "unknown views 'some': choose from"),
        (choices, "table=1", "there is no table=1,figure=0: choose from table=2, figure=6"),
        (choices, "figure=5", "there is no table=0,figure=5"),
        (distill, "studnt=x", "unknown config argument 'studnt': choose from methods, teacher"),
        (distill, "methods=kd+nothing", "unknown method 'nothing'"),
        (distill, "protocol=crq", "unknown protocol 'crq': choose from crd, survey, review, at"),
        (distill, "scratch=maybe", "scratch='maybe' is not int"),
    ],
)
def test_bad_arguments_are_one_line(module, arg, message):
    with pytest.raises(UserError, match=message):
        module.get_config(arg)
