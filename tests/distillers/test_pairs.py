"""Every method on the papers' pairs of networks, and on pairs with unequal numbers of stages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillers, models
from kdjax.train import abstract_outputs
from kdjax.types import Context, Network, Outputs, UserError

SAME_FAMILY = [
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("wrn_40_2", "wrn_16_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("distiller_resnet26", "distiller_resnet8"),
    ("mobilenetv2_x0_75", "mobilenetv3_small"),
]
OTHER_FAMILY = [
    ("vgg13", "mobilenetv2_half"),
    ("resnet50", "mobilenetv2_half"),
    ("resnet50", "vgg8"),
    ("resnet32x4", "shufflenetv1"),
    ("resnet32x4", "shufflenetv2"),
    ("wrn_40_2", "shufflenetv1"),
]
# Three stages and four, four and three, three and two.
UNEQUAL = [("resnet56", "vgg8"), ("resnet50", "resnet20"), ("wrn_16_2", "lenet")]
PAIRS = SAME_FAMILY + OTHER_FAMILY + UNEQUAL
# One pair of each kind; the slow test covers all.
SOME = [("resnet56", "resnet20"), ("vgg13", "mobilenetv2_half"), *UNEQUAL]
CLASSES, B, N = 10, 4, 16


@functools.cache
def _network(model):
    channels = 1 if model == "lenet" else 3
    return Network(
        models.create(model, num_classes=CLASSES, in_channels=channels),
        (0.5,) * channels,
        (0.5,) * channels,
    )


def _shapes(network):
    return abstract_outputs(network, (32, 32, len(network.mean)))


def _outputs(network, make):
    outputs, _ = _shapes(network)
    logits, features = jax.tree.map(lambda x: make((B, *x.shape[1:])), outputs)
    return Outputs(logits, features)


def _context(name, pair, make):
    """The networks' outputs, of which the student is what the method makes of it."""
    teacher, student = map(_network, pair)
    student = distillers.create(name).network(student, [_shapes(teacher)[0]])
    return Context(
        student=_outputs(student, make),
        teachers=(_outputs(teacher, make),),
        student_variables=jax.tree.map(lambda x: make(x.shape), _shapes(student)[1]),
        labels=jnp.eye(CLASSES)[:B],
        index=jnp.arange(B),
        step=jnp.int32(0),
        rng=jax.random.key(0),
        teacher_variables=(jax.tree.map(lambda x: make(x.shape), _shapes(teacher)[1]),),
        train_labels=jnp.arange(N) % CLASSES,
    )


# The networks, teacher and student, whose last map and classifier a method needs.
POOLED = {"cat": (0, 1), "sdd": (0, 1), "simkd": (0,)}


def _lacks_a_pooled_map(name, pair):
    """Whether a method cannot be used, as one of the networks does not pool its last map."""
    needed = [_shapes(_network(pair[i]))[0].taps for i in POOLED.get(name, ())]
    return any("pre_pool" not in taps for taps in needed)


def _objective(name):
    """Cross-entropy and the method, with default arguments."""
    methods = {key: (1.0, distillers.create(key)) for key in ("cross_entropy", name)}
    return distillers.weighted_sum(**methods)


@pytest.mark.parametrize("pair", SOME, ids="-".join)
@pytest.mark.parametrize("name", distillers.names())
def test_every_method_accepts_every_kind_of_pair(name, pair):
    """Checks the shapes of parameters, state and gradients without computing them."""
    make = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    if _lacks_a_pooled_map(name, pair):
        with pytest.raises(UserError, match="a network that ends in global average pooling"):
            _objective(name).init(jax.random.key(0), _context(name, pair, make))
        return
    context = _context(name, pair, make)
    objective = _objective(name)

    def gradient(context):
        variables = objective.init(jax.random.key(0), context)

        def loss(params, student):
            seen = context.replace(student=student)
            term = objective.loss({"params": params, "state": variables["state"]}, seen)
            return term.value, term.state

        gradients, state = jax.grad(loss, argnums=(0, 1), has_aux=True)(
            variables["params"], context.student
        )
        return variables, gradients, state

    variables, gradients, state = jax.eval_shape(gradient, context)
    assert gradients == (variables["params"], context.student)
    assert state == variables["state"]


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("name", distillers.names())
def test_every_method_takes_two_steps_on_every_pair(name, pair):
    """Gradient descent on random feature maps of the networks' shapes instead of on weights."""
    if _lacks_a_pooled_map(name, pair):
        return
    rng = np.random.default_rng(0)
    context = _context(name, pair, lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32))
    objective = _objective(name)
    variables = jax.jit(lambda: objective.init(jax.random.key(0), context))()

    @jax.jit
    def step(variables, student):
        def loss(params, student):
            seen = context.replace(student=student)
            term = objective.loss({"params": params, "state": variables["state"]}, seen)
            return term.value, term.state

        gradients, state = jax.grad(loss, argnums=(0, 1), has_aux=True)(
            variables["params"], student
        )
        params, student = jax.tree.map(
            lambda x, g: x - 1e-3 * g, (variables["params"], student), gradients
        )
        return {"params": params, "state": state}, student

    student = context.student
    for _ in range(2):
        before = (variables["params"], student)
        variables, student = step(variables, student)
        for leaf in jax.tree.leaves((variables, student)):
            assert jnp.isfinite(leaf).all()
        after = (variables["params"], student)
        assert not jax.tree.all(jax.tree.map(jnp.array_equal, before, after))
