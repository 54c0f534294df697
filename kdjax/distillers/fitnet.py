"""Hint-based training.

Romero et al. 2015, "FitNets: hints for thin deep nets".
"""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.adapters import Adapters, Regressor, apply_adapters, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Array, Context, Distiller, MethodLoss, Variables


def fitnet(*, taps: tuple[str, ...] = ("stage2",)) -> Distiller:
    """Mean squared difference between the hint and the student's regressed map (eq. 3).

    The paper first trains the student up to the hint and then uses KD. RepDistiller, which
    the usual weight is taken from, adds the hint to the cross-entropy. The paper's first stage
    is a phase with this method alone, from which the next phase is initialised.

    Taps: `stage2` of both networks. Trains: the student, and a convolution with batch norm
    (`adapters.Regressor`). Usual weight: 100, with 1 for cross-entropy.

    Args:
      taps: taps of the hints, `student:teacher` where the names differ, () for all stages;
        their losses are summed.
    """

    def adapters(context: Context) -> Adapters:
        return {
            name: (Regressor.for_input(student, context, target=teacher.shape[1:]), student)
            for name, (student, teacher) in maps("fitnet", context, taps).items()
        }

    def init(rng: Array, context: Context) -> Variables:
        return init_adapters(rng, adapters(context))

    def loss(variables: Variables, context: Context) -> MethodLoss:
        adapted, state = apply_adapters(variables, adapters(context))
        pairs = maps("fitnet", context, taps)
        value = jnp.zeros(len(context.index))
        for name, (_, teacher) in pairs.items():
            value += losses.fitnet(adapted[name], teacher)
        return MethodLoss(value, state, {})

    return for_each_teacher("fitnet", loss, init)
