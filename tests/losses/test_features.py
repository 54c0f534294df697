import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses
from kdjax.losses.features import match_size


def _map(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def _windows(n, out):
    return [(int(np.floor(i * n / out)), int(np.ceil((i + 1) * n / out))) for i in range(out)]


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (8, 6), (1, 1)])
@pytest.mark.parametrize(
    ("pool", "reduce"),
    [(losses.adaptive_average_pool, np.mean), (losses.adaptive_max_pool, np.max)],
)
def test_adaptive_pooling_equals_a_loop_over_windows(pool, reduce, size):
    x = _map(0, 2, 8, 6, 3)
    actual = pool(x, size)
    for i, (top, bottom) in enumerate(_windows(8, size[0])):
        for j, (left, right) in enumerate(_windows(6, size[1])):
            window = np.asarray(x[:, top:bottom, left:right])
            np.testing.assert_allclose(
                actual[:, i, j], reduce(window, (1, 2)), rtol=1e-5, atol=1e-6
            )


def test_maps_are_matched_at_the_smaller_height_and_width():
    student, teacher = match_size(_map(0, 2, 8, 3, 1), _map(1, 2, 4, 6, 2))
    assert (student.shape, teacher.shape) == ((2, 4, 3, 1), (2, 4, 3, 2))


def test_l2_normalize_has_unit_length_and_no_gradient_at_zero():
    slope = jax.jit(jax.grad(lambda x: jnp.sum(losses.l2_normalize(x) * jnp.array([[3.0, 4.0]]))))
    x = jnp.array([[3.0, -4.0], [0.0, 0.0], [1e-13, 0.0], [1e-11, 0.0]])
    unit = losses.l2_normalize(x)
    np.testing.assert_allclose(unit, [[0.6, -0.8], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], rtol=1e-6)
    gradient = slope(x)
    np.testing.assert_array_equal(gradient[1:3], np.zeros((2, 2)))
    # The part of (3, 4) across the vector, over its length.
    np.testing.assert_allclose(gradient[0], [3.84 / 5, 2.88 / 5], rtol=1e-5)
    np.testing.assert_allclose(gradient[3], [0.0, 4e11], rtol=1e-5)


PAIRS = {
    "attention_transfer": losses.attention_transfer,
    "factor_transfer": losses.factor_transfer,
    "fitnet": losses.fitnet,
    "nst": losses.nst,
    "sfd": losses.sfd,
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_value_of_an_example_does_not_depend_on_other_examples(name):
    student, teacher = _map(0, 4, 6, 6, 5), _map(1, 4, 6, 6, 5)
    whole = PAIRS[name](student, teacher)
    assert whole.shape == (4,)
    np.testing.assert_allclose(whole[1:2], PAIRS[name](student[1:2], teacher[1:2]), rtol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_equal_maps_are_the_minimum_even_if_they_are_zero(name):
    both = jax.jit(jax.value_and_grad(lambda x, y: PAIRS[name](x, y).sum()))
    for x in (_map(0, 4, 6, 6, 5), jnp.zeros((4, 6, 6, 5))):
        value, gradient = both(x, x)
        np.testing.assert_allclose(value, 0.0, atol=1e-6)
        if name != "factor_transfer":  # the absolute value is not differentiable at zero
            np.testing.assert_allclose(gradient, jnp.zeros_like(x), atol=1e-6)


def test_attention_transfer_is_invariant_to_order_and_scale_of_channels():
    student, teacher = _map(0, 2, 4, 4, 6), _map(1, 2, 4, 4, 6)
    expected = losses.attention_transfer(student, teacher)
    changed = losses.attention_transfer(3.0 * student[..., ::-1], teacher)
    np.testing.assert_allclose(changed, expected, rtol=1e-5)


def test_nst_is_invariant_to_the_order_of_channels():
    x = _map(0, 2, 4, 4, 6)
    np.testing.assert_allclose(losses.nst(x[..., ::-1], x), np.zeros(2), atol=1e-6)


def test_fsp_average_pools_the_larger_map():
    bottom, top = _map(0, 2, 8, 8, 3), _map(1, 2, 4, 4, 5)
    pooled = losses.adaptive_average_pool(bottom, (4, 4))
    teacher = (_map(2, 2, 4, 4, 3), _map(3, 2, 4, 4, 5))
    np.testing.assert_allclose(
        losses.fsp(bottom, top, *teacher), losses.fsp(pooled, top, *teacher), rtol=1e-5
    )
    matrix = [np.einsum("bhwm,bhwn->bmn", a, b) / 16 for a, b in ((pooled, top), teacher)]
    expected = np.square(matrix[0] - matrix[1]).mean((1, 2))
    np.testing.assert_allclose(losses.fsp(bottom, top, *teacher), expected, rtol=1e-4)


def test_vid_is_minimal_for_equal_maps_and_a_variance_of_the_squared_error():
    teacher = _map(0, 64, 4, 4, 3)
    equal = losses.vid(teacher, teacher, jnp.zeros(3))
    np.testing.assert_allclose(equal, np.full(64, 0.5 * np.log(np.log(2) + 1e-5)), rtol=1e-5)
    assert (losses.vid(teacher + 0.1, teacher, jnp.zeros(3)) > equal).all()
    # The variance, softplus(a) + eps, is 0.25, the squared error.
    best = jnp.full(3, float(np.log(np.expm1(0.25 - 1e-5))))
    gradient = jax.grad(lambda a: losses.vid(teacher + 0.5, teacher, a).mean())(best)
    np.testing.assert_allclose(gradient, np.zeros(3), atol=1e-5)


def test_activation_boundary_is_zero_beyond_the_margin_on_the_teachers_side():
    teacher = jnp.array([2.0, -3.0, 0.5, 0.0])[None, None, None]
    met = jnp.array([1.5, -1.5, 9.0, -2.0])[None, None, None]
    np.testing.assert_array_equal(losses.activation_boundary(met, teacher), [0.0])
    wrong = jnp.array([-1.0, 1.0, 0.0, 0.0])[None, None, None]
    np.testing.assert_allclose(losses.activation_boundary(wrong, teacher), [4.0 + 4.0 + 1.0 + 1.0])


def test_ofd_does_not_penalise_a_student_below_a_negative_target():
    margin = jnp.array([-1.0])
    teacher = jnp.array([-2.0, -0.5, -0.5, 3.0, 3.0]).reshape(5, 1, 1, 1)
    student = jnp.array([-5.0, -0.7, 0.5, 1.0, 4.0]).reshape(5, 1, 1, 1)
    np.testing.assert_allclose(
        losses.ofd(student, teacher, margin), [0.0, 0.0, 1.0, 4.0, 1.0], rtol=1e-6
    )


def test_ofd_margin_is_the_mean_of_the_negative_values_of_a_normal_variable():
    scale, bias = np.array([1.0, -2.0, 0.5]), np.array([0.3, -1.0, 0.1])
    samples = np.random.default_rng(0).normal(size=(400_000, 1)) * scale + bias
    expected = [samples[:, i][samples[:, i] < 0].mean() for i in range(3)]
    actual = losses.ofd_margin(jnp.asarray(scale), jnp.asarray(bias))
    np.testing.assert_allclose(actual, expected, rtol=0.01)
    np.testing.assert_allclose(losses.ofd_margin(jnp.ones(1), jnp.full(1, 5.0)), [-3.0])


def test_sfd_by_its_other_distances_and_pools():
    """Against plain NumPy, on maps whose windows are of equal size."""
    student, teacher = _map(0, 2, 4, 4, 3), _map(1, 2, 2, 2, 3)
    blocks = np.asarray(student).reshape(2, 2, 2, 2, 2, 3)
    pooled = {"max": blocks.max((2, 4)), "average": blocks.mean((2, 4))}
    # Between four equally far pixels, with anti-aliasing.
    pooled["resize"] = np.asarray(jax.image.resize(student, (2, 2, 2, 3), "linear"))
    y = np.asarray(teacher).reshape(2, -1)
    q = np.exp(y) / np.exp(y).sum(-1, keepdims=True)
    for pool, value in pooled.items():
        x = value.reshape(2, -1)
        p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
        expected = {
            "mse": np.mean((x - y) ** 2, -1),
            "cosine": 1 - np.sum(x * y, -1) / norms,
            "kl": np.sum(q * np.log(q / p), -1),
        }
        for distance, wanted in expected.items():
            ours = losses.sfd(student, teacher, distance=distance, pool=pool)
            np.testing.assert_allclose(ours, wanted, rtol=1e-4)
