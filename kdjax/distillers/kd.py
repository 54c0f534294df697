"""Knowledge distillation on logits (Hinton et al. 2015)."""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.combine import require_teachers
from kdjax.types import Array, Context, Distiller, MethodLoss, Variables


def kd(*, temperature: float = 4.0) -> Distiller:
    """T^2 KL between the softened softmaxes of teacher and student (eq. 1).

    With several teachers, the mean of their losses (MKD). Function matching
    (Beyer et al. 2022) is this alone, on views that both networks share.

    Taps: logits. Trains: the student alone. Usual weight: 0.9 beside 0.1 of
    cross-entropy (RepDistiller); 1 alone for function matching.

    Args:
      temperature: T > 0.
    """

    def init(rng: Array, context: Context) -> Variables:
        require_teachers("kd", context)
        return {"params": {}, "state": {}}

    def loss(variables: Variables, context: Context) -> MethodLoss:
        values = [
            losses.kd(context.student.logits, teacher.logits, temperature=temperature)
            for teacher in context.teachers
        ]
        return MethodLoss(jnp.mean(jnp.stack(values), axis=0), variables["state"], {})

    return Distiller(init, loss)
