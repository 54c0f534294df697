"""Knowledge distillation on logits.

Hinton et al. 2015, "Distilling the knowledge in a neural network".
"""

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Context, Distiller, MethodLoss, UserError, Variables

DISTANCES = ("kl", "hard", "euclidean")


def kd(*, temperature: float = 4.0, distance: str = "kl") -> Distiller:
    """T^2 KL(teacher || student) between the softened softmaxes (eq. 1).

    With several teachers, their losses are averaged (MKD). Function matching (Beyer et al.
    2022) is this loss alone, on views shared by both networks.

    Taps: logits. Trains: only the student. Usual weight: 0.9, with 0.1 for cross-entropy
    (RepDistiller); 1 alone for function matching.

    Args:
      temperature: T > 0, by which both logits are divided; only for `kl`.
      distance: one of `DISTANCES`, the distances that Beyer et al.'s code trains with
        (big_vision, evaluators/proj/distill/distance.py): `kl`, as above; `hard`,
        cross-entropy with the teacher's most probable class; `euclidean`, between the logits.

    Raises:
      UserError: on an unknown distance.
    """
    if distance not in DISTANCES:
        raise UserError(f"unknown distance {distance!r}: choose from {', '.join(DISTANCES)}")

    def loss(variables: Variables, context: Context) -> MethodLoss:
        student, teacher = context.student.logits, context.teacher.logits
        if distance == "kl":
            value = losses.kd(student, teacher, temperature=temperature)
        elif distance == "hard":
            value = losses.hard_kd(student, teacher)
        else:
            value = losses.euclidean(student, teacher)
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("kd", loss, same_classes=True)
