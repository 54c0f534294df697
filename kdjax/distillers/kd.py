"""Knowledge distillation on logits.

Hinton et al. 2015, "Distilling the knowledge in a neural network".
"""

import dataclasses

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Array, Context, Distiller, MethodLoss, Outputs, UserError, Variables

DISTANCES = ("kl", "hard", "euclidean")
COMBINATIONS = ("losses", "probabilities", "ensemble")


def kd(
    *,
    temperature: float = 4.0,
    distance: str = "kl",
    combine: str = "losses",
    standardize: bool = False,
) -> Distiller:
    """T^2 KL(teacher || student) between the softened softmaxes (eq. 1).

    With several teachers, their losses are averaged (MKD of the survey), or their softened
    probabilities are, which are the target then (Hinton et al. 2015, section 3), or they are one
    ensemble, whose logits are the logarithm of their mean probability and are divided by T
    (Stanton et al. 2021). Function matching (Beyer et al. 2022) is this loss alone, on views shared
    by both networks.

    Taps: logits. Trains: only the student. Usual weight: 0.9, with 0.1 for cross-entropy
    (RepDistiller); 1 alone for function matching; 9 at T = 2, with 0.1 for cross-entropy, if the
    logits are standardised (S. Sun et al. 2024).

    Args:
      temperature: T > 0, by which both logits are divided; only for `kl`.
      distance: one of `DISTANCES`, the distances that Beyer et al.'s code trains with
        (big_vision, evaluators/proj/distill/distance.py): `kl`, as above; `hard`,
        cross-entropy with the teacher's most probable class; `euclidean`, between the logits.
      combine: one of `COMBINATIONS`, what is averaged over several teachers: their `losses`,
        their `probabilities` at T, or those at T = 1, which are then softened (`ensemble`). But
        for `losses`, only with `kl`.
      standardize: whether each example's logits are standardised first, those of both networks or
        of an ensemble (S. Sun et al. 2024, "Logit standardization in knowledge distillation"); only
        with `kl`, and not with `probabilities`, which are of logits as they are.

    Raises:
      UserError: on an unknown distance or combination, and on options that exclude each other.
    """
    for what, given, allowed in (
        ("distance", distance, DISTANCES), ("combine", combine, COMBINATIONS)
    ):  # fmt: skip
        if given not in allowed:
            raise UserError(f"unknown {what} {given!r}: choose from {', '.join(allowed)}")
    if combine != "losses" and distance != "kl":
        raise UserError(f"combine is {combine!r} and distance {distance!r}: it must be 'kl'")
    if standardize and (distance != "kl" or combine == "probabilities"):
        raise UserError(
            f"standardize is set, distance is {distance!r} and combine {combine!r}: it is for 'kl' "
            "with 'losses' or 'ensemble'"
        )

    def loss(variables: Variables, context: Context) -> MethodLoss:
        student, teacher = context.student.logits, context.teacher.logits
        if distance == "kl":
            value = losses.kd(student, teacher, temperature=temperature, standardize=standardize)
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
        softening = temperature if combine == "probabilities" else 1.0
        logits = jnp.stack([teacher.logits for teacher in context.teachers])
        joint = Outputs(softening * losses.ensemble(logits / softening), {})
        return each.loss(variables, dataclasses.replace(context, teachers=(joint,)))

    return Distiller(init, joint_loss)
