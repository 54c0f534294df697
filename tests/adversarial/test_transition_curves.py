"""Transition curves against a plain loop."""

import sys

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from kdjax import adversarial, parallel
from kdjax.types import Outputs

SHAPE, CLASSES = (8, 8, 1), 4


class Tiny(nn.Module):
    """Two convolutions and a linear classifier."""

    width: int

    @nn.compact
    def __call__(self, images):
        x = images
        for _ in range(2):
            x = nn.relu(nn.Conv(self.width, (3, 3), strides=(2, 2))(x))
        return Outputs(nn.Dense(CLASSES)(x.mean((1, 2))), {})


def transition_case(n=20):
    """Two small random networks, images and labels."""
    nets = [(Tiny(width), jax.random.key(width)) for width in (4, 8)]
    images = np.random.default_rng(0).normal(size=(n, *SHAPE)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, CLASSES, n)
    variables = [net.init(key, images[:1]) for net, key in nets]
    applies = [
        lambda x, net=net, v=v: net.apply(v, x).logits * 5
        for (net, _), v in zip(nets, variables, strict=True)
    ]
    return applies, images, labels


@pytest.mark.parametrize("on_cpu", [True, False])
def test_transition_curves_match_a_plain_loop(monkeypatch, on_cpu):
    """One image, one class and one step at a time, as in the paper's Algorithm 2."""
    (apply_a, apply_b), images, labels = transition_case()
    monkeypatch.setattr(parallel, "on_cpu", lambda: on_cpu)
    # The function of the same name hides the module.
    module = sys.modules["kdjax.adversarial.transition_curves"]
    monkeypatch.setattr(module, "_TRAJECTORIES_ON_CPU", 16)
    monkeypatch.setattr(module, "_TRAJECTORIES_ELSEWHERE", 16)
    p_a, p_b = adversarial.transition_curves(
        apply_a, apply_b, images, labels, steps=6, step_size=3.0, num_classes=CLASSES
    )
    chex.assert_shape((p_a, p_b), (20, CLASSES - 1, 6))
    loss = jax.jit(jax.value_and_grad(lambda x, j: -jax.nn.log_softmax(apply_a(x))[0, j]))
    both = jax.jit(lambda x: (jax.nn.softmax(apply_a(x)), jax.nn.softmax(apply_b(x))))
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        for k in range(CLASSES - 1):
            x, target = image[None], (label + k + 1) % CLASSES
            for step in range(6):
                a, b = both(x)
                np.testing.assert_allclose(p_a[i, k, step], a[0, target], rtol=1e-4, atol=1e-6)
                np.testing.assert_allclose(p_b[i, k, step], b[0, target], rtol=1e-4, atol=1e-6)
                x = x - 3.0 * loss(x, target)[1]
    # The paths lead to the target of the network whose gradient is followed.
    assert np.all(p_a[..., -1] > p_a[..., 0])
    difference = np.abs(np.asarray(p_b) - np.asarray(p_a)).mean()
    np.testing.assert_allclose(adversarial.mean_transition_error(p_a, p_b), difference, rtol=1e-6)
    assert adversarial.mean_transition_error(p_a, p_a) == 0
