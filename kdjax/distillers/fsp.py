"""Flow of solution procedure (Yim et al. 2017)."""

from itertools import pairwise

import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.adapters import apply_adapters, equal_channels, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import stem_and_stages
from kdjax.types import Array, Context, Distiller, MethodLoss, Variables


def fsp() -> Distiller:
    """Mean squared difference of FSP matrices between consecutive stages (eq. 1), added up.

    The paper needs equal channels; where the networks differ, the student's maps go
    through a 1x1 convolution. It trains in two stages, this alone and then the labels:
    a phase, from which the next one starts.

    Taps: `stem` and every stage. Trains: the student, and the convolutions where there
    are any. Usual weight: 1, alone for 30 epochs (RepDistiller, which never uses the 50
    that its command line is given).
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
