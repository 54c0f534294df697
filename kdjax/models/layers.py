"""Base classes and layers shared by all families, initialised as in PyTorch.

Submodules have the names of the corresponding PyTorch modules, with `_` in place of `.`, so
that one rule converts state dicts (`kdjax.torch_import`).
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax import parallel
from kdjax.models.batch_norm import FOLDED, BatchNorm
from kdjax.models.convolution import convolve
from kdjax.types import Array, UserError

Names = tuple[str, str]  # the names of a convolution and of the norm that follows it

# PyTorch's kaiming_normal_(mode="fan_out", nonlinearity="relu"). Older code writes it as a normal
# distribution with standard deviation sqrt(2 / (k * k * out)) for a k x k kernel.
kaiming_normal_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# PyTorch's default for kernels: U(-1/sqrt(n), 1/sqrt(n)) with fan-in n.
uniform_fan_in_kernel = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform_fan_in(fan_in: int) -> Callable[..., Array]:
    """PyTorch's default initialiser for biases: U(-1/sqrt(n), 1/sqrt(n)) with fan-in n."""
    bound = 1 / math.sqrt(fan_in)

    def init(rng: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


class Layers(nn.Module):
    """Base class of all networks, with layers configured as in PyTorch.

    Attributes:
      dtype: dtype of the computation; parameters, batch statistics and outputs are float32.
      axis_name: mapped axis over which batch norm averages in training, or None.
    """

    dtype: Any = jnp.float32
    axis_name: str | None = None

    # The default initialiser of convolutions.
    kernel_init: ClassVar[Callable[..., Array]] = staticmethod(kaiming_normal_fan_out)
    # Pairs for `re.sub` that map other spellings of state-dict keys in published files to the
    # spelling that the submodules' names follow.
    torch_aliases: ClassVar[tuple[tuple[str, str], ...]] = ()
    # Pairs for `re.sub` that turn `module/leaf` into the name of the array in a published npz
    # file, one tuple for each layout of such files (`kdjax.npz_import`).
    npz_layouts: ClassVar[tuple[tuple[tuple[str, str], ...], ...]] = ()

    def variant_for(self, keys: Iterable[str]) -> "Layers":
        """The variant of this network to which weights with the given keys belong.

        Args:
          keys: keys of a PyTorch state dict, or paths of variables.

        Returns:
          This module, or a clone with other attributes for weights of another published form.
        """
        return self

    def example(self, resolution: int = 32) -> jax.ShapeDtypeStruct:
        """The shape of an input batch of one, for tracing.

        Args:
          resolution: height and width of the images.
        """
        raise NotImplementedError

    def batch_norm(self, train: bool) -> Callable[..., Any]:
        """A constructor of `BatchNorm` with PyTorch's defaults (its momentum 0.1 is Flax's 0.9).

        One difference remains: PyTorch's running average is of the unbiased batch variance,
        Flax's of the biased one.

        Args:
          train: whether to normalise by the statistics of the batch and update the averages.
        """
        return functools.partial(
            BatchNorm,
            use_running_average=not train,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )

    def layer_norm(self) -> Callable[..., Any]:
        """A constructor of PyTorch's `GroupNorm(1, channels)`.

        It normalises each example over all positions and channels; scale and shift are of a
        channel.
        """
        return functools.partial(nn.GroupNorm, num_groups=1, epsilon=1e-5, dtype=self.dtype)

    def conv(self, features: int, kernel: int, *, stride: int = 1, **kwargs: Any) -> nn.Conv:
        """A square convolution without bias, padded by half the kernel size on all sides.

        The padding is explicit because "SAME" pads a strided convolution only at the end, where
        PyTorch pads both sides.

        Args:
          features: channels of the output.
          kernel: height and width of the kernel.
          stride: stride in both dimensions.
          **kwargs: other arguments of `nn.Conv`, which override the defaults.
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
        norm: Callable[..., Callable[[Array], Array]],
        names: Names,
        features: int,
        kernel: int,
        **kwargs: Any,
    ) -> Array:
        """Applies `conv` and `norm`, named `names[0]` and `names[1]`, without an activation."""
        if self.has_variable(FOLDED, names[0]):
            folded: Any = self.get_variable(FOLDED, names[0])
            conv = self.conv(features, kernel, **kwargs | {"use_bias": True}, parent=None)
            found: Any = conv.apply({"params": folded}, x)
            return found
        y = norm(name=names[1])(self.conv(features, kernel, name=names[0], **kwargs)(x))
        # A batch norm in evaluation has left its slope there.
        if self.is_mutable_collection(FOLDED) and self.has_variable(FOLDED, names[1]):
            self.put_variable(FOLDED, names[0], self._fold(*names))
        return y

    def _fold(self, conv: str, norm: str) -> dict[str, Array]:
        """The kernel and the bias of a convolution that includes the batch norm behind it."""
        params, mean = self.variables["params"], self.variables["batch_stats"][norm]["mean"]
        slope = self.variables[FOLDED][norm]["slope"]
        bias = params[norm]["bias"] + slope * (params[conv].get("bias", 0) - mean)
        return {
            "kernel": (params[conv]["kernel"] * slope[None, None, None]).astype(self.dtype),
            "bias": bias.astype(self.dtype),
        }

    def dense(self, x: Array, features: int, *, name: str, **kwargs: Any) -> Array:
        """Applies a linear layer: [b, d] to [b, features]."""
        init = uniform_fan_in(x.shape[-1])
        defaults = {"kernel_init": init, "bias_init": init, "dtype": self.dtype}
        return nn.Dense(features, name=name, **(defaults | kwargs))(x)


class Model(Layers, kw_only=True):
    """Base class of all classifiers, and of models of your own.

    A subclass defines `__call__(self, images, train=False)`, decorated with `nn.compact`, which
    maps normalised images [b, h, w, in_channels] to `kdjax.Outputs`. Taps named `stem`,
    `stageK_pre`, `stageK` and `pre_logits` make every distillation method applicable.

    Attributes:
      num_classes: width of the logits.
      in_channels: channels of the images, as checked by `check_images`.
    """

    num_classes: int
    in_channels: int = 3

    def example(self, resolution: int = 32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, resolution, resolution, self.in_channels), jnp.float32)

    def check_images(self, images: Array, *, at_least: int = 1) -> Array:
        """Checks the shape of the images and casts them to `dtype`.

        Args:
          images: [b, h, w, in_channels].
          at_least: minimum height and width.

        Raises:
          UserError: if the images have another shape or are too small.
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
        """Applies dropout in training, if `apply` is given `rngs={"dropout": key}`.

        Without that key nothing is dropped, so that a train step without dropout works for
        all models.

        Args:
          x: the input, of any shape.
          rate: probability of dropping an element.
          train: whether the network is in training mode.
        """
        dropped: Array = nn.Dropout(rate, deterministic=not (train and self.has_rng("dropout")))(x)
        return dropped

    def classifier(self, features: Array, *, name: str, **kwargs: Any) -> Array:
        """Applies a linear layer: [b, d] to float32 logits [b, num_classes]."""
        return self.dense(features, self.num_classes, name=name, **kwargs).astype(jnp.float32)


def relu(x: Array) -> Array:
    """max(x, 0), with gradient 0 at 0.

    Written as a select because XLA's CPU backend fuses a maximum into each of its uses and
    recomputes its inputs there: in a residual network, every weight gradient would recompute
    the whole chain of residual sums before it.
    """
    return jnp.where(x <= 0, 0, x) if parallel.on_cpu() else jax.nn.relu(x)


def global_average_pool(feature_map: Array) -> Array:
    """Averages over positions in float32: [b, h, w, c] to [b, c] of the same dtype."""
    return jnp.mean(feature_map, axis=(1, 2), dtype=jnp.float32).astype(feature_map.dtype)


def flatten(feature_map: Array) -> Array:
    """Flattens [b, h, w, c] to [b, c * h * w] in PyTorch's channels-first order.

    The kernel of the linear layer that follows is therefore the transpose of PyTorch's weight.
    """
    return feature_map.transpose(0, 3, 1, 2).reshape(feature_map.shape[0], -1)


def max_pool(feature_map: Array) -> Array:
    """2x2 max pooling with stride 2; an odd last row or column is dropped."""
    pooled: Array = nn.max_pool(feature_map, (2, 2), (2, 2))
    return pooled
