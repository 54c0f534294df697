"""Similarity-preserving distillation.

Tung & Mori 2019, "Similarity-preserving knowledge distillation".
"""

import jax.numpy as jnp

from kdjax import losses, parallel
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Context, Distiller, MethodLoss, Variables


def sp(*, taps: tuple[str, ...] = ()) -> Distiller:
    """Mean squared difference of the similarity matrices of the whole batch (eq. 1 to 4).

    Taps: the last stage. Trains: only the student. Usual weight: 3000, with 1 for cross-entropy
    (RepDistiller).

    Args:
      taps: taps to compare instead of the last stage, `student:teacher` where the names
        differ; their losses are summed.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        pairs = parallel.all_gather(maps("sp", context, taps, last=True), context.axis_name)
        value = sum((losses.similarity_preserving(*pair) for pair in pairs.values()), jnp.zeros(()))
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("sp", loss)
