"""Knowledge distillation on logits.

Hinton et al. 2015, "Distilling the knowledge in a neural network".
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Array, Context, Distiller, MethodLoss, Outputs, UserError, Variables

DISTANCES = ("kl", "hard", "euclidean")


COMBINATIONS = ("losses", "probabilities")


def kd(*, temperature: float = 4.0, distance: str = "kl", combine: str = "losses") -> Distiller:
    """T^2 KL(teacher || student) between the softened softmaxes (eq. 1).

    With several teachers, their losses are averaged (MKD of the survey), or their softened
    probabilities are, which are the target then (Hinton et al. 2015, section 3). Function
    matching (Beyer et al. 2022) is this loss alone, on views shared by both networks.

    Taps: logits. Trains: only the student. Usual weight: 0.9, with 0.1 for cross-entropy
    (RepDistiller); 1 alone for function matching.

    Args:
      temperature: T > 0, by which both logits are divided; only for `kl`.
      distance: one of `DISTANCES`, the distances that Beyer et al.'s code trains with
        (big_vision, evaluators/proj/distill/distance.py): `kl`, as above; `hard`,
        cross-entropy with the teacher's most probable class; `euclidean`, between the logits.
      combine: one of `COMBINATIONS`, what is averaged over several teachers; `probabilities`
        only with `kl`.

    Raises:
      UserError: on an unknown distance or combination.
    """
    for what, given, allowed in (
        ("distance", distance, DISTANCES), ("combine", combine, COMBINATIONS)
    ):  # fmt: skip
        if given not in allowed:
            raise UserError(f"unknown {what} {given!r}: choose from {', '.join(allowed)}")
    if combine == "probabilities" and distance != "kl":
        raise UserError(f"combine is 'probabilities' and distance {distance!r}: it must be 'kl'")

    def loss(variables: Variables, context: Context) -> MethodLoss:
        student, teacher = context.student.logits, context.teacher.logits
        if distance == "kl":
            value = losses.kd(student, teacher, temperature=temperature)
        elif distance == "hard":
            value = losses.hard_kd(student, teacher)
        else:
            value = losses.euclidean(student, teacher)
        return MethodLoss(value, variables["state"], {})

    each = for_each_teacher("kd", loss, same_classes=True)
    if combine == "losses":
        return each

    def init(rng: Array, context: Context) -> Variables:
        each.init(rng, context)  # Checks every teacher.
        return each.init(rng, dataclasses.replace(context, teachers=context.teachers[:1]))

    def joint_loss(variables: Variables, context: Context) -> MethodLoss:
        teachers = _mean_teacher(context.teachers, temperature)
        return each.loss(variables, dataclasses.replace(context, teachers=teachers))

    return Distiller(init, joint_loss)


def _mean_teacher(teachers: Sequence[Outputs], temperature: float) -> tuple[Outputs, ...]:
    """One teacher whose softened probabilities are the mean of the given ones."""
    log_p = jnp.stack([jax.nn.log_softmax(teacher.logits / temperature) for teacher in teachers])
    mean = jax.nn.logsumexp(log_p, axis=0) - math.log(len(teachers))
    return (Outputs(temperature * mean, {}),)
