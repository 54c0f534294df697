import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses


def _scores(b=4, m=6):
    return jnp.exp(jax.random.normal(jax.random.key(0), (b, 1 + m))) / 10


def test_a_count_of_two_equals_a_repeated_negative():
    scores = _scores()
    twice = losses.crd_nce(jnp.concatenate([scores, scores[:, 1:]], axis=1), 100)
    counted = losses.crd_nce(scores, 100, counts=jnp.full((4, 6), 2.0))
    np.testing.assert_allclose(counted, twice, rtol=1e-5)


def test_a_count_of_zero_removes_a_negative():
    scores = _scores()
    counts = jnp.ones((4, 6)).at[:, 3:].set(0.0)
    expected = losses.crd_nce(scores[:, :4], 100)
    np.testing.assert_allclose(losses.crd_nce(scores, 100, counts=counts), expected, rtol=1e-5)


def test_without_negatives_loss_and_gradient_are_zero():
    zero = jnp.zeros((4, 6))
    value, gradient = jax.value_and_grad(lambda s: losses.crd_nce(s, 100, counts=zero).sum())(
        _scores()
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((4, 7)))


def test_the_loss_falls_with_the_positives_score_and_rises_with_the_negatives():
    gradient = jax.grad(lambda s: losses.crd_nce(s, 100).sum())(_scores())
    assert (gradient[:, 0] < 0).all()
    assert (gradient[:, 1:] > 0).all()
