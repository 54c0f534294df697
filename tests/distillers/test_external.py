"""Methods of the user's own, created from `package.module:factory`."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillers
from kdjax.types import Context, Distiller, Outputs, UserError

SOURCE = '''
import jax.numpy as jnp
from kdjax import Distiller, MethodLoss
from kdjax.distillers import for_each_teacher

def squares(*, scale=1.0):
    """Squared difference of the logits."""

    def loss(variables, context):
        difference = context.student.logits - context.teacher.logits
        return MethodLoss(scale * jnp.sum(difference**2, -1), variables["state"], {})

    return for_each_teacher("squares", loss, same_classes=True)

def flexible(**kwargs):
    return squares(**kwargs)

def needs(scale):
    return squares(scale=scale)

def nothing():
    """Forgets to return."""

instance = squares()
number = 3
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"my_methods_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return name


@pytest.mark.parametrize("factory", ["squares", "flexible", "needs"])
def test_a_factory_is_called_with_the_arguments(module, factory):
    distiller = distillers.create(f"{module}:{factory}", scale=2.0)
    assert isinstance(distiller, Distiller)
    logits = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    context = Context(
        student=Outputs(jnp.asarray(logits[0]), {}),
        teachers=(Outputs(jnp.asarray(logits[1]), {}),),
        labels=jnp.eye(3)[jnp.zeros(4, jnp.int32)],
        index=jnp.arange(4),
        step=jnp.int32(0),
        rng=jax.random.key(0),
    )
    objective = distillers.weighted_sum(mine=(0.5, distiller))
    value = objective.loss(objective.init(jax.random.key(0), context), context).value
    expected = 0.5 * np.mean(2 * np.square(logits[0] - logits[1]).sum(-1))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("factory", "kwargs", "message"),
    [
        ("squares", {"typo": 1}, "method '{}' has no argument typo: choose from scale"),
        ("nothing", {"typo": 1}, "method '{}' has no argument typo: choose from none"),
        ("needs", {}, "method '{}' needs the argument scale"),
        ("nothing", {}, "method '{}' returned an object of type NoneType: it must return a kdjax"),
        ("number", {}, "method '{}' is of type int: it must be a function that returns a kdjax."),
        ("instance", {}, "method '{}' is of type Distiller: it must be a function that returns"),
        ("absent", {}, "has no 'absent'"),
    ],
)
def test_mistakes_are_one_line_errors(module, factory, kwargs, message):
    reference = f"{module}:{factory}"
    with pytest.raises(UserError) as error:
        distillers.create(reference, **kwargs)
    assert message.format(reference) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_error_for_an_unknown_name_mentions_references():
    with pytest.raises(UserError, match=r"or give your own as package\.module:factory"):
        distillers.create("squares")
