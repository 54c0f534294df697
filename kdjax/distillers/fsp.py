"""Flow of solution procedure (FSP).

Yim et al. 2017, "A gift from knowledge distillation".
"""

from itertools import pairwise

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.adapters import apply_adapters, equal_channels, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import stem_and_stages
from kdjax.types import Array, Context, Distiller, MethodLoss, Variables


def fsp() -> Distiller:
    """Mean squared difference of the FSP matrices of consecutive stages (eq. 1), summed.

    The paper requires equal numbers of channels; where they differ, the student's maps pass
    through a 1x1 convolution. The paper trains with this loss alone and then with the labels:
    in kdjax these are two phases, the second initialised from the first.

    Taps: `stem` and all stages. Trains: the student, and the 1x1 convolutions if there are
    any. Usual weight: 1, alone for 30 epochs (RepDistiller; the weight of 50 on its command
    line is never used).
    """

    def init(rng: Array, context: Context) -> Variables:
        return init_adapters(rng, equal_channels(stem_and_stages("fsp", context), context))

    def loss(variables: Variables, context: Context) -> MethodLoss:
        adapted, state = apply_adapters(
            variables, equal_channels(stem_and_stages("fsp", context), context)
        )
        layers = [
            (adapted[name], teacher)
            for name, (_, teacher) in stem_and_stages("fsp", context).items()
        ]
        value = jnp.zeros(len(context.index))
        for bottom, top in pairwise(layers):
            value += losses.fsp(bottom[0], top[0], bottom[1], top[1])
        return MethodLoss(value, state, {})

    return for_each_teacher("fsp", loss, init)
