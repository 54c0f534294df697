"""Normalised knowledge distillation.

Yang et al. 2023, "From knowledge distillation to self-knowledge distillation".
"""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Context, Distiller, MethodLoss, Variables


def nkd(*, gamma: float = 1.5, temperature: float = 1.0) -> Distiller:
    """Cross-entropy with the teacher, of the target class and among the others.

    Unlike DKD, whose second term it shares, it weights the label by the teacher's probability
    instead of matching that. If labels are mixed, the target is the most probable class.

    Taps: logits. Trains: only the student. Usual weight: 1, with 1 for cross-entropy (the
    authors' code, cls_KD).

    Args:
      gamma: weight of the other classes.
      temperature: T > 0, of the other classes.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.nkd(
            context.student.logits,
            context.teacher.logits,
            jnp.argmax(context.labels, axis=-1),
            gamma=gamma,
            temperature=temperature,
        )
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("nkd", loss, same_classes=True)
