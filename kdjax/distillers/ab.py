"""Activation boundaries (Heo et al. 2019, "Knowledge transfer via distillation of ...")."""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.adapters import Adapters, Regressor, apply_adapters, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Array, Context, Distiller, MethodLoss, Variables


def ab(*, margin: float = 1.0, taps: tuple[str, ...] = ()) -> Distiller:
    """The student's neurons on the teacher's side of zero, by a margin, added over the stages.

    Stage i of n weighs 2^(i - n) * 3 / 1000. The paper and RepDistiller train the student's
    body by this alone for 30 epochs and then by the labels: a phase, from which the next
    one starts.

    Taps: every stage before its activation. Trains: the student, and a convolution with
    batch norm where the shapes differ. Usual weight: 1, alone for 30 epochs.

    Args:
      margin: > 0.
      taps: instead of the stages, `student:teacher` where the two differ.
    """

    def pairs(context: Context) -> dict[str, tuple[Array, Array]]:
        return maps("ab", context, taps, suffix="_pre")

    def adapters(context: Context) -> Adapters:
        built = {}
        for name, (student, teacher) in pairs(context).items():
            target, module = teacher.shape[1:], None
            if student.shape[1:] != target:
                module = Regressor.for_input(student, context, target=target, relu=False)
            built[name] = (module, student)
        return built

    def init(rng: Array, context: Context) -> Variables:
        return init_adapters(rng, adapters(context))

    def loss(variables: Variables, context: Context) -> MethodLoss:
        adapted, state = apply_adapters(variables, adapters(context))
        value = jnp.zeros(len(context.index))
        # The deepest weighs 1, every stage before it half as much as the next.
        for depth, (name, (_, teacher)) in enumerate(reversed(pairs(context).items())):
            one = losses.activation_boundary(adapted[name], teacher, margin=margin)
            value += 3 / 1000 / 2**depth * one
        return MethodLoss(value, state, {})

    return for_each_teacher("ab", loss, init)
