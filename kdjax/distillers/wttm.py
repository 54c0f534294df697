"""Weighted transformed teacher matching.

Zheng & Yang 2024, "Knowledge distillation based on transformed teacher matching".
"""

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Context, Distiller, MethodLoss, Variables


def wttm(*, gamma: float = 0.2) -> Distiller:
    """TTM, in which an example counts the more, the less sure the teacher is of it.

    The weight of an example is the sum of the teacher's probabilities raised to the power gamma.

    Taps: logits. Trains: only the student. Usual weight: 4 at gamma = 0.2, with 1 for
    cross-entropy (the authors' command for vgg13 to vgg8, where it is joined with CRD).

    Args:
      gamma: exponent in (0, 1].
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.wttm(context.student.logits, context.teacher.logits, gamma=gamma)
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("wttm", loss, same_classes=True)
