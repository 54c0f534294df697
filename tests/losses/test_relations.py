import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

RELATIONS = {
    "correlation_congruence": losses.correlation_congruence,
    "pkt": losses.pkt,
    "rkd": losses.rkd,
    "similarity_preserving": losses.similarity_preserving,
}


def _embedding(seed, b=6, d=8):
    return jax.random.normal(jax.random.key(seed), (b, d))


@pytest.mark.parametrize("name", RELATIONS)
def test_loss_is_zero_for_equal_embeddings_and_for_a_single_example(name):
    value, gradient = jax.jit(jax.value_and_grad(RELATIONS[name]))(_embedding(0), _embedding(0))
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient, np.zeros((6, 8)), atol=1e-5)
    one = RELATIONS[name](_embedding(0, 1), _embedding(1, 1))
    np.testing.assert_allclose(one, 0.0, atol=1e-6)


@pytest.mark.parametrize("name", RELATIONS)
def test_gradients_are_finite_for_equal_and_for_zero_examples(name):
    slope = jax.jit(jax.grad(RELATIONS[name]))
    for student in (jnp.ones((4, 8)), jnp.zeros((4, 8))):
        assert jnp.isfinite(slope(student, _embedding(1, 4))).all()


def test_pkt_counts_dead_embeddings_as_zero():
    student, teacher = _embedding(0), _embedding(1)
    dead, almost = (losses.pkt(student.at[0].set(x), teacher) for x in (0.0, 1e-9))
    assert dead == almost
    gradient = jax.grad(losses.pkt)(student.at[0].set(0.0), teacher)
    np.testing.assert_array_equal(gradient[0], np.zeros(8))
    assert (gradient[1:] != 0).all()


def test_rkd_is_bounded_at_every_difference_of_two_examples():
    """A difference counts from a thousandth of the norms on; that much larger a gradient can be."""
    student, teacher = _embedding(0), _embedding(1)
    slope = jax.jit(jax.grad(losses.rkd))
    norm = lambda d: float(jnp.linalg.norm(slope(student.at[1].set(student[0] + d), teacher)))  # noqa: E731
    direction = _embedding(2)[0]
    usual = float(jnp.linalg.norm(slope(student, teacher)))
    for k in range(1, 12):
        assert norm(10.0**-k * direction) < 1e3 * usual
    for k in range(4, 12):
        assert norm(10.0**-k * direction) < 2 * usual


def test_rkd_compares_examples_that_hardly_differ():
    """Differences of 2 % of the mean, of which single precision leaves four digits."""
    student, teacher = (10 + 0.2 * _embedding(i) for i in range(2))
    exact = [np.asarray(x, np.float64) for x in (student, teacher)]
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in exact]
    relative = [d / d.mean() * 5 / 6 for d in distances]
    difference = np.abs(relative[0] - relative[1])
    expected = 25 * np.mean(np.where(difference < 1, difference**2 / 2, difference - 0.5))
    actual = losses.rkd(student, teacher, angle_weight=0.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-2)


@pytest.mark.parametrize("name", ["pkt", "rkd"])
def test_losses_are_invariant_to_rotation_and_scale(name):
    student, teacher = _embedding(0), _embedding(1)
    rotation, _ = jnp.linalg.qr(_embedding(2, 8))
    changed = RELATIONS[name](3.0 * student @ rotation, teacher)
    np.testing.assert_allclose(changed, RELATIONS[name](student, teacher), rtol=1e-4)


def test_losses_of_parts_of_the_anchors_average_to_the_whole():
    student, teacher = _embedding(0, 8), _embedding(1, 8)
    part = jax.jit(lambda anchors: losses.rkd(student, teacher, anchors=anchors))
    parts = [part(jnp.arange(i, i + 2)) for i in range(0, 8, 2)]
    np.testing.assert_allclose(np.mean(parts), losses.rkd(student, teacher), rtol=1e-5)


def test_a_weight_of_zero_omits_a_relation():
    student, teacher = _embedding(0), _embedding(1)
    both = losses.rkd(student, teacher)
    distance = losses.rkd(student, teacher, angle_weight=0.0)
    angle = losses.rkd(student, teacher, distance_weight=0.0)
    np.testing.assert_allclose(distance + angle, both, rtol=1e-5)
