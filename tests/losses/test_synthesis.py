"""Losses of generated images beside NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from kdjax import losses


def _moments(seed, c=5):
    rng = np.random.default_rng(seed)
    mean, running_mean = rng.normal(0, 2, (2, c))
    variance, running_variance = rng.uniform(0.1, 3, (2, c))
    return [x.astype(np.float32) for x in (mean, variance, running_mean, running_variance)]


def test_the_distance_from_a_batch_norm_and_its_gradient():
    given = _moments(0)
    mean, variance, running_mean, running_variance = (x.astype(np.float64) for x in given)
    means, variances = mean - running_mean, variance - running_variance
    lengths = [np.linalg.norm(x) for x in (means, variances)]
    value, gradients = jax.value_and_grad(losses.batch_norm_distance, argnums=(0, 1))(*given)
    np.testing.assert_allclose(value, sum(lengths), rtol=1e-6)
    for gradient, x, length in zip(gradients, (means, variances), lengths, strict=True):
        np.testing.assert_allclose(gradient, x / length, rtol=1e-5)


def test_no_distance_from_a_batch_norm_has_no_gradient():
    mean, variance, *_ = _moments(0)
    value, gradients = jax.value_and_grad(losses.batch_norm_distance, argnums=(0, 1))(
        mean, variance, mean, variance
    )
    assert value == 0
    np.testing.assert_array_equal(gradients, np.zeros((2, len(mean))))


def test_class_balance_and_its_gradient():
    logits = np.random.default_rng(0).normal(0, 3, (6, 4)).astype(np.float32)
    p = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    mean = p.mean(0)
    value, gradient = jax.value_and_grad(losses.class_balance)(logits)
    np.testing.assert_allclose(value, -scipy.special.entr(mean).sum(), rtol=1e-5)
    slope = np.log(mean) + 1
    expected = p * (slope - (p * slope).sum(-1, keepdims=True)) / len(p)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize(("classes", "expected"), [([0, 1, 2, 3], -np.log(4)), ([2, 2], 0.0)])
def test_class_balance_is_lowest_for_equal_shares_and_finite_for_certain_predictions(
    classes, expected
):
    logits = 1e4 * jnp.eye(4)[jnp.array(classes)]
    value, gradient = jax.value_and_grad(losses.class_balance)(logits)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
    assert np.isfinite(gradient).all()
