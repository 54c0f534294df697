"""Knowledge distillation on logits (Hinton et al. 2015)."""

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Context, Distiller, MethodLoss, Variables


def kd(*, temperature: float = 4.0) -> Distiller:
    """T^2 KL between the softened softmaxes of teacher and student (eq. 1).

    With several teachers, the mean of their losses (MKD). Function matching
    (Beyer et al. 2022) is this alone, on views that both networks share.

    Taps: logits. Trains: the student alone. Usual weight: 0.9 beside 0.1 of
    cross-entropy (RepDistiller); 1 alone for function matching.

    Args:
      temperature: T > 0.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.kd(context.student.logits, context.teacher.logits, temperature=temperature)
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("kd", loss, same_classes=True)
