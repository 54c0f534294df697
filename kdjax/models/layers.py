"""Layers that every family shares, initialised as the PyTorch originals are.

Submodules carry the names of the PyTorch modules they correspond to, with `_`
in place of `.`, so that one rule translates a state dict (`kdjax.torch_import`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.types import Array, UserError

# kaiming_normal_(mode="fan_out", nonlinearity="relu"); for a square kernel k this
# is also the N(0, sqrt(2 / (k * k * out))) that the older code bases write out.
kaiming_normal_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def uniform_fan_in(fan_in: int) -> Callable[..., Array]:
    """PyTorch's default for the weight and bias of a linear layer: U(-1/sqrt(n), 1/sqrt(n))."""
    bound = 1 / math.sqrt(fan_in)

    def init(rng: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


class Model(nn.Module):
    """Base of all classifiers.

    Attributes:
      num_classes: width of the logits.
      in_channels: channels of the images; checked, so that a mismatch is one clear line.
      dtype: of the computation; parameters, statistics and logits stay float32.
      axis_name: mapped axis over which batch norm averages in training, or None.
    """

    num_classes: int
    in_channels: int = 3
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def check_images(self, images: Array) -> Array:
        if images.ndim != 4 or images.shape[-1] != self.in_channels:
            raise UserError(
                f"images have shape {tuple(images.shape)}; the model takes "
                f"[batch, height, width, {self.in_channels}]"
            )
        return images.astype(self.dtype)

    def batch_norm(self, train: bool) -> Callable[..., Any]:
        """`nn.BatchNorm` as PyTorch configures it (its momentum 0.1 is Flax's 0.9).

        One difference remains: PyTorch keeps the unbiased batch variance in its
        running average, Flax the biased one.
        """
        return functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )

    def conv(self, features: int, kernel: int, *, stride: int = 1, **kwargs: Any) -> nn.Conv:
        """A square convolution without bias, padded by half its kernel on every side.

        The padding is spelled out because "SAME" pads a strided convolution only
        on the right, where PyTorch pads both sides.
        """
        defaults = dict(
            strides=(stride, stride),
            padding=[(kernel // 2, kernel // 2)] * 2,
            use_bias=False,
            kernel_init=kaiming_normal_fan_out,
            dtype=self.dtype,
        )
        return nn.Conv(features, (kernel, kernel), **(defaults | kwargs))

    def classifier(self, features: Array, *, name: str, **kwargs: Any) -> Array:
        """Linear layer from [b, d] to float32 logits [b, num_classes]."""
        init = uniform_fan_in(features.shape[-1])
        defaults = dict(kernel_init=init, bias_init=init, dtype=self.dtype)
        dense = nn.Dense(self.num_classes, name=name, **(defaults | kwargs))
        return dense(features).astype(jnp.float32)


def global_average_pool(feature_map: Array) -> Array:
    """[b, h, w, c] -> [b, c], summed in float32."""
    return jnp.mean(feature_map, axis=(1, 2), dtype=jnp.float32).astype(feature_map.dtype)
