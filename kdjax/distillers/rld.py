"""Refined logit distillation.

W. Sun et al. 2024, "Knowledge distillation with refined logits".
"""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Context, Distiller, MethodLoss, Variables


def rld(
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    alpha_temperature: float = 4.0,
) -> Distiller:
    """DKD that does not learn the teacher's mistakes.

    The student's probability of the label follows the teacher's largest, whatever class that is
    of, and classes that the teacher puts above the label are left out. Where the teacher is
    right, it is DKD. If labels are mixed, the target is the most probable class.

    Taps: logits. Trains: only the student. Usual weight: 1, with 1 for cross-entropy, warmed up
    over the first 20 epochs. The authors' command has `alpha_temperature` equal to T
    (`--same-t`); without it, their code has 1.

    Args:
      alpha: weight of the label.
      beta: weight of the classes below it.
      temperature: T > 0, of the classes below the label.
      alpha_temperature: that of the label.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.rld(
            context.student.logits,
            context.teacher.logits,
            jnp.argmax(context.labels, axis=-1),
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            alpha_temperature=alpha_temperature,
        )
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("rld", loss, same_classes=True)
