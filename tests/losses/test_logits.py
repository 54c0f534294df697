import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from kdjax import losses


def _logits(seed, b=6, k=5):
    return np.random.default_rng(seed).normal(0, 3, (b, k)).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_with_class_indices_equals_scipy(smoothing):
    logits, labels = _logits(0), np.array([0, 1, 2, 3, 4, 0])
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    expected = [
        -(1 - smoothing) * row[label] - smoothing * row.mean()
        for row, label in zip(log_p, labels, strict=True)
    ]
    actual = losses.cross_entropy(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_cross_entropy_with_probabilities_is_entropy_plus_divergence():
    logits, p = _logits(0), scipy.special.softmax(_logits(1).astype(np.float64), axis=-1)
    q = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    expected = (scipy.special.entr(p) + scipy.special.rel_entr(p, q)).sum(-1)
    np.testing.assert_allclose(
        losses.cross_entropy(logits, p.astype(np.float32)), expected, rtol=1e-5
    )


def test_class_indices_are_equivalent_to_one_hot_labels():
    labels = np.array([4, 0, 2, 2, 1, 3])
    chex.assert_trees_all_close(
        losses.cross_entropy(_logits(0), labels, label_smoothing=0.2),
        losses.cross_entropy(_logits(0), jnp.eye(5)[labels], label_smoothing=0.2),
        rtol=1e-6,
    )


def test_cross_entropy_of_uniform_logits_is_the_log_of_the_number_of_classes():
    np.testing.assert_allclose(
        losses.cross_entropy(jnp.zeros((1, 8)), jnp.array([3]), label_smoothing=0.3),
        [np.log(8)],
        rtol=1e-6,
    )


def test_the_gradient_of_cross_entropy_is_softmax_minus_labels():
    logits, labels = _logits(0), np.array([0, 1, 2, 3, 4, 0])
    gradient = jax.grad(lambda x: losses.cross_entropy(x, labels).sum())(logits)
    expected = scipy.special.softmax(logits.astype(np.float64), axis=-1) - np.eye(5)[labels]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kd_is_t_squared_times_scipys_kl_divergence(temperature):
    student, teacher = _logits(0), _logits(1)
    q = scipy.special.softmax(student.astype(np.float64) / temperature, axis=-1)
    p = scipy.special.softmax(teacher.astype(np.float64) / temperature, axis=-1)
    expected = temperature**2 * scipy.special.rel_entr(p, q).sum(-1)
    actual = losses.kd(student, teacher, temperature=temperature)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_kd_and_its_gradient_are_zero_where_the_softmaxes_are_equal():
    teacher = _logits(1)
    student = teacher + np.arange(6, dtype=np.float32)[:, None]
    value, gradient = jax.value_and_grad(lambda x: losses.kd(x, teacher).sum())(student)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    np.testing.assert_allclose(gradient, np.zeros_like(teacher), atol=1e-5)
    assert (losses.kd(_logits(0), teacher) > 0).all()


def test_the_gradient_of_kd_is_t_times_the_difference_of_softened_softmaxes():
    student, teacher, temperature = _logits(0), _logits(1), 4.0
    gradient = jax.grad(lambda x: losses.kd(x, teacher, temperature=temperature).sum())(student)
    q = scipy.special.softmax(student.astype(np.float64) / temperature, axis=-1)
    p = scipy.special.softmax(teacher.astype(np.float64) / temperature, axis=-1)
    np.testing.assert_allclose(gradient, temperature * (q - p), atol=1e-5)


@pytest.mark.parametrize("size", [3.0, 1e4])
def test_the_softmax_of_an_ensemble_is_the_mean_of_the_networks(size):
    logits = np.stack([_logits(seed) for seed in range(3)]) / 3 * size
    ensemble = losses.ensemble(jnp.asarray(logits))
    mean = scipy.special.softmax(logits.astype(np.float64), axis=-1).mean(0)
    np.testing.assert_allclose(np.exp(np.asarray(ensemble, np.float64)), mean, atol=2e-6)
    # With one network it is that network, up to a constant of each example.
    alone = np.asarray(losses.ensemble(jnp.asarray(logits[:1]))) - logits[0]
    np.testing.assert_allclose(alone - alone[:, :1], 0, atol=1e-6 * size)


def test_hard_kd_is_the_negative_log_probability_of_the_teachers_best_class():
    student, teacher = _logits(0), _logits(1)
    log_p = scipy.special.log_softmax(student.astype(np.float64), axis=-1)
    expected = [-row[t.argmax()] for row, t in zip(log_p, teacher, strict=True)]
    np.testing.assert_allclose(losses.hard_kd(student, teacher), expected, rtol=1e-5)


def test_euclidean_is_the_distance_between_logits_with_a_finite_gradient_at_zero():
    student, teacher = _logits(0), _logits(1)
    value, gradient = jax.value_and_grad(lambda x: losses.euclidean(x, teacher).sum())(student)
    distances = np.linalg.norm((student - teacher).astype(np.float64), axis=-1)
    np.testing.assert_allclose(value, distances.sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, (student - teacher) / distances[:, None], rtol=1e-4)
    value, gradient = jax.value_and_grad(lambda x: losses.euclidean(x, teacher).sum())(teacher)
    np.testing.assert_allclose(value, 6e-6, rtol=1e-3)
    np.testing.assert_array_equal(gradient, np.zeros_like(teacher))


def test_at_high_temperature_kd_matches_centred_logits():
    # Hinton et al. 2015, eq. 4: T^2 * 1 / (N T^2) * (difference of centred logits).
    student, teacher = _logits(0), _logits(1)
    student, teacher = (x - x.mean(-1, keepdims=True) for x in (student, teacher))
    gradient = jax.grad(lambda x: losses.kd(x, teacher, temperature=1e4).sum())(student)
    np.testing.assert_allclose(gradient, (student - teacher) / 5, atol=5e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("labels", ["indices", "probabilities"])
def test_losses_and_gradients_are_finite_and_losses_are_float32(dtype, size, labels):
    student = jnp.array([[size, -size, 0.0], [0.0, size, -size]], dtype)
    teacher = jnp.array([[-size, size, 0.0], [0.0, size, -size]], dtype)
    y = jnp.array([1, 2]) if labels == "indices" else jnp.array([[0.0, 1, 0], [0.5, 0, 0.5]])
    to_teacher = ((loss, teacher) for loss in (losses.kd, losses.hard_kd, losses.euclidean))
    for loss, target in ((losses.cross_entropy, y), *to_teacher):
        value = loss(student, target)
        chex.assert_shape(value, (2,))
        assert value.dtype == jnp.float32
        gradient = jax.grad(lambda x, loss=loss, t=target: loss(x, t).sum())(student)
        chex.assert_tree_all_finite((value, gradient))
        assert jnp.any(gradient != 0)


def test_cross_entropy_of_extreme_logits_is_their_difference():
    value = losses.cross_entropy(jnp.array([[1e4, -1e4, 0.0]]), jnp.array([1]))
    np.testing.assert_allclose(value, [2e4], rtol=1e-6)


def test_dkd_equals_kd_if_beta_is_the_teachers_probability_of_non_target_classes():
    """Equation 7 of Zhao et al. 2022: KD = TCKD + (1 - p_t) NCKD."""
    rng = np.random.default_rng(0)
    student, teacher = (jnp.asarray(rng.normal(size=(1, 7)) * 3, jnp.float32) for _ in range(2))
    labels = jnp.array([2])
    others = 1 - jax.nn.softmax(teacher / 2.0)[0, 2]
    actual = losses.dkd(student, teacher, labels, alpha=1.0, beta=others, temperature=2.0)
    np.testing.assert_allclose(actual, losses.kd(student, teacher, temperature=2.0), rtol=1e-4)


def test_tckd_is_invariant_to_permutations_of_non_target_classes():
    rng = np.random.default_rng(0)
    student, teacher = (jnp.asarray(rng.normal(size=(3, 5)), jnp.float32) for _ in range(2))
    labels = jnp.zeros(3, jnp.int32)
    permuted = student[:, jnp.array([0, 3, 1, 4, 2])]
    expected = losses.dkd(student, teacher, labels, beta=0.0)
    actual = losses.dkd(permuted, teacher, labels, beta=0.0)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["kd", "dkd"])
def test_standardised_logits_have_no_scale_and_no_offset(name):
    loss = getattr(losses, name)
    labels = () if name == "kd" else (np.array([4, 0, 2, 2, 1, 3]),)
    student, teacher = _logits(0), _logits(1)
    change = np.array([[0.1], [1.0], [7.0], [20.0], [0.5], [3.0]], np.float32)
    expected = loss(student, teacher, *labels, standardize=True)
    actual = loss(change * student - change, teacher + 5, *labels, standardize=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(loss(student, teacher, *labels) - expected).min() > 1e-2


def test_equal_logits_are_standardised_to_zero_without_a_gradient():
    # The mean of 0.1 in float32 may differ from it.
    student = np.concatenate([np.full((1, 5), 0.1), np.zeros((1, 5)), _logits(0, 1)])
    both = jax.value_and_grad(lambda x: losses.kd(x, _logits(1, 3), standardize=True).sum())
    value, gradient = both(student.astype(np.float32))
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient[:2], np.zeros((2, 5)))
    assert (gradient[2] != 0).any()


def test_among_other_classes_nkd_has_the_gradient_of_nckd():
    """A cross-entropy and a KL differ by the teacher's entropy."""
    student, teacher, labels = _logits(0), _logits(1), np.array([4, 0, 2, 2, 1, 3])
    nkd = jax.grad(lambda x: losses.nkd(x, teacher, labels, gamma=1.5, temperature=3.0).sum())
    nckd = jax.grad(
        lambda x: losses.dkd(x, teacher, labels, alpha=0.0, beta=1.5, temperature=3.0).sum()
    )
    p_t = scipy.special.softmax(teacher, axis=-1)[range(6), labels]
    target = jax.grad(lambda x: (p_t * losses.cross_entropy(x, labels)).sum())
    np.testing.assert_allclose(nkd(student), nckd(student) + target(student), atol=1e-5)


def test_rld_is_dkd_where_the_teacher_is_right():
    student, teacher = _logits(0), _logits(1)
    labels = teacher.argmax(-1)
    np.testing.assert_allclose(
        losses.rld(student, teacher, labels), losses.dkd(student, teacher, labels), rtol=1e-4
    )


def test_rld_leaves_out_what_the_teacher_puts_above_the_label():
    student, teacher, labels = _logits(0), _logits(1), np.array([4, 0, 2, 2, 1, 3])
    slope = jax.grad(lambda x: losses.rld(x, teacher, labels, alpha=0.0).sum())(student)
    below = teacher < teacher[range(6), labels][:, None]
    assert (slope[~below] == 0).all()
    # A single class below has all of the probability of those below.
    assert (slope[below & (below.sum(-1, keepdims=True) > 1)] != 0).all()
    worst = teacher.argmin(-1)
    value, slope = jax.value_and_grad(
        lambda x: losses.rld(x, teacher, worst, alpha=0.0).sum()
    )(student)  # fmt: skip
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(slope, np.zeros_like(student))


def test_ttm_softens_the_teacher_alone_and_wttm_counts_what_is_soft():
    student, teacher = _logits(0), _logits(1)
    np.testing.assert_allclose(
        losses.ttm(student, teacher, gamma=1.0),
        losses.kd(student, teacher, temperature=1.0),
        rtol=1e-5,
    )
    np.testing.assert_allclose(losses.ttm(teacher / 5, teacher, gamma=0.2), 0, atol=1e-6)
    uniform = np.zeros_like(teacher)
    certain = np.where(np.arange(5) == 2, 1e3, uniform)
    for soft, n in ((uniform, 5 ** (1 - 0.2)), (certain, 1)):
        ratio = losses.wttm(student, soft, gamma=0.2) / losses.ttm(student, soft, gamma=0.2)
        np.testing.assert_allclose(ratio, n, rtol=1e-4)


def test_sdd_of_equal_cells_is_kd_and_doubles_where_the_teacher_is_right_once():
    student, teacher = _logits(0), _logits(1)
    right = teacher.argmax(-1)
    cells = [np.repeat(x[..., None], 3, -1) for x in (student, teacher)]
    expected = losses.kd(student, teacher)
    np.testing.assert_allclose(losses.sdd(*cells, right), expected, rtol=1e-5)
    # Wrong as a whole, right in the last cell, at the same divergence: the classes trade places.
    for x in cells:
        x[..., 2] = np.roll(x[..., 0], 1, axis=1)
    label = (right + 1) % 5
    np.testing.assert_allclose(losses.sdd(*cells, label), expected * 4 / 3, rtol=1e-5)
