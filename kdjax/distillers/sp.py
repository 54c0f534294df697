"""Similarity-preserving distillation (Tung & Mori 2019)."""

import jax.numpy as jnp

from kdjax import losses, parallel
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Context, Distiller, MethodLoss, Variables


def sp(*, taps: tuple[str, ...] = ()) -> Distiller:
    """Mean squared difference of the whole batch's similarity matrices (eq. 1 to 4).

    Taps: the last stage. Trains: the student alone. Usual weight: 3000 beside 1 of
    cross-entropy (RepDistiller).

    Args:
      taps: instead of the last stage, `student:teacher` where the two differ; their
        losses are added.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        pairs = parallel.all_gather(maps("sp", context, taps, last=True), context.axis_name)
        value = sum((losses.similarity_preserving(*pair) for pair in pairs.values()), jnp.zeros(()))
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("sp", loss)
