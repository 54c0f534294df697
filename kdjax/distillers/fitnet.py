"""FitNets (Romero et al. 2015)."""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.adapters import Adapters, Regressor, apply_adapters, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Array, Context, Distiller, MethodLoss, Variables


def fitnet(*, taps: tuple[str, ...] = ("stage2",)) -> Distiller:
    """Mean squared difference of the hint and the student's map after a regressor (eq. 3).

    The paper trains the student up to the hint first and then by KD; RepDistiller, whose
    weight this is, adds the hint to the cross-entropy. A phase with this method alone,
    from which the next one starts, is the paper's first stage.

    Taps: `stage2` of both. Trains: the student and a convolution with batch norm.
    Usual weight: 100 beside 1 of cross-entropy.

    Args:
      taps: of the hints, `student:teacher` where the two differ, () for every stage;
        their losses are added.
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
