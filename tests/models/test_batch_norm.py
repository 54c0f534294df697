"""Batch norm against Flax's."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models.batch_norm import BatchNorm

DEVICES, C = 2, 6


def layers(**kwargs):
    kwargs = {"momentum": 0.8, "epsilon": 1e-3, **kwargs}
    return BatchNorm(**kwargs), nn.BatchNorm(**kwargs)


def variables_of(layer, x):
    """Variables of which no two values are equal, as after some training."""
    variables = layer.init(jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    changed = [
        v + jax.random.uniform(k, v.shape, v.dtype) for v, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, changed)


def in_training(layer, variables, x, weights):
    """The gradients of a weighted sum of the output, the output and the new averages."""

    def total(params, x):
        given = {**variables, "params": params}
        y, new = layer.apply(given, x, mutable=["batch_stats"])
        return jnp.sum(y.astype(jnp.float32) * weights), (y, new["batch_stats"])

    return jax.grad(total, (0, 1), has_aux=True)(variables["params"], x)


def examples(shape, dtype="float32"):
    x = (
        3 * jax.random.normal(jax.random.key(2), (*shape, C))
        + np.arange(C, dtype=np.float32)[(None,) * len(shape)]
    )
    return x.astype(dtype), jax.random.normal(jax.random.key(3), x.shape)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("shape", [(8, 4, 5), (16,)])
def test_training_equals_flax(shape, dtype, tolerance):
    layer, reference = layers(use_running_average=False, dtype=dtype)
    x, weights = examples(shape, dtype)
    variables = variables_of(layer, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, variables_of(reference, x))
    actual = in_training(layer, variables, x, weights)
    expected = in_training(reference, variables, x, weights)
    chex.assert_trees_all_equal_dtypes(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_evaluation_equals_flax():
    layer, reference = layers(use_running_average=True)
    x, _ = examples((8, 4, 5))
    variables = variables_of(layer, x)
    chex.assert_trees_all_close(
        layer.apply(variables, x), reference.apply(variables, x), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("mapped", [jax.pmap, jax.vmap])
def test_statistics_are_synchronised_over_a_mapped_axis(mapped):
    (layer, _), (alone, _) = (layers(use_running_average=False, axis_name=n) for n in ("d", None))
    x, weights = examples((DEVICES * 4, 3))
    variables = variables_of(layer, x)
    params, of_x = in_training(alone, variables, x, weights)[0]
    shards = (a.reshape(DEVICES, 4, *a.shape[1:]) for a in (x, weights))
    run = mapped(lambda *args: in_training(layer, variables, *args), axis_name="d")
    (own_params, own_x), (_, averages) = run(*shards)
    # Each device has its part of the gradient; they sum to the whole.
    total = jax.tree.map(lambda p: np.sum(p, axis=0), own_params)
    chex.assert_trees_all_close(total, params, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(own_x.reshape(x.shape), of_x, rtol=1e-4, atol=1e-5)
    first, second = (jax.tree.map(lambda a, i=i: a[i], averages) for i in range(DEVICES))
    chex.assert_trees_all_equal(first, second)


def test_a_constant_channel_has_a_finite_gradient():
    layer, _ = layers(use_running_average=False)
    x = jnp.full((8, C), 1e3)
    grads, (y, averages) = in_training(layer, variables_of(layer, x), x, jnp.ones_like(x))
    chex.assert_tree_all_finite((grads, y, averages))
    np.testing.assert_allclose(grads[1], 0, atol=1e-3)


def test_statistics_of_many_images_round_less_than_a_sum_in_one_go():
    x = 1 + jax.random.normal(jax.random.key(0), (64, 32, 32, 8))
    module = BatchNorm(use_running_average=False, momentum=0.0)
    variables = module.init(jax.random.key(1), x)
    apply = jax.jit(lambda x: module.apply(variables, x, mutable="batch_stats")[1]["batch_stats"])
    exact = np.asarray(x, np.float64)
    # One product of all 65,536 rows with ones is off by 6e-6, and that of their squares by 1e-5.
    measured = apply(x)
    np.testing.assert_allclose(measured["mean"], exact.mean((0, 1, 2)), rtol=5e-7)
    np.testing.assert_allclose(measured["var"], exact.var((0, 1, 2)), rtol=1e-6)


def test_its_sums_are_products_for_which_no_kernel_is_compiled():
    x, weights = examples((64, 4, 5))
    layer, _ = layers(use_running_average=False)
    variables = variables_of(layer, x)

    def both(x, weights):
        y, pull_back = jax.vjp(lambda x: layer.apply(variables, x, mutable="batch_stats"), x)
        return y, pull_back((weights, y[1]))

    program = jax.jit(both).lower(x, weights)
    assert "stablehlo.reduce" not in program.as_text()
    # Over pixels and images, of x, its square and two gradients, by a library that XLA calls.
    products = re.findall(r"kind=kCustom, .*dot_general", program.compile().as_text())
    assert len(products) == 8
