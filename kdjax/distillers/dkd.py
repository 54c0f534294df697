"""Decoupled knowledge distillation (Zhao et al. 2022)."""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Context, Distiller, MethodLoss, Variables


def dkd(*, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> Distiller:
    """KD in two parts, on the label's class and on the others, weighted apart.

    The label is the most probable class where labels are mixed.

    Taps: logits. Trains: the student alone. Usual weight: 1 beside 1 of cross-entropy,
    rising over the first 20 epochs; beta is 2 for resnet56 to resnet20 and resnet110 to
    resnet32, 6 for Wide ResNets and VGG, 8 otherwise (mdistiller).

    Args:
      alpha: weight of the label's class.
      beta: weight of the others.
      temperature: T > 0.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.dkd(
            context.student.logits,
            context.teacher.logits,
            jnp.argmax(context.labels, axis=-1),
            alpha=alpha,
            beta=beta,
            temperature=temperature,
        )
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("dkd", loss, same_classes=True)
