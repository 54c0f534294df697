"""Distances of predictions against their formulas."""

import chex
import numpy as np
import pytest

from kdjax import adversarial


@pytest.mark.parametrize("name", sorted(adversarial.DISTANCES))
def test_a_distance_is_its_formula(name):
    distance = adversarial.DISTANCES[name]
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 3, 4)).astype(np.float32)
    chex.assert_shape(distance(s, t), (3,))
    np.testing.assert_allclose(distance(t, t), 0, atol=1e-6)
    assert np.all(distance(s, t) > 0)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (s, t))
    kl = (q * np.log(q / p)).sum(-1)
    expected = {
        "kl": kl,
        "kl_class_mean": kl / 4,
        # The mass to be moved, where all classes are equally far from each other.
        "wasserstein": np.maximum(q - p, 0).sum(-1),
        "l2": np.square(s - t).mean(-1),
    }
    np.testing.assert_allclose(distance(s, t), expected[name], rtol=1e-5)
