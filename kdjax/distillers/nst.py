"""Neuron selectivity transfer (Huang & Wang 2017)."""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Context, Distiller, MethodLoss, Variables


def nst(*, taps: tuple[str, ...] = ()) -> Distiller:
    """Squared maximum mean discrepancy of the channels' maps, added over the stages.

    The paper takes the last stage; RepDistiller, whose weight this is, all of them.

    Taps: every stage. Trains: the student alone. Usual weight: 50 beside 1 of
    cross-entropy.

    Args:
      taps: instead of the stages, `student:teacher` where the two differ.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = sum(
            (losses.nst(*pair) for pair in maps("nst", context, taps).values()), jnp.zeros(())
        )
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("nst", loss)
