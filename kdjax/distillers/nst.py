"""Neuron selectivity transfer.

Huang & Wang 2017, "Like what you like: knowledge distill via neuron selectivity transfer".
"""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Context, Distiller, MethodLoss, Variables


def nst(*, taps: tuple[str, ...] = ()) -> Distiller:
    """Squared maximum mean discrepancy between the channels' maps, summed over the stages.

    The paper compares the last stage only; RepDistiller, which the usual weight is taken from,
    compares all of them.

    Taps: all stages. Trains: only the student. Usual weight: 50, with 1 for cross-entropy.

    Args:
      taps: taps to compare instead of the stages, `student:teacher` where the names differ.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = sum(
            (losses.nst(*pair) for pair in maps("nst", context, taps).values()), jnp.zeros(())
        )
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("nst", loss)
