"""Networks from PyTorch files."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from configs import distill
from kdjax import UserError, models, networks, torch_import

RGB = {"num_classes": 10, "in_channels": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3}


@pytest.fixture
def file(tmp_path):
    """A ResNet-18 as torchvision names its layers."""
    options = {"num_classes": 10, "stem": "imagenet"}
    model = models.create("resnet18", **options)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), model.example())
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    path = tmp_path / "teacher.safetensors"
    safetensors.numpy.save_file(torch_import.export("resnet18", variables, **options), path)
    return path


def test_options_reach_the_conversion(file):
    trained = networks.load(f"resnet18={file}", **RGB, options={"stem": "imagenet"})
    assert trained.name == "resnet18"
    assert trained.network.module.stem == "imagenet"
    assert trained.variables["params"]["conv1"]["kernel"].shape == (7, 7, 3, 64)


def test_a_file_that_needs_an_option_says_which(file):
    with pytest.raises(
        UserError, match=r"it fits with model_options stem='imagenet'; mismatched shapes: conv1\."
    ):
        networks.load(f"resnet18={file}", **RGB)


def test_the_options_of_a_layer_reach_its_phases_and_no_others():
    config = distill.get_config("teacher=resnet18,student=resnet20")
    config.teacher.model_options = ConfigDict({"stem": "imagenet"})
    assert config.phases.teacher.model_options.to_dict() == {"stem": "imagenet"}
    assert config.phases.kd.model_options.to_dict() == {}
    # They are shared, so that a change in place would reach what was not meant.
    with pytest.raises((AttributeError, KeyError)):
        config.student.model_options.stem = "imagenet"


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("generator", {}, "model generator has no attribute num_classes, in_channels"),
        ("resnet20", {"stems": 1}, "model resnet20 has no attribute stems: choose from"),
        ("resnet18", {"stem": 1}, "model resnet18: stem=1 is not a str"),
        ("resnet19", {}, "unknown model 'resnet19'"),
    ],
)
def test_wrong_model(model, options, message):
    with pytest.raises(UserError, match=message) as error:
        networks.create(model, **RGB, options=options)
    assert "\n" not in str(error.value)
