"""Layers that every family shares, initialised as the PyTorch originals are.

Submodules carry the names of the PyTorch modules they correspond to, with `_`
in place of `.`, so that one rule translates a state dict (`kdjax.torch_import`).
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.batch_norm import BatchNorm
from kdjax.models.convolution import convolve
from kdjax.types import Array, UserError

Names = tuple[str, str]  # of a convolution and of the norm that follows it

# kaiming_normal_(mode="fan_out", nonlinearity="relu"); for a square kernel k this
# is also the N(0, sqrt(2 / (k * k * out))) that the older code bases write out.
kaiming_normal_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# What PyTorch gives to a kernel nobody initialises: U(-1/sqrt(n), 1/sqrt(n)), n the fan-in.
uniform_fan_in_kernel = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform_fan_in(fan_in: int) -> Callable[..., Array]:
    """PyTorch's default for weight and bias of a layer with n inputs: U(-1/sqrt(n), 1/sqrt(n))."""
    bound = 1 / math.sqrt(fan_in)

    def init(rng: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


class Layers(nn.Module):
    """Base of all networks: their layers, configured as in PyTorch.

    Attributes:
      dtype: of the computation; parameters, statistics and outputs stay float32.
      axis_name: mapped axis over which batch norm averages in training, or None.
    """

    dtype: Any = jnp.float32
    axis_name: str | None = None

    # How convolutions start, unless a call says otherwise.
    kernel_init: ClassVar[Callable[..., Array]] = staticmethod(kaiming_normal_fan_out)
    # Other spellings of state-dict keys in published files: `re.sub` pairs that
    # give the spelling which the names of the submodules follow.
    torch_aliases: ClassVar[tuple[tuple[str, str], ...]] = ()

    def variant_for(self, keys: Iterable[str]) -> "Layers":
        """The variant of this network that variables or a state dict with these keys belong to."""
        return self

    def example(self, resolution: int = 32) -> jax.ShapeDtypeStruct:
        """The shape of a batch of one, for tracing; `resolution` is that of the images."""
        raise NotImplementedError

    def batch_norm(self, train: bool) -> Callable[..., Any]:
        """`BatchNorm` as PyTorch configures it (its momentum 0.1 is Flax's 0.9).

        One difference remains: PyTorch keeps the unbiased batch variance in its
        running average, Flax the biased one.
        """
        return functools.partial(
            BatchNorm,
            use_running_average=not train,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )

    def conv(self, features: int, kernel: int, *, stride: int = 1, **kwargs: Any) -> nn.Conv:
        """A square convolution without bias, padded by half its kernel on every side.

        The padding is spelled out because "SAME" pads a strided convolution only
        on the right, where PyTorch pads both sides.
        """
        defaults = {
            "strides": (stride, stride),
            "padding": [(kernel // 2, kernel // 2)] * 2,
            "use_bias": False,
            "kernel_init": self.kernel_init,
            "dtype": self.dtype,
            "conv_general_dilated": convolve,
        }
        return nn.Conv(features, (kernel, kernel), **(defaults | kwargs))

    def conv_norm(
        self,
        x: Array,
        norm: Callable[..., Any],
        names: Names,
        features: int,
        kernel: int,
        **kwargs: Any,
    ) -> Array:
        """`conv`, then `norm`, called `names[0]` and `names[1]`; no activation."""
        return norm(name=names[1])(self.conv(features, kernel, name=names[0], **kwargs)(x))

    def dense(self, x: Array, features: int, *, name: str, **kwargs: Any) -> Array:
        """Linear layer from [b, d] to [b, features]."""
        init = uniform_fan_in(x.shape[-1])
        defaults = {"kernel_init": init, "bias_init": init, "dtype": self.dtype}
        return nn.Dense(features, name=name, **(defaults | kwargs))(x)


class Model(Layers, kw_only=True):
    """Base of all classifiers.

    Attributes:
      num_classes: width of the logits.
      in_channels: channels of the images; checked, so that a mismatch is one clear line.
    """

    num_classes: int
    in_channels: int = 3

    def example(self, resolution: int = 32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, resolution, resolution, self.in_channels), jnp.float32)

    def check_images(self, images: Array, *, at_least: int = 1) -> Array:
        """The images in the type of the computation.

        Raises:
          UserError: if they are no batch of images with the right channels, at
            least `at_least` pixels high and wide.
        """
        shape = tuple(images.shape)
        if images.ndim != 4 or shape[-1] != self.in_channels:
            raise UserError(
                f"images have shape {shape}; the model takes "
                f"[batch, height, width, {self.in_channels}]"
            )
        if min(shape[1:3]) < at_least:
            raise UserError(
                f"images are {shape[1]}x{shape[2]}; the model takes "
                f"{at_least}x{at_least} and larger"
            )
        return images.astype(self.dtype)

    def drop(self, x: Array, rate: float, train: bool) -> Array:
        """Dropout, in training and where `apply` was given `rngs={"dropout": key}`.

        Without that key nothing is dropped, so that a step which knows of no
        dropout can train every model.
        """
        return nn.Dropout(rate, deterministic=not (train and self.has_rng("dropout")))(x)

    def classifier(self, features: Array, *, name: str, **kwargs: Any) -> Array:
        """Linear layer from [b, d] to float32 logits [b, num_classes]."""
        return self.dense(features, self.num_classes, name=name, **kwargs).astype(jnp.float32)


def relu(x: Array) -> Array:
    """max(x, 0), whose gradient at 0 is 0.

    Written as a choice between two arrays because XLA's CPU backend recomputes a maximum
    wherever its result is used, and with it all that led there: in a residual network,
    for every weight gradient the whole chain of residual sums before it.
    """
    return jnp.where(x <= 0, 0, x)


def global_average_pool(feature_map: Array) -> Array:
    """[b, h, w, c] -> [b, c], summed in float32."""
    return jnp.mean(feature_map, axis=(1, 2), dtype=jnp.float32).astype(feature_map.dtype)


def flatten(feature_map: Array) -> Array:
    """[b, h, w, c] -> [b, c * h * w], channels first, as PyTorch lays out what it flattens.

    So the weights of the linear layer that follows are PyTorch's, transposed.
    """
    return feature_map.transpose(0, 3, 1, 2).reshape(feature_map.shape[0], -1)


def max_pool(feature_map: Array) -> Array:
    """Halves height and width; an odd last row or column is left out."""
    return nn.max_pool(feature_map, (2, 2), (2, 2))
