"""The distances between student and teacher that function matching is trained with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillers, losses
from kdjax.distillers.kd import DISTANCES
from kdjax.types import Context, Outputs, UserError


def _loss(*teachers, **arguments):
    outputs = [Outputs(jnp.asarray(logits), {}) for logits in teachers]
    context = Context(
        student=Outputs(jnp.array([[2.0, 0.0, 1.0]]), {}),
        teachers=tuple(outputs),
        labels=jnp.eye(3)[:1],
        index=jnp.arange(1),
        step=jnp.int32(0),
        rng=jax.random.key(0),
    )
    nothing = {"params": {}, "state": {f"teacher{i}": {} for i in range(len(teachers))}}
    nothing["params"] = nothing["state"]
    return distillers.create("kd", **arguments).loss(nothing, context).value


TEACHERS = [[0.0, 3.0, 4.0]], [[5.0, 3.0, 1.0]]


def test_each_distance_is_its_loss_averaged_over_the_teachers():
    log_p = np.array([2.0, 0.0, 1.0]) - np.log(np.exp([2.0, 0.0, 1.0]).sum())
    by_hand = {
        "hard": (-log_p[2] - log_p[0]) / 2,
        "euclidean": (np.sqrt(4 + 9 + 9) + np.sqrt(9 + 9 + 0)) / 2,
    }
    for distance, expected in by_hand.items():
        np.testing.assert_allclose(_loss(*TEACHERS, distance=distance), [expected], rtol=1e-5)
    kl = losses.kd(jnp.array([[2.0, 0.0, 1.0]]), jnp.array(TEACHERS[0]), temperature=3.0)
    np.testing.assert_array_equal(_loss(TEACHERS[0], temperature=3.0), kl)
    np.testing.assert_array_equal(_loss(TEACHERS[0], temperature=3.0, distance="kl"), kl)


def test_the_mean_of_probabilities_is_the_target_of_an_ensemble():
    log_p = np.array([2.0, 0.0, 1.0]) / 3
    log_p -= np.log(np.exp(log_p).sum())
    p = np.mean(
        [np.exp(np.array(t[0]) / 3) / np.exp(np.array(t[0]) / 3).sum() for t in TEACHERS], 0
    )
    expected = 9 * np.sum(p * (np.log(p) - log_p))
    arguments = dict(temperature=3.0, combine="probabilities")
    np.testing.assert_allclose(_loss(*TEACHERS, **arguments), [expected], rtol=1e-5)
    # By convexity it is at most the mean of the losses, and the same with one teacher.
    assert expected < _loss(*TEACHERS, temperature=3.0)[0]
    alone = _loss(TEACHERS[0], temperature=3.0)
    np.testing.assert_allclose(_loss(TEACHERS[0], **arguments), alone, rtol=1e-5)


def test_the_target_of_an_ensemble_is_its_probability_at_t_1_softened_afterwards():
    log_s = np.array([2.0, 0.0, 1.0]) / 3
    log_s -= np.log(np.exp(log_s).sum())
    mean = np.mean([np.exp(t[0]) / np.exp(t[0]).sum() for t in map(np.array, TEACHERS)], 0)
    p = mean ** (1 / 3) / (mean ** (1 / 3)).sum()
    expected = 9 * np.sum(p * (np.log(p) - log_s))
    arguments = dict(temperature=3.0, combine="ensemble")
    np.testing.assert_allclose(_loss(*TEACHERS, **arguments), [expected], rtol=1e-5)
    other = _loss(*TEACHERS, temperature=3.0, combine="probabilities")[0]
    assert abs(other - expected) > 0.1
    # At T = 1 there is no difference between the two, and with one teacher none at any T.
    both = [_loss(*TEACHERS, temperature=1.0, combine=one) for one in ("ensemble", "probabilities")]
    np.testing.assert_allclose(*both, rtol=1e-5)
    alone = _loss(TEACHERS[0], temperature=3.0)
    np.testing.assert_allclose(_loss(TEACHERS[0], **arguments), alone, rtol=1e-5)


def test_combinations_are_checked():
    with pytest.raises(UserError, match="unknown combine 'votes': choose from losses, prob"):
        distillers.create("kd", combine="votes")
    for combine in ("probabilities", "ensemble"):
        with pytest.raises(UserError, match=f"combine is '{combine}' and distance 'hard'"):
            distillers.create("kd", combine=combine, distance="hard")


def test_standardised_logits_are_of_a_kl_to_networks_or_their_ensemble():
    student = jnp.array([[2.0, 0.0, 1.0]])
    alone = losses.kd(student, jnp.array(TEACHERS[0]), temperature=2.0, standardize=True)
    for combine in ("losses", "ensemble"):
        arguments = dict(temperature=2.0, standardize=True, combine=combine)
        np.testing.assert_allclose(_loss(TEACHERS[0], **arguments), alone, rtol=1e-5)
    for arguments in ({"distance": "hard"}, {"combine": "probabilities"}):
        with pytest.raises(UserError, match="standardize is set, distance is"):
            distillers.create("kd", standardize=True, **arguments)


def test_an_unknown_distance_is_named():
    with pytest.raises(UserError, match=f"unknown distance 'agree': .*{', '.join(DISTANCES)}"):
        distillers.create("kd", distance="agree")
