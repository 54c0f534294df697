"""What is said of networks that a run did not train."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from small_run import execute, refusal, small_config

from experiments import loaded, plan, run
from experiments.report import predictions, runs
from kdjax import models, networks, torch_import


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A PyTorch file with a network that has learned nothing."""
    options = dict(num_classes=10, in_channels=1)
    module = models.create("resnet8", **options)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    path = tmp_path_factory.mktemp("torch") / "teacher.safetensors"
    exported = torch_import.export("resnet8", variables, **options)
    safetensors.numpy.save_file(exported, path)
    return path


def with_teacher(file):
    """A small run whose teacher is in the file."""
    config = small_config()
    config.teacher.update(model="resnet8", checkpoint=str(file))
    return config


def said(config):
    plans, from_elsewhere = plan.plan_all(run.resolve(config))
    known = set()
    return [line for one in plans for line in loaded.lines(one, from_elsewhere, known)]


def test_a_network_near_chance_is_warned_of_with_its_normalisation(file):
    config = with_teacher(file)
    line, warning = said(config)
    assert line.startswith(f"teacher: resnet8 from {file}, test accuracy ")
    assert line.endswith("(measured on the training images, as none are given)")
    assert "mean 0.30" in line
    assert warning.startswith("warning: teacher is right on ")
    assert "chance is 10.00%" in warning


def test_a_normalisation_of_other_pixels_is_warned_of_once(file):
    config = with_teacher(file)
    config.train.update(mean=(77.0,), std=(96.0,))
    lines = said(config)
    assert any("mean 77, std 96 (given)" in line for line in lines)
    warnings = [line for line in lines if "pixels in [0, 255] by 255" in line]
    assert [line.split()[1] for line in warnings] == ["teacher", "scratch"]


@pytest.fixture
def four_classes(tmp_path):
    """A small run on images of four classes that mean nothing."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (64, 8, 8, 1)).astype(np.uint8)
        arrays[f"{split}_labels"] = np.arange(64) % 4
    np.savez(tmp_path / "own.npz", **arrays)
    config = small_config()
    config.data.update(name=f"npz:{tmp_path / 'own.npz'}", train_examples=0)
    return config


def test_features_are_learned_from_a_network_of_other_classes(four_classes, finished, tmp_path):
    config = four_classes
    del config.phases["teacher"], config.phases["scratch"]
    config.phases.kd.teachers = (str(finished / "teacher"),)
    assert "the teacher has 10 classes, the student 4" in refusal(config, tmp_path / "kd")
    objective = {"cross_entropy": {}, "nst": {"weight": 10.0}}
    config.phases.kd.objective = ConfigDict(objective)
    summary, printed = execute(config, tmp_path / "run")
    assert "of 10 classes, where the data has 4" in printed
    measured = summary["phases"]["kd"]["test"]
    assert "accuracy" in measured
    assert "agreement" not in measured


def test_a_phase_can_load_a_teacher_of_other_classes_from_a_file(four_classes, file, tmp_path):
    config = four_classes
    config.teacher.update(model="resnet8", checkpoint=str(file))
    del config.phases["scratch"]
    assert "the teacher has 10 classes, the student 4" in refusal(config, tmp_path / "kd")
    config.phases.kd.objective = ConfigDict({"cross_entropy": {}, "nst": {"weight": 10.0}})
    summary, printed = execute(config, tmp_path / "run")
    assert "of 10 classes, where the data has 4" in printed
    assert summary["phases"]["teacher"]["test"] == {}
    assert networks.read_description(tmp_path / "run/teacher")["class_names"] == []
    assert list(predictions.predict(runs.read(tmp_path / "run")).phases) == ["kd"]
    assert "accuracy" in summary["phases"]["kd"]["test"]


@pytest.mark.parametrize("from_file", [False, True])
def test_a_network_of_other_classes_is_fine_tuned_with_a_new_head(
    four_classes, finished, file, tmp_path, from_file
):
    config = four_classes
    del config.phases["teacher"], config.phases["kd"]
    source = str(file) if from_file else str(finished / "teacher")
    config.phases.scratch.update(init_from=source, keep=(0,), teachers=())
    if from_file:
        config.phases.scratch.model = "resnet8"
    assert refusal(config, tmp_path / "run")
    config.phases.scratch.new_head = True
    execute(config, tmp_path / "run")
    start = networks.load(str(tmp_path / "run/scratch@0")).variables
    given = networks.load(
        source,
        model=config.phases.scratch.model,
        in_channels=1,
        mean=(0.5,),
        std=(0.2,),
        image_size=8,
    ).variables
    head = start["params"].pop("fc")
    given["params"].pop("fc")
    chex.assert_trees_all_equal(start, jax.device_get(given))
    assert head["bias"].shape == (4,)
    assert np.std(head["kernel"]) > 0


def test_a_new_head_is_for_a_network_that_was_given(tmp_path):
    config = small_config()
    config.phases.kd.new_head = True
    assert "'kd' has new_head, but no init_from" in refusal(config, tmp_path / "run")


def test_a_teacher_is_measured_at_the_resolution_at_which_it_teaches(file):
    config = small_config()
    del config.phases["teacher"], config.phases["scratch"]
    config.phases.kd.teachers = (f"resnet8={file}",)
    config.phases.kd.augment.teacher_size = (16,)
    plans, from_elsewhere = plan.plan_all(run.resolve(config))
    line, *_ = loaded.lines(plans[0], from_elsewhere, set())
    assert line.startswith(f"resnet8={file}: resnet8, test accuracy")
    # What the phase will look up, so that nothing is computed twice.
    known = plans[0].data.splits["test"].teacher_logits
    assert list(known) == [(f"resnet8={file}", 16)]


def test_nothing_is_said_of_a_run_that_trains_all_its_networks():
    assert said(small_config()) == []
