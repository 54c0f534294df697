"""Models of the user's own, created from `package.module:factory`."""

import importlib

import jax
import jax.numpy as jnp
import pytest

from kdjax import Outputs, UserError, models
from kdjax.models import Model

SOURCE = '''
import functools
import flax.linen as nn
from kdjax import Outputs
from kdjax.models import Model

class Mine(Model):
    width: int = 8

    @nn.compact
    def __call__(self, images, train=False):
        x = self.check_images(images)
        x = stem = nn.relu(self.conv_norm(x, self.batch_norm(train), ("conv", "bn"), self.width, 3))
        x = x.mean((1, 2))
        return Outputs(self.classifier(x, name="fc"), {"stem": stem, "pre_logits": x})

wide = functools.partial(Mine, width=32)

def function(num_classes, width=4):
    return Mine(num_classes=num_classes, width=width)

def flexible(**attributes):
    return Mine(**attributes)

def fixed():
    return Mine(num_classes=3)

def gray(num_classes):
    return Mine(num_classes=num_classes, in_channels=1)

def needs(num_classes, *, depth):
    return Mine(num_classes=num_classes)

class Plain(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.num_classes)(images.mean((1, 2)))

def plain(num_classes):
    return Plain(num_classes)

def nothing():
    """Forgets to return."""

instance = Mine(num_classes=10)
'''
COMMON = {"num_classes": 10, "in_channels": 3, "dtype": jnp.bfloat16, "axis_name": "batch"}


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"my_models_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return name


@pytest.mark.parametrize(
    ("factory", "options", "width"),
    [
        ("Mine", {}, 8),
        ("Mine", {"width": 2}, 2),
        ("wide", {}, 32),
        ("function", {}, 4),
        ("function", {"width": 2}, 2),
        ("flexible", {"width": 2}, 2),
    ],
)
def test_a_factory_gives_a_model_with_the_common_attributes(module, factory, options, width):
    reference = f"{module}:{factory}"
    models.check_name(reference)
    model = models.create(reference, **COMMON, **options)
    assert isinstance(model, Model)
    assert {key: getattr(model, key) for key in COMMON} == COMMON
    # What the runner relies on.
    model = model.variant_for(["params"]).clone(axis_name=None)
    outputs, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x), model.example()
    )
    assert isinstance(outputs, Outputs)
    assert outputs.logits.shape == (1, 10)
    assert outputs.taps["stem"].shape[-1] == width
    assert variables.keys() == {"params", "batch_stats"}


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("Mine", {"typo": 1}, "has no attribute typo: choose from dtype, axis_name, width, num_cl"),
        ("function", {"typo": 1}, "has no attribute typo: choose from num_classes, width"),
        ("needs", {}, "needs depth"),
        ("Mine", {"num_classes": 0}, "num_classes=0 is not a positive integer"),
        ("fixed", {}, "has num_classes=3 instead of 10"),
        ("gray", {}, "has in_channels=1 instead of 3"),
        ("Plain", {}, "does not derive from kdjax.models.Model: it must be a class derived from"),
        ("plain", {}, "returned an object of type Plain, which does not derive from kdjax.models"),
        ("nothing", {}, "returned an object of type NoneType, which does not derive from"),
        ("instance", {}, "is an object of type Mine: it must be a class derived from"),
        ("absent", {}, "has no 'absent'"),
    ],
)
def test_mistakes_are_one_line_errors(module, factory, options, message):
    reference = f"{module}:{factory}"
    with pytest.raises(UserError) as error:
        models.create(reference, **(COMMON | options))
    assert reference in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_error_for_an_unknown_name_mentions_references():
    with pytest.raises(UserError, match=r"or give your own as package\.module:factory"):
        models.check_name("mine")
