"""Moments of what enters a teacher's batch norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adversaries import BATCH, SHAPE, STAGES, network, variables_of

from kdjax import models, parallel
from kdjax.adversarial.moments import evaluate_with_moments
from kdjax.types import Network


@pytest.fixture(scope="module")
def teacher():
    """A network whose taps enter its batch norms, its variables and images."""
    net = network(8)
    variables = variables_of(net, 0)
    rng = np.random.default_rng(0)
    variables["batch_stats"] = jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.5, 2, x.shape), jnp.float32), variables["batch_stats"]
    )
    return net, variables, rng.uniform(size=(BATCH, *SHAPE)).astype(np.float32)


def test_moments_are_those_of_what_enters_each_batch_norm(teacher):
    net, variables, images = teacher
    expected = net.evaluate(variables, images)
    outputs, moments = evaluate_with_moments(net, variables, images)
    np.testing.assert_array_equal(outputs.logits, expected.logits)
    assert len(moments) == len(STAGES)
    for i, (stage, of_layer) in enumerate(zip(STAGES, moments, strict=True)):
        tap = np.asarray(expected.taps[stage], np.float64)
        np.testing.assert_allclose(of_layer.mean, tap.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(of_layer.variance, tap.var((0, 1, 2)), rtol=1e-4, atol=1e-6)
        averages = variables["batch_stats"][f"BatchNorm_{i}"]
        np.testing.assert_array_equal(of_layer.running_mean, averages["mean"])
        np.testing.assert_array_equal(of_layer.running_variance, averages["var"])


def test_moments_are_those_of_the_whole_batch_on_any_number_of_devices(teacher):
    net, variables, images = teacher
    devices = parallel.Devices.dividing(BATCH, 2)
    sharded = devices.map(
        lambda v, x: evaluate_with_moments(net, v, x, parallel.AXIS)[1], in_axes=(None, 0)
    )(devices.replicate(variables), devices.shard(images))
    whole = evaluate_with_moments(net, variables, images)[1]
    for ours, theirs in zip(jax.tree.leaves(sharded), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn_10_1", "vgg8", "mobilenetv2_half", "shufflenetv1"]
)
def test_no_batch_norm_of_a_model_is_missed(name):
    net = Network(models.create(name, num_classes=10), (0.5,) * 3, (0.25,) * 3)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), images)
    _, moments = jax.eval_shape(lambda v, x: evaluate_with_moments(net, v, x), variables, images)
    names = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    assert len(moments) == names.count("mean")
