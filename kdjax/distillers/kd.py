"""Knowledge distillation on logits.

Hinton et al. 2015, "Distilling the knowledge in a neural network".
"""

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Context, Distiller, MethodLoss, Variables


def kd(*, temperature: float = 4.0) -> Distiller:
    """T^2 KL(teacher || student) between the softened softmaxes (eq. 1).

    With several teachers, their losses are averaged (MKD). Function matching (Beyer et al.
    2022) is this loss alone, on views shared by both networks.

    Taps: logits. Trains: only the student. Usual weight: 0.9, with 0.1 for cross-entropy
    (RepDistiller); 1 alone for function matching.

    Args:
      temperature: T > 0, by which both logits are divided.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.kd(context.student.logits, context.teacher.logits, temperature=temperature)
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("kd", loss, same_classes=True)
