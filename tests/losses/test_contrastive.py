import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses


def _scores(b=4, m=6):
    return jnp.exp(jax.random.normal(jax.random.key(0), (b, 1 + m))) / 10


def test_a_negative_that_counts_twice_is_the_same_as_two():
    scores = _scores()
    twice = losses.crd_nce(jnp.concatenate([scores, scores[:, 1:]], axis=1), 100)
    counted = losses.crd_nce(scores, 100, counts=jnp.full((4, 6), 2.0))
    np.testing.assert_allclose(counted, twice, rtol=1e-5)


def test_a_negative_that_does_not_count_is_not_there():
    scores = _scores()
    counts = jnp.ones((4, 6)).at[:, 3:].set(0.0)
    expected = losses.crd_nce(scores[:, :4], 100)
    np.testing.assert_allclose(losses.crd_nce(scores, 100, counts=counts), expected, rtol=1e-5)


def test_without_negatives_there_is_nothing_to_learn():
    zero = jnp.zeros((4, 6))
    value, gradient = jax.value_and_grad(lambda s: losses.crd_nce(s, 100, counts=zero).sum())(
        _scores()
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((4, 7)))


def test_a_surer_positive_and_less_sure_negatives_are_better():
    gradient = jax.grad(lambda s: losses.crd_nce(s, 100).sum())(_scores())
    assert (gradient[:, 0] < 0).all()
    assert (gradient[:, 1:] > 0).all()
