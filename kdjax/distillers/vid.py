"""Variational information distillation.

Ahn et al. 2019, "Variational information distillation for knowledge transfer".
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.adapters import Adapter, Adapters, apply_adapters, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.models.layers import relu
from kdjax.types import Array, Context, Distiller, MethodLoss, Variables

_EPS = 1e-5


class Gaussian(Adapter):
    """The Gaussian variational distribution of a teacher's map given the student's .

    Attributes:
      features: channels of the teacher's map.
      size: (h, w) to which the student's map is average-pooled.
      variance: initial variance of every channel.
    """

    features: int = 1
    size: tuple[int, int] = (1, 1)
    variance: float = 5.0

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps [b, h', w', c'] to the mean [b, h, w, c] and the log-scale [c] of `losses.vid`."""
        x = losses.adaptive_average_pool(x, self.size)
        for i in range(3):
            x = self.conv(self.features, 1)(relu(x) if i else x)
        start = math.log(math.expm1(self.variance - _EPS))
        scale = self.param("log_scale", jax.nn.initializers.constant(start), (self.features,))
        return x, scale


def vid(*, taps: tuple[str, ...] = ()) -> Distiller:
    """Negative log-likelihood of the teacher's maps given the student's, summed over the stages.

    Three 1x1 convolutions predict the mean; each channel has one trainable variance, initially
    5. Because the loss includes the logarithm of the variance, it may become negative.

    Taps: all stages. Trains: the student, the convolutions and the variances. Usual weight: 1,
    with 1 for cross-entropy (RepDistiller).

    Args:
      taps: taps to compare instead of the stages, `student:teacher` where the names differ.
    """

    def adapters(context: Context) -> Adapters:
        built: dict[str, tuple[Gaussian, Array]] = {}
        for name, (student, teacher) in maps("vid", context, taps).items():
            size, features = losses.smaller_size(student, teacher), teacher.shape[-1]
            module = Gaussian.for_input(student, context, features=features, size=size)
            built[name] = (module, student)
        return built

    def init(rng: Array, context: Context) -> Variables:
        return init_adapters(rng, adapters(context))

    def loss(variables: Variables, context: Context) -> MethodLoss:
        predicted, state = apply_adapters(variables, adapters(context))
        value = jnp.zeros(len(context.index))
        for name, (_, teacher) in maps("vid", context, taps).items():
            mean, log_scale = predicted[name]
            teacher = losses.adaptive_average_pool(teacher, mean.shape[1:3])
            value += losses.vid(mean, teacher, log_scale, eps=_EPS)
        return MethodLoss(value, state, {})

    return for_each_teacher("vid", loss, init)
