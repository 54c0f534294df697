"""Attention transfer.

Zagoruyko & Komodakis 2017, "Paying more attention to attention".
"""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Context, Distiller, MethodLoss, Variables


def at(*, taps: tuple[str, ...] = ()) -> Distiller:
    """Mean squared difference of normalised attention maps (eq. 2), summed over the stages.

    Taps: all stages. Trains: only the student. Usual weight: 1000, with 1 for cross-entropy
    (RepDistiller); 250 in zero-shot transfer.

    Args:
      taps: taps to compare instead of the stages, `student:teacher` where the names differ.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        pairs = maps("at", context, taps).values()
        value = sum((losses.attention_transfer(*pair) for pair in pairs), jnp.zeros(()))
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("at", loss)
