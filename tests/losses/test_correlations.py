import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses


def _logits(seed, b=6, k=5):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 3, (b, k)), jnp.float32)


def test_dist_is_one_minus_numpys_correlations():
    student, teacher = _logits(0), _logits(1)
    p_s, p_t = (np.asarray(jax.nn.softmax(x / 2), np.float64) for x in (student, teacher))

    def distance(s, t):
        return 1 - np.mean([np.corrcoef(*rows)[0, 1] for rows in zip(s, t, strict=True)])

    of_examples, of_classes = distance(p_s, p_t), distance(p_s.T, p_t.T)
    for beta, gamma in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0)):
        actual = losses.dist(student, teacher, temperature=2.0, beta=beta, gamma=gamma)
        np.testing.assert_allclose(actual, 4 * (beta * of_examples + gamma * of_classes), rtol=1e-4)


def test_dist_has_no_gradient_where_nothing_varies():
    teacher = _logits(1)
    classes = jax.grad(lambda x: losses.dist(x, teacher, beta=0.0))
    equal = jnp.broadcast_to(_logits(0)[:1], (6, 5))
    np.testing.assert_array_equal(classes(equal), jnp.zeros((6, 5)))
    # As the class with a logit of -1e4, whose probabilities are all zero.
    dead = _logits(0).at[:, 2].set(-1e4)
    slope = jax.grad(losses.dist)(dead, teacher)
    assert jnp.isfinite(slope).all()
    np.testing.assert_array_equal(slope[:, 2], jnp.zeros(6))
    assert (slope[:, 1] != 0).all()


def test_each_correlation_ignores_the_order_of_what_it_sums_over():
    student, teacher = _logits(0), _logits(1)
    examples, classes = student[::-1], student[:, ::-1]
    for loss, same, other in (
        (losses.class_correlation, examples, classes),
        (losses.batch_correlation, classes, examples),
    ):
        value = loss(student, teacher)
        np.testing.assert_allclose(loss(same, teacher), value, rtol=1e-4)
        assert abs(loss(other, teacher) - value) > 0.01 * value
