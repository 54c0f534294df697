"""Distillation from a stronger teacher.

Huang et al. 2022, "Knowledge distillation from a stronger teacher".
"""

from kdjax import losses, parallel
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Context, Distiller, MethodLoss, Variables


def dist(*, temperature: float = 4.0, beta: float = 1.0, gamma: float = 1.0) -> Distiller:
    """Correlations with the teacher's probabilities, of each example and of each class.

    Correlations of a class are between the examples of the whole batch. The authors' code
    multiplies by T^2, which the paper does not write (`losses.dist`).

    Taps: logits. Trains: only the student. Usual weight: 2, with 1 for cross-entropy; T is 4 on
    CIFAR and 1 on ImageNet (the authors' code, dist_cifar.yaml).

    Args:
      temperature: T > 0, by which both logits are divided.
      beta: weight of the correlations between the classes of an example.
      gamma: weight of the correlations between the examples of a class.
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        logits = (context.student.logits, context.teacher.logits)
        student, teacher = parallel.all_gather(logits, context.axis_name)
        value = losses.dist(student, teacher, temperature=temperature, beta=beta, gamma=gamma)
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("dist", loss, same_classes=True)
