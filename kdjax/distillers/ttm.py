"""Transformed teacher matching.

Zheng & Yang 2024, "Knowledge distillation based on transformed teacher matching".
"""

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Context, Distiller, MethodLoss, Variables


def ttm(*, gamma: float = 0.1) -> Distiller:
    """KL to the teacher's probabilities raised to the power gamma, the student's at T = 1.

    It is KD with a temperature of 1 / gamma of the teacher alone. The authors choose gamma and
    the weight for each pair of networks.

    Taps: logits. Trains: only the student. Usual weight: 45 at gamma = 0.1, with 1 for
    cross-entropy (the authors' command for vgg13 to vgg8).

    Args:
      gamma: exponent in (0, 1].
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.ttm(context.student.logits, context.teacher.logits, gamma=gamma)
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("ttm", loss, same_classes=True)
