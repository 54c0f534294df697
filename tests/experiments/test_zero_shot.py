"""Phases without data: what they see, resuming, few shots, and transition curves."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from small_run import execute, refusal, small_config

from configs import common
from configs.zero_shot_codes import METHODS
from experiments import boundaries, data, plan, run
from experiments.log import Bar, read_metrics
from experiments.tasks.data_free import read_settings
from kdjax import checkpoint, networks, schedules
from kdjax.data import sources
from kdjax.types import UserError

TIMES = ("seconds", "images_per_second", "eta_seconds")

ADVERSARIAL = {"student_steps": (2,), "latent_dim": 8, "eval_every": 2}


def data_free_config(teacher, **adversarial):
    """A teacher from another run and a student without data, on images of 8x8 pixels."""
    config = small_config()
    del config.phases["scratch"], config.phases["kd"]
    config.teacher.checkpoint = str(teacher)
    config.student.optimizer.update(
        name="adam", learning_rate=2e-3, weight_decay=0.0, grad_clip_norm=5.0
    )
    config.phases.zero_shot = common.inherit(
        config.student,
        teachers=("teacher",),
        objective={"at": {"weight": 250.0}},
        adversarial=ADVERSARIAL | adversarial,
    )
    config.student.update(steps=4, batch_size=8)
    return config


class Blinding:
    """Images that raise an error when they are looked at."""

    shape = (1201, 8, 8, 1)
    dtype = np.uint8

    def __getitem__(self, places):
        raise AssertionError("a phase without data looked at training images")

    def __array__(self, *args, **kwargs):
        raise AssertionError("a phase without data looked at training images")


@pytest.fixture(scope="module")
def done(finished, tmp_path_factory):
    """A finished run with a data-free phase, in a process that cannot see training images."""
    workdir = tmp_path_factory.mktemp("zero_shot") / "run"
    config = data_free_config(finished / "teacher")
    config.data.name, config.evaluation.name = "", "digits"
    config.data.update(image_size=8, channels=1, num_classes=10)
    load = sources.load

    def blinded(*args, **kwargs):
        dataset = load(*args, **kwargs)
        train = sources.Split(Blinding(), dataset.train.labels)
        return dataset._replace(train=train)

    sources.load = blinded
    try:
        summary, printed = execute(config, workdir, curves=True)
    finally:
        sources.load = load
    return workdir, summary, printed, config


def test_a_data_free_phase_never_looks_at_training_images(done, finished):
    workdir, summary, _, _ = done
    measured = summary["phases"]["zero_shot"]
    assert measured["steps"] == 4
    assert set(measured["test"]) == {
        "accuracy",
        "top5",
        "nll",
        "ece",
        "agreement",
        "agreement_top5",
        "kl",
        "teacher_accuracy",
        "best_accuracy",
    }
    assert "train" not in measured
    before = json.loads((finished / "summary.json").read_text())["phases"]["teacher"]
    assert measured["test"]["teacher_accuracy"] == before["test"]["accuracy"]
    rows = read_metrics(workdir / "zero_shot/metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 4]
    assert "epoch" not in rows[0]
    assert {
        "train/loss",
        "train/at",
        "train/distance",
        "train/generator/distance",
        "train/agreement",
    } <= set(rows[0])
    assert (workdir / "curves.png").exists()
    # It has the normalisation of its teacher and measures none.
    student = json.loads((workdir / "zero_shot/network.json").read_text())
    teacher = json.loads((finished / "teacher/network.json").read_text())
    assert (student["mean"], student["std"]) == (teacher["mean"], teacher["std"])


def test_the_step_of_a_data_free_phase_gets_no_arrays_of_data(finished):
    config = run.resolve(data_free_config(finished / "teacher"))
    plans, _ = plan.plan_all(config)
    assert list(plans[1].data.splits) == ["test"]
    with pytest.raises(UserError, match="no training data"):
        _ = plans[1].data.train


def test_pictures_of_the_generator_over_time(done):
    workdir, *_ = done
    strips = sorted((workdir / "zero_shot/pictures").iterdir())
    assert [strip.name for strip in strips] == ["00000002.png", "00000004.png"]
    assert Image.open(strips[0]).size == (80, 8)
    assert Image.open(workdir / "zero_shot/pictures.png").size == (80, 16)
    pictures = [np.asarray(Image.open(strip)) for strip in strips]
    assert np.any(pictures[0] != pictures[1])


def test_without_any_data_nothing_is_measured_and_the_student_is_the_same(done, tmp_path):
    workdir, _, _, config = done
    config.evaluation.name = ""
    summary, printed = execute(config, tmp_path / "run")
    config.evaluation.name = "digits"
    assert "test" not in summary["phases"]["zero_shot"]
    assert "zero_shot" in printed
    ours, theirs = (
        networks.load(str(folder / "zero_shot")).variables for folder in (tmp_path / "run", workdir)
    )
    for key, value in checkpoint.flatten(ours).items():
        np.testing.assert_array_equal(value, checkpoint.flatten(theirs)[key])


@pytest.mark.parametrize("method", ["zskt", "dfq", "fast"])
def test_an_interrupted_phase_without_data_ends_with_the_same_figures(finished, tmp_path, method):
    """n_G changes half-way, and the run is killed between two evaluations."""
    config = data_free_config(finished / "teacher", generator_steps=(1, 2), eval_every=1)
    if method in METHODS:
        changes = METHODS[method]
        small = {"generator_steps": (1, 2), "latent_dim": 8, "features": 8}
        config.phases.zero_shot.adversarial.update(changes.adversarial | small)
        config.phases.zero_shot.objective = changes.student["objective"]
    whole, _ = execute(config, tmp_path / "whole")
    workdir = tmp_path / "run"
    advance = Bar.advance

    class Killed(BaseException):
        pass

    def interrupt(self, step):
        if self.name == "zero_shot" and step == 3:
            raise Killed
        advance(self, step)

    Bar.advance = interrupt
    try:
        with pytest.raises(Killed):
            execute(config, workdir)
    finally:
        Bar.advance = advance
    again, _ = execute(config, workdir)
    assert again["phases"]["zero_shot"]["test"] == whole["phases"]["zero_shot"]["test"]
    arrays = [
        checkpoint.Checkpoints(folder / "zero_shot/checkpoints", read_only=True).read(4)[0]
        for folder in (tmp_path / "whole", workdir)
    ]
    assert any(key.startswith(".generator[") for key in arrays[0])
    for key, value in arrays[0].items():
        np.testing.assert_array_equal(value, arrays[1][key])
    logged, logged_again = (
        [
            {key: value for key, value in row.items() if key not in TIMES}
            for row in read_metrics(folder / "zero_shot/metrics.jsonl")
        ]
        for folder in (tmp_path / "whole", workdir)
    )
    # The learning rate, which is no part of the optimiser's state, too.
    assert logged == logged_again
    assert len({row["learning_rate"] for row in logged}) == len(logged) > 1


def test_few_shots_are_initialised_from_the_data_free_student(finished, tmp_path):
    config = data_free_config(finished / "teacher", spectral_norm=True)
    config.phases.few_shot = common.inherit(
        config.student, teachers=("teacher",), init_from="zero_shot", shots=3,
        objective={"kd": {"weight": 1.0}}, optimizer={"learning_rate": 0.0},
    )  # fmt: skip
    summary, _ = execute(config, tmp_path / "run")
    few = networks.load(str(tmp_path / "run/few_shot")).variables["params"]
    start = networks.load(str(tmp_path / "run/zero_shot")).variables["params"]
    np.testing.assert_array_equal(few["fc"]["kernel"], start["fc"]["kernel"])
    # With 30 images, the accuracy is a multiple of a thirtieth.
    hits = summary["phases"]["few_shot"]["train"]["accuracy"] * 30
    assert hits == pytest.approx(round(hits))
    few = data.read("digits").shots(3)
    assert np.bincount(few.train.labels).tolist() == [3] * 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.phases.zero_shot.adversarial.update(distnce="kl"), "adversarial has no key distnce: choose from distance"),
        (lambda c: c.phases.zero_shot.adversarial.update(distance="js"), "adversarial.distance is 'js': it must be one of"),
        (lambda c: c.phases.zero_shot.adversarial.update(student_steps=(0,)), "student_steps is (0,)"),
        (lambda c: c.phases.zero_shot.adversarial.update(latent_dim=0), "latent_dim is 0"),
        (lambda c: c.phases.zero_shot.adversarial.update(optimizer="lamb"), "adversarial.optimizer is 'lamb': it must be one of"),
        (lambda c: c.phases.zero_shot.adversarial.update(balance_weight=-1.0), "adversarial.balance_weight is -1.0"),
        (lambda c: c.phases.zero_shot.adversarial.update(fresh_images=True, stale_teacher=True), "stale_teacher needs images that stay"),
        (lambda c: c.phases.zero_shot.update(teachers=()), "needs a teacher"),
        (lambda c: c.phases.zero_shot.update(ema_decay=0.9), "learns without data, and ema_decay is 0.9"),
        (lambda c: c.phases.zero_shot.transition_curves.update(steps=0), "transition_curves.steps is 0"),
        (lambda c: c.phases.zero_shot.update(shots=5), "learns without data, and shots is 5"),
        (lambda c: c.phases.zero_shot.update(select="best"), "no validation split"),
        (lambda c: c.data.update(resize=9), "must be multiples of 4"),
        (lambda c: c.data.update(name=""), "without data set all three"),
        (lambda c: c.evaluation.update(name="digits", resize=16), "evaluation has images (16, 16, 1)"),
        (lambda c: c.phases.update(few=common.inherit(c.student, shots=500)), "shots is 500"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_nothing_is_written(finished, tmp_path, change, message):
    config = data_free_config(finished / "teacher")
    change(config)
    assert message in refusal(config, tmp_path / "run")


def test_a_phase_with_data_in_a_run_without_is_refused(finished, tmp_path):
    config = data_free_config(finished / "teacher")
    config.data.update(name="", image_size=8, channels=1, num_classes=10)
    config.phases.scratch = common.inherit(config.student)
    config.phases.scratch.update(mean=(0.3,), std=(0.4,))
    with pytest.raises(UserError, match="there is no training data"):
        execute(config, tmp_path / "run")


def test_settings_share_the_run_in_equal_parts():
    chosen = read_settings({"generator_steps": (1, 2, 4)})
    values = [schedules.in_parts(chosen.generator_steps, step, 9) for step in range(9)]
    assert values == [1, 1, 1, 2, 2, 2, 4, 4, 4]


def test_transition_curves_of_two_phases(finished, tmp_path):
    command = [
        sys.executable, "-m", "experiments.transition_curves", f"--a={finished / 'kd'}",
        "--trust=small_run",
    ]  # fmt: skip
    sizes = ["--images=5", "--steps=3", f"--out={tmp_path / 'curves'}"]
    done = subprocess.run(
        [*command, f"--b={finished / 'teacher'}", *sizes],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["images"], printed["steps"]) == (5, 3)
    assert 0 < printed["mean_transition_error"] < 1
    stored = json.loads((tmp_path / "curves.json").read_text())
    assert [len(one["curves"]["student"]["mean"]) for one in stored] == [3]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[:6]) == (2, "error:")


def test_networks_of_a_run_without_data_are_compared_on_what_it_was_evaluated_on(done, tmp_path):
    workdir, _, _, _ = done
    command = [sys.executable, "-m", "experiments.transition_curves", "--trust=small_run"]
    pair = [f"--a={workdir / 'zero_shot'}", f"--b={workdir / 'teacher'}"]
    sizes = ["--images=2", "--steps=2", f"--out={tmp_path / 'curves'}"]
    compared = subprocess.run(
        [*command, *pair, *sizes], capture_output=True, text=True, check=False
    )
    assert compared.returncode == 0, compared.stderr
    assert json.loads(compared.stdout)["data"] == "digits"


def test_a_phase_measures_its_transition_curves(finished, tmp_path):
    config = data_free_config(finished / "teacher")
    config.phases.zero_shot.update(steps=1)
    config.phases.zero_shot.transition_curves.update(images=600, steps=2)
    summary, _ = execute(config, tmp_path / "run")
    teacher, student = (phase["test"] for phase in summary["phases"].values())
    assert "mean_transition_error" not in teacher
    assert 0 < student["mean_transition_error"] < 1
    measured = json.loads((tmp_path / "run/zero_shot/transition_curves.json").read_text())
    # There are fewer images than asked for that both networks classify alike.
    assert measured["images"] == pytest.approx(student["agreement"] * 596)
    assert measured["classified_alike"] == pytest.approx(student["agreement"], abs=1e-6)
    assert (measured["steps"], len(measured["curves"]["teacher"]["mean"])) == (2, 2)
    assert (tmp_path / "run/transition_curves.png").read_bytes().startswith(b"\x89PNG")


def test_networks_with_other_normalisations_see_the_same_images(finished):
    """A network that normalises by other numbers is the same function of pixels elsewhere."""
    teacher = networks.load(str(finished / "teacher"))
    split = data.read("digits", resize=8).splits["test"]
    arguments = dict(image_size=8, images=6, steps=2, step_size=0.5)
    same = boundaries.measure(teacher, teacher, split, **arguments)
    assert same["mean_transition_error"] == 0
    first = jax.tree.map(np.asarray, teacher.variables["params"])
    doubled = {**first, "conv1": {"kernel": 2 * first["conv1"]["kernel"]}}
    other = teacher._replace(
        network=teacher.network._replace(std=tuple(2 * s for s in teacher.network.std)),
        variables={**teacher.variables, "params": doubled},
    )
    assert boundaries.measure(teacher, other, split, **arguments)[
        "mean_transition_error"
    ] == pytest.approx(0, abs=1e-5)


def test_each_seed_draws_shots_of_its_own(finished):
    config = data_free_config(finished / "teacher")
    del config.phases["zero_shot"]
    config.phases.few = common.inherit(
        config.student, teachers=("teacher",), seeds=(0, 1), shots=3, shots_per_seed=True,
        steps=1, objective={"kd": {"weight": 1.0}},
    )  # fmt: skip
    plans, _ = plan.plan_all(run.resolve(config))
    assert [[one.name for one in p.members] for p in plans] == [
        ["teacher"], ["few_seed0"], ["few_seed1"],
    ]  # fmt: skip
    images = [p.data.train.split.images for p in plans[1:]]
    assert np.any(images[0] != images[1])
    assert [np.bincount(p.data.train.labels).tolist() for p in plans[1:]] == [[3] * 10] * 2
