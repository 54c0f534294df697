import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

from kdjax import metrics


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 2, (64, 7)).astype(np.float32)


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, 7, 64)


def test_accuracy_matches_scikit_learn(logits, labels):
    expected = sklearn.metrics.accuracy_score(labels, logits.argmax(-1))
    assert 0 < expected < 1
    np.testing.assert_allclose(metrics.accuracy(logits, labels), expected, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_matches_scikit_learn(logits, labels, k):
    expected = sklearn.metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(7))
    assert 0 < expected < 1
    np.testing.assert_allclose(metrics.top_k(logits, labels, k), expected, rtol=1e-6)


def test_top_k_is_one_with_fewer_classes_than_k():
    logits = jnp.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert metrics.top_k(logits, jnp.array([1, 0]), 5) == 1
    assert metrics.top_k(logits, jnp.array([1, 0]), 2) == 0


def test_top_k_resolves_ties_in_favour_of_the_lower_class():
    logits = jnp.zeros((4, 4))
    assert metrics.top_k(logits, jnp.arange(4), 1) == 0.25
    assert metrics.top_k(logits, jnp.array([0, 1, 1, 2]), 2) == 0.75


def test_a_label_of_minus_one_is_never_predicted(logits):
    unknown = np.full(64, -1)
    assert metrics.accuracy(logits, unknown) == 0
    assert metrics.top_k(logits, unknown, 5) == 0


def test_nll_matches_the_log_loss_of_scikit_learn(logits, labels):
    p = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    expected = sklearn.metrics.log_loss(labels, p, labels=range(7))
    np.testing.assert_allclose(metrics.nll(logits, labels), expected, rtol=1e-5)


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_ece_matches_a_loop_over_bins(logits, labels, bins):
    p = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    confidence, right = p.max(-1), p.argmax(-1) == labels
    edges = np.linspace(0, 1, bins + 1)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    np.testing.assert_allclose(metrics.ece(logits, labels, bins), expected, rtol=1e-5)


def test_ece_puts_a_confidence_on_an_edge_into_the_lower_bin():
    # Confidences 1/2 (wrong) and just above (right): one bin would let the gaps cancel.
    logits = jnp.array([[0.0, 0.0], [0.1, 0.0]])
    labels = jnp.array([1, 0])
    above = scipy.special.expit(0.1)
    np.testing.assert_allclose(
        metrics.ece(logits, labels, bins=2), (0.5 + (1 - above)) / 2, rtol=1e-6
    )
    np.testing.assert_allclose(
        metrics.ece(logits, labels, bins=1), abs(0.5 - (1 - above)) / 2, rtol=1e-6
    )


def test_ece_counts_a_confidence_of_exactly_one():
    logits = jnp.array([[1e4, 0.0], [1e4, 0.0], [1e4, 0.0], [1e4, 0.0]])
    assert metrics.ece(logits, jnp.array([0, 0, 0, 1])) == 0.25


def test_agreement_is_the_fraction_of_equal_predictions():
    a = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    b = jnp.array([[9.0, 0.0], [1.0, 0.0], [5.0, 4.0], [0.0, 1.0]])
    assert metrics.agreement(a, b) == 0.75
    assert metrics.agreement(a, a) == 1


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_agreement_at_k_counts_the_teachers_class_among_the_students_k_best(k):
    rng = np.random.default_rng(3)
    student, teacher = rng.normal(size=(2, 50, 6)).astype(np.float32)
    best = np.argsort(-student, axis=-1)[:, :k]
    expected = np.mean([t.argmax() in row for t, row in zip(teacher, best, strict=True)])
    assert metrics.agreement_top_k(student, teacher, k) == pytest.approx(expected)
    # It is not symmetric: two rankings that differ in the teacher's first class alone.
    a, b = jnp.array([[3.0, 2.0, 1.0]]), jnp.array([[1.0, 3.0, 2.0]])
    assert metrics.agreement_top_k(a, b, 2) == 1
    assert metrics.agreement_top_k(b, a, 2) == 0


def test_predictive_kl_is_the_entropy_of_teacher_relative_to_student(logits):
    teacher = np.random.default_rng(2).normal(0, 2, logits.shape).astype(np.float32)
    p = scipy.special.softmax(teacher.astype(np.float64), axis=-1)
    q = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    expected = np.mean([scipy.stats.entropy(p_i, q_i) for p_i, q_i in zip(p, q, strict=True)])
    np.testing.assert_allclose(metrics.predictive_kl(logits, teacher), expected, rtol=1e-5)
    assert metrics.predictive_kl(logits, logits) == 0


@pytest.mark.parametrize("name", ["nll", "ece", "accuracy"])
def test_metrics_are_float32_scalars_and_finite_at_extreme_bfloat16_logits(name):
    logits = jnp.array([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]], jnp.bfloat16)
    value = jax.jit(getattr(metrics, name))(logits, jnp.array([0, 2]))
    chex.assert_shape(value, ())
    assert value.dtype == jnp.float32
    chex.assert_tree_all_finite(value)
