"""Activation boundary transfer.

Heo et al. 2019, "Knowledge transfer via distillation of activation boundaries formed by hidden
neurons".
"""

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.adapters import Adapters, Regressor, apply_adapters, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Array, Context, Distiller, MethodLoss, Variables


def ab(*, margin: float = 1.0, taps: tuple[str, ...] = ()) -> Distiller:
    """Activation boundary loss (`losses.activation_boundary`), summed over the stages.

    Pushes the student's pre-activations beyond a margin on the same side of zero as the
    teacher's. Stage i of n has weight 2^(i - n) * 3 / 1000. The paper and RepDistiller train
    the student's body with this loss alone for 30 epochs and then with the labels; in kdjax
    these are two phases, the second initialised from the first. The first leaves the classifier
    as it was initialised, as the loss does not depend on it (`train.make_train_step`).

    Taps: all stages before their activations. Trains: the student, and a convolution with
    batch norm for each stage whose shapes differ. Usual weight: 1, alone for 30 epochs.

    Args:
      margin: distance from zero, positive.
      taps: taps to compare instead of the stages, `student:teacher` where the names differ.
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
        # The deepest stage has relative weight 1, every other one half that of the next.
        for depth, (name, (_, teacher)) in enumerate(reversed(pairs(context).items())):
            stage_loss = losses.activation_boundary(adapted[name], teacher, margin=margin)
            value += 3 / 1000 / 2**depth * stage_loss
        return MethodLoss(value, state, {})

    return for_each_teacher("ab", loss, init)
