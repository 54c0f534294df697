"""Supervised training with the labels."""

import jax.numpy as jnp

from kdjax import losses
from kdjax.types import Context, Distiller, MethodLoss, Separated, Variables


def cross_entropy(*, label_smoothing: float = 0.0) -> Distiller:
    """Cross-entropy between the student's logits and the (possibly mixed) labels.

    Taps: logits. Trains: only the student. Usual weight: 1, or 0.1 when combined with KD.

    Args:
      label_smoothing: probability mass distributed uniformly over the classes, in [0, 1).
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.cross_entropy(
            context.student.logits, context.labels, label_smoothing=label_smoothing
        )
        return MethodLoss(value, variables["state"], {}, Separated(value, jnp.zeros(())))

    return Distiller(lambda rng, context: {"params": {}, "state": {}}, loss)
