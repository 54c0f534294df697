"""Decoupled knowledge distillation.

Zhao et al. 2022, "Decoupled knowledge distillation".
"""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Context, Distiller, MethodLoss, Variables


def dkd(
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    standardize: bool = False,
) -> Distiller:
    """KD with separate weights for the target class and for the others.

    If labels are mixed, the target is the most probable class.

    Taps: logits. Trains: only the student. Usual weight: 1, with 1 for cross-entropy, warmed up
    over the first 20 epochs; beta is 2 for resnet56 to resnet20 and resnet110 to resnet32, 6
    for Wide ResNets, VGG and VGG to MobileNetV2, 8 otherwise (mdistiller).

    Args:
      alpha: weight of target class knowledge distillation (TCKD).
      beta: weight of non-target class knowledge distillation (NCKD).
      temperature: T > 0, by which both logits are divided.
      standardize: whether each example's logits are standardised first (S. Sun et al. 2024, "Logit
        standardization in knowledge distillation"); then T is 2 or 3, and the weight 9 to 18.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.dkd(
            context.student.logits,
            context.teacher.logits,
            jnp.argmax(context.labels, axis=-1),
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            standardize=standardize,
        )
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("dkd", loss, same_classes=True)
