"""Knowledge distillation with the reused teacher classifier.

Chen et al. 2022, "Knowledge distillation with the reused teacher classifier".
"""

from collections.abc import Sequence

import jax.numpy as jnp

from kdjax import heads, losses
from kdjax.models.reused import ReusedClassifier
from kdjax.types import (
    Array,
    Context,
    Distiller,
    MethodLoss,
    Network,
    Outputs,
    UserError,
    Variables,
)

_NOT_MADE = (
    "method 'simkd' trains a network that predicts with its teacher's classifier, which "
    "simkd().network makes of the student"
)


def simkd(*, factor: int = 2) -> Distiller:
    """Mean squared error between the student's projected last map and the teacher's.

    The network that is trained is the student without its classifier, with a projector and the
    teacher's classifier, which stays as it is (`kdjax.models.reused.ReusedClassifier`). It is what
    is evaluated, saved and exported, and it has the parameters of all three.

    The student's map is its last stage, the teacher's the one that its classifier takes the mean
    of, and the larger one is average-pooled to the size of the smaller one. The
    authors compare the last stages of both; for their teachers that is the same map.

    Taps: `projected` of the student, `pre_pool` of the teacher. Trains: the student and the
    projector. Usual weight: 1, with neither cross-entropy nor KD.

    Args:
      factor: by which the projector is narrower inside than the teacher's map (the reduction
        factor r); the larger, the fewer parameters.

    Raises:
      UserError: if the factor is not positive. `init`, `loss` and `network` raise it if there is
        not exactly one teacher, if that has other classes or does not end in global average
        pooling and a linear layer, or if the network was not made by `network`.
    """
    if factor < 1:
        raise UserError(f"factor of simkd is {factor}: it must be positive")

    def maps(context: Context) -> tuple[Array, Array]:
        teacher = _only(context.teachers)
        if "projected" not in context.student.taps:
            raise UserError(_NOT_MADE)
        student_map = context.student.taps["projected"]
        return student_map, heads.pooled_map("method 'simkd': the teacher", teacher)

    def init(rng: Array, context: Context) -> Variables:
        maps(context)
        return {"params": {}, "state": {}}

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.fitnet(*losses.match_size(*maps(context)))
        return MethodLoss(value, variables["state"], {})

    def network(student: Network, teachers: Sequence[Outputs]) -> Network:
        teacher = _only(teachers)
        if isinstance(student.module, ReusedClassifier):
            raise UserError(
                "only one term of an objective can be simkd: a network has one classifier"
            )
        classes = teacher.logits.shape[-1]
        if getattr(student.module, "num_classes", classes) != classes:
            raise UserError(
                f"method 'simkd': the teacher has {classes} classes, the student "
                f"{student.module.num_classes}"
            )
        _, height, width, features = heads.pooled_map("method 'simkd': the teacher", teacher).shape
        module = ReusedClassifier.around(
            student.module,
            num_classes=classes,
            in_channels=len(student.mean),
            features=features,
            size=(height, width),
            factor=factor,
        )
        return student._replace(module=module)

    def adopt(variables: Variables, teacher_variables: Sequence[Variables]) -> Variables:
        own = variables["params"].get("teacher_classifier")
        if own is None:
            raise UserError(_NOT_MADE)
        (teacher,) = teacher_variables
        found = heads.linear("method 'simkd': the teacher", teacher, own["kernel"].shape)
        # Copies, because a step donates the network's variables and not the teacher's.
        kernel, bias = map(jnp.copy, found)
        params = variables["params"] | {"teacher_classifier": {"kernel": kernel, "bias": bias}}
        return {**variables, "params": params}

    return Distiller(init, loss, network, adopt)


def _only(teachers: Sequence[Outputs]) -> Outputs:
    if len(teachers) != 1:
        raise UserError(
            "method 'simkd' needs one teacher, whose classifier is reused: there are "
            f"{len(teachers)}"
        )
    return teachers[0]
