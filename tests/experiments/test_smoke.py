"""Smoke tests of configs for large images, on generated ones."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from small_run import execute

from configs import common, function_matching, imagenet
from experiments import run


def test_the_command_runs_on_generated_images_of_the_configs_size(tmp_path):
    config = imagenet.get_config("methods=kd,scratch=0")
    config.debug = True
    for layer in (config.teacher, config.student):
        layer.model = "kdjax.models.resnet:ResNet"
        layer.model_options = ConfigDict({"blocks": (1,), "widths": (4, 4)})
    summary, printed = execute(config, tmp_path / "run")
    data = summary["config"]["data"]
    assert data["name"] == "generated:n=16,side=256,classes=1000"
    assert (data["resize"], data["image_size"], data["whole"]) == (256, 224, True)
    assert [phase["steps"] for phase in summary["phases"].values()] == [2, 2]
    assert "70.66" in printed


@pytest.mark.parametrize(
    ("arguments", "side", "classes"),
    [("imagenet,resolution=160", 183, 1000), ("flowers", 160, 102)],
)
def test_generated_images_have_the_size_and_classes_of_the_data(arguments, side, classes):
    config = function_matching.get_config(arguments)
    config.debug = True
    resolved = run.resolve(config)
    assert resolved.data.name == f"generated:n=16,side={side},classes={classes}"
    assert {phase.batch_size for phase in resolved.phases.values()} == {8}


@pytest.mark.parametrize(
    "changes",
    [
        {"debug": False},
        {"data.dir": "prepared"},
        {"data.name": "folder:images"},
    ],
)
def test_other_data_stays(changes):
    config = common.base()
    config.debug = True
    config.data.update(name="tfds:imagenet2012", resize=256, image_size=224)
    config.update_from_flattened_dict(changes)
    config.phases.teacher = common.inherit(config.teacher)
    assert run.resolve(config).data.to_dict() == config.data.to_dict()


def test_the_digits_stand_in_for_small_images():
    config = imagenet.get_config("methods=kd")
    config.debug = True
    config.data.update(resize=32, image_size=32)
    assert run.resolve(config).data.name == "digits"


def test_published_recipes():
    config = imagenet.get_config("pair=resnet50/mobilenetv1")
    phases = config.phases
    assert list(phases) == ["teacher", "scratch", *imagenet.ROWS]
    assert {phase.epochs for phase in phases.values()} == {100.0}
    for name, (batch, rate) in {"kd": (512, 0.2), "dkd": (512, 0.2), "crd": (256, 0.1)}.items():
        assert (phases[name].batch_size, phases[name].optimizer.learning_rate) == (batch, rate)
    assert [round(share * 100) for share in phases.kd.schedule.boundaries] == [30, 60, 90]
    assert (phases.review.objective.review.weight, phases.dkd.objective.dkd.beta) == (8.0, 2.0)
    assert np.allclose([phases.kd.objective[term].weight for term in ("cross_entropy", "kd")], 0.5)
    # What is set for all students reaches those with twice the batch.
    config.student.batch_size = 64
    assert (phases.kd.batch_size, phases.crd.batch_size) == (128, 64)
    other = imagenet.get_config("methods=dkd/review").phases
    assert (other.review.objective.review.weight, other.dkd.objective.dkd.beta) == (1.0, 0.5)
