"""Every method on every pair of the papers' tables, and on pairs of unequal depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from kdjax import distillers, models, train
from kdjax.data import views
from kdjax.train import abstract_outputs
from kdjax.types import Context, Network, Outputs

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
CLASSES, B, N = 10, 4, 16


@functools.cache
def _shapes(model):
    channels = 1 if model == "lenet" else 3
    network = Network(
        models.create(model, num_classes=CLASSES, in_channels=channels),
        (0.5,) * channels,
        (0.5,) * channels,
    )
    outputs, variables = abstract_outputs(network, (32, 32, channels))
    taps = jax.tree.map(lambda x: (B, *x.shape[1:]), outputs)
    return taps, variables


def _outputs(model, make):
    taps, _ = _shapes(model)
    logits, features = jax.tree.map(
        make, taps, is_leaf=lambda x: isinstance(x, tuple) and x[0] == B
    )
    return Outputs(logits, features)


def _context(pair, make):
    teacher, student = pair
    return Context(
        student=_outputs(student, make),
        teachers=(_outputs(teacher, make),),
        labels=jnp.eye(CLASSES)[:B],
        index=jnp.arange(B),
        step=jnp.int32(0),
        rng=jax.random.key(0),
        teacher_variables=(_shapes(teacher)[1],),
        train_labels=jnp.arange(N) % CLASSES,
    )


def _objective(names, pair):
    terms = common.objective(list(names), *pair)
    return distillers.weighted_sum(
        **{name: (1.0, distillers.create(name, **_arguments(term))) for name, term in terms.items()}
    )


def _arguments(term):
    return {key: value for key, value in term.items() if key not in ("weight", "schedule")}


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("name", distillers.names())
def test_every_method_applies_to_every_pair(name, pair):
    """Shapes of parameters, state and gradients; nothing is computed."""
    context = _context(pair, lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32))
    objective = _objective([name], pair)

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
def test_all_methods_together_make_two_steps_on_every_pair(pair):
    """With the networks themselves: half a minute to some minutes each."""
    networks = []
    images = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3)).astype(np.uint8)
    for model in pair:
        channels = 1 if "lenet" in pair else 3
        module = models.create(model, num_classes=CLASSES, in_channels=channels)
        networks.append(Network(module, (0.5,) * channels, (0.5,) * channels))
    data = {"images": jnp.asarray(images[..., :channels]), "labels": jnp.arange(N) % CLASSES}
    teacher, student = networks
    example = jnp.zeros((1, 32, 32, channels))
    taught = jax.jit(teacher.init)(jax.random.key(1), example)
    shared = dict(
        student=student,
        distiller=_objective(distillers.names(), pair),
        optimizer=optax.sgd(1e-6),
        teachers=[teacher],
    )
    sizes = dict(image_shape=(32, 32, channels), num_classes=CLASSES, batch_size=B)
    init = functools.partial(train.init_state, **shared, **sizes)
    state = jax.jit(lambda key: init(key, teacher_variables=[taught], train_labels=data["labels"]))(
        jax.random.key(0)
    )
    view = views.make_views(num_classes=CLASSES, image_size=32)
    step = jax.jit(train.make_train_step(**shared, views=view))
    for i in range(2):
        batch = {"index": jnp.arange(B * i, B * (i + 1))[None]}
        before = state
        state, metrics = step(state, (taught,), data, batch, jax.random.key(0))
        assert set(distillers.names()) <= set(metrics)
        for name, value in metrics.items():
            assert jnp.isfinite(value), name
        assert not jax.tree.all(jax.tree.map(jnp.array_equal, state.params, before.params))
