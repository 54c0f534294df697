"""Small trainable networks that make the feature maps of two networks comparable."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.convolution import convolve
from kdjax.models.layers import Layers, relu, uniform_fan_in, uniform_fan_in_kernel
from kdjax.types import Array, Context, UserError, Variables

# {name: (module, input)}; an input without a module passes through unchanged. An input is an
# array or a tuple of arrays.
Adapters = Mapping[str, tuple[nn.Module | None, Any]]


def init_adapters(rng: Array, adapters: Adapters) -> Variables:
    """Initialises the variables of all adapters that have a module.

    Args:
      rng: a key; each adapter is initialised from its own key, folded from this one.
      adapters: modules and their inputs, by name. Only the inputs' shapes and types are used.

    Returns:
      The adapters' variables, where the state holds the batch statistics,
      `{"params": {name: ...}, "state": {name: ...}}`.
    """
    params, state = {}, {}
    for i, (name, (module, feature)) in enumerate(adapters.items()):
        if module is not None:
            zeros = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), feature)
            variables = module.init(jax.random.fold_in(rng, i), zeros)
            params[name] = variables["params"]
            state[name] = variables.get("batch_stats", {})
    return {"params": params, "state": state}


def apply_adapters(variables: Variables, adapters: Adapters) -> tuple[dict[str, Any], Any]:
    """Applies all adapters in training mode.

    Args:
      variables: as returned by `init_adapters`.
      adapters: modules and their inputs, by name.

    Returns:
      The outputs by name, where an input without a module is returned unchanged, and the new
      state.
    """
    outputs, state = {}, {}
    for name, (module, feature) in adapters.items():
        outputs[name] = feature
        if module is not None:
            own = {
                "params": variables["params"][name],
                "batch_stats": variables["state"].get(name, {}),
            }
            outputs[name], updates = module.apply(own, feature, mutable=["batch_stats"])
            state[name] = updates.get("batch_stats", {})
    return outputs, state


class Adapter(Layers):
    """Base class of the adapters.

    Adapters use PyTorch's default initialisation and are only ever applied in training mode.
    """

    kernel_init = staticmethod(uniform_fan_in_kernel)

    @classmethod
    def for_input(cls, feature: Any, context: Context, **attributes: Any) -> Any:
        """Creates an adapter with its input's dtype and the context's mapped axis.

        Args:
          feature: the input; only its type is used.
          context: supplies `axis_name`, over which batch norm averages.
          **attributes: the module's other attributes.
        """
        dtype = jax.tree.leaves(feature)[0].dtype
        return cls(dtype=dtype, axis_name=context.axis_name, **attributes)


class Regressor(Adapter):
    """FitNets' convolutional regressor from the student's shape to the teacher's.

    As in RepDistiller, which has the factor m = 2: a map m times as large in both dimensions
    is reduced by a convolution of kernel m + 1 and stride m; a map 1/m as large is enlarged by
    a transposed convolution of kernel 2m and stride m. For other ratios, an unpadded
    convolution (or its transpose) of stride 1 has the kernel that makes up the difference.
    Batch norm and an optional ReLU follow.

    Attributes:
      target: (h, w, c) of the output.
      relu: whether the output passes through a ReLU.
    """

    target: tuple[int, int, int] = (1, 1, 1)
    relu: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h', w', c'] to [b, h, w, c].

        Raises:
          UserError: if the input is larger than the target in one dimension and smaller in
            the other.
        """
        h, w, c = self.target
        up = h > x.shape[1]
        large, small = ((h, w), x.shape[1:3]) if up else (x.shape[1:3], (h, w))
        ratio = large[0] // small[0]
        strided = ratio > 1 and all(a == ratio * b for a, b in zip(large, small, strict=True))
        if any(a < b for a, b in zip(large, small, strict=True)):
            raise UserError(f"no regressor from {tuple(x.shape[1:3])} to {(h, w)} pixels")
        if strided:
            kernel = (2 * ratio if up else ratio + 1,) * 2
            strides = (ratio, ratio)
        else:
            kernel = (1 + large[0] - small[0], 1 + large[1] - small[1])
            strides = (1, 1)
        init = uniform_fan_in(kernel[0] * kernel[1] * (c if up else x.shape[-1]))
        common: dict[str, Any] = {
            "strides": strides,
            "kernel_init": init,
            "bias_init": init,
            "dtype": self.dtype,
        }
        if up:
            # Flax pads the dilated input; PyTorch's `padding` is kernel - 1 minus this.
            padding = [_transposed_padding(k, ratio) if strided else (k - 1, k - 1) for k in kernel]
            x = nn.ConvTranspose(c, kernel, padding=padding, **common)(x)
        else:
            padding = [(ratio // 2, ratio // 2)] * 2 if strided else [(0, 0)] * 2
            x = nn.Conv(c, kernel, padding=padding, conv_general_dilated=convolve, **common)(x)
        x = self.batch_norm(train=True)()(x)
        return relu(x) if self.relu else x


def _transposed_padding(kernel: int, stride: int) -> tuple[int, int]:
    """The padding with which a transposed convolution multiplies the size by its stride."""
    before = kernel - 1 - stride // 2
    return before, kernel + stride - 2 - before


class Pointwise(Adapter):
    """A 1x1 convolution without bias, initialised from N(0, 2 / features).

    Attributes:
      features: channels of the output.
      norm: whether batch norm follows.
    """

    features: int = 1
    norm: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h, w, features]."""
        init = jax.nn.initializers.normal((2 / self.features) ** 0.5)
        x = self.conv(self.features, 1, kernel_init=init)(x)
        return self.batch_norm(train=True)()(x) if self.norm else x


class Embedding(Adapter):
    """A linear embedding.

    Attributes:
      features: dimensions of the embedding.
    """

    features: int = 128

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, ...] to float32 [b, features]."""
        return self.dense(x.reshape(x.shape[0], -1), self.features, name="linear").astype(
            jnp.float32
        )


def equal_channels(pairs: Mapping[str, tuple[Array, Array]], context: Context) -> Adapters:
    """Adapts the student's maps to the teacher's numbers of channels.

    Args:
      pairs: (student, teacher) feature maps [b, h, w, c] by name, as from `taps.maps`.
      context: supplies `axis_name`.

    Returns:
      A 1x1 convolution for each student map whose number of channels differs from the
      teacher's, and no module for the others.
    """
    adapters = {}
    for name, (student, teacher) in pairs.items():
        features, module = teacher.shape[-1], None
        if student.shape[-1] != features:
            module = Pointwise.for_input(student, context, features=features, norm=False)
        adapters[name] = (module, student)
    return adapters
