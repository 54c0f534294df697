"""What evaluation can take in place of the variables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import Network, heads, models

# Batch norm behind convolutions, grouped and with biases among them, and before them; other
# epsilons; no batch norm.
NAMES = (
    "resnet8", "wrn_10_1", "preresnet20", "vgg8", "mobilenetv3_small", "shufflenetv1", "lenet5",
)  # fmt: skip


def network(name, dtype=jnp.float32):
    module = models.create(name, num_classes=5, dtype=dtype)
    return Network(module, (0.5,) * 3, (0.25,) * 3)


def trained(net, shape):
    """Variables whose batch norms are no identities."""
    rng = np.random.default_rng(0)
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape))

    def draw(path, leaf):
        kind = path[-1].key
        low, high = {"var": (0.5, 2.0), "scale": (0.5, 1.5)}.get(kind, (-0.3, 0.3))
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, variables)


@pytest.fixture(scope="module", params=NAMES)
def prepared(request):
    net = network(request.param)
    images = np.random.default_rng(1).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    variables = trained(net, images.shape)
    return net, images, variables, jax.jit(net.prepare)(variables, images)


def test_the_outputs_are_those_of_the_variables(prepared):
    net, images, variables, found = prepared
    evaluate = jax.jit(net.evaluate)
    expected, actual = evaluate(variables, images), evaluate(found, images)
    for name, one in (("logits", expected.logits), *expected.taps.items()):
        other = actual.logits if name == "logits" else actual.taps[name]
        scale = np.abs(one).max()
        np.testing.assert_allclose(other / scale, one / scale, atol=1e-5, err_msg=name)


def test_logits_are_linear_in_the_mean_of_the_pooled_map(prepared):
    net, images, variables, _ = prepared
    logits, taps = jax.jit(net.evaluate)(variables, images)
    if "pre_pool" not in taps:
        return
    mean = np.asarray(taps["pre_pool"]).mean((1, 2))
    kernel, bias = heads.linear("it", variables, (mean.shape[1], logits.shape[1]))
    np.testing.assert_allclose(mean, taps["pre_logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean @ kernel + bias[None], logits, rtol=1e-3, atol=1e-4)


def test_nothing_is_computed_from_the_variances_again(prepared):
    net, images, variables, found = prepared

    def spoil(path, leaf):
        return leaf * np.nan if path[-1].key == "var" else leaf

    spoilt = jax.tree_util.tree_map_with_path(spoil, found)
    expected = jax.jit(net.evaluate)(found, images).logits
    np.testing.assert_array_equal(jax.jit(net.evaluate)(spoilt, images).logits, expected)
    assert set(jax.eval_shape(net.init, jax.random.key(0), images)) == set(variables)
    assert set(variables) <= {"params", "batch_stats"}


def test_a_network_that_computes_in_half_precision_keeps_its_figures_and_its_kernels_are_half():
    net = network("resnet8", jnp.bfloat16)
    images = np.random.default_rng(1).uniform(size=(4, 32, 32, 3)).astype(np.float32)
    variables = trained(net, images.shape)
    found = jax.jit(net.prepare)(variables, images)
    assert found["params"]["fc"]["kernel"].dtype == jnp.bfloat16
    assert found["folded"]["conv1"]["kernel"].dtype == jnp.bfloat16
    exact = network("resnet8").evaluate(variables, images).logits
    errors = [np.abs(net.evaluate(one, images).logits - exact).max() for one in (variables, found)]
    assert errors[1] < 2 * errors[0]
