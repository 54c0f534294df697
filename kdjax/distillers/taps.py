"""Which feature maps a method compares, and the small networks that make them comparable."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.convolution import convolve
from kdjax.models.layers import Layers, relu, uniform_fan_in, uniform_fan_in_kernel
from kdjax.types import Array, Context, UserError, Variables


def paired(
    method: str,
    context: Context,
    taps: Sequence[str] = (),
    *,
    suffix: str = "",
    teacher_suffix: str | None = None,
) -> dict[str, tuple[Array, Array]]:
    """The feature maps that are compared: {pair: (student's, teacher's)}.

    Args:
      method: whose, for errors.
      context: with one teacher.
      taps: names of taps, `student:teacher` where the two differ; () for every stage.
        Networks with as many stages are paired in order. Otherwise each stage of the
        one with fewer, n of m, meets the other's stage round(i m / n): the last meets the
        last, and all stages of the shallower network count.
      suffix: of the stages: "" or "_pre" (before the activation).
      teacher_suffix: of the teacher's, where it is another.

    Raises:
      UserError: if a network has no such tap.
    """
    student, teacher = context.student.taps, context.teacher.taps
    if not taps:
        other_suffix = suffix if teacher_suffix is None else teacher_suffix
        n, m = _stages(student, suffix), _stages(teacher, other_suffix)
        few = min(n, m)
        if not few:
            raise UserError(f"method {method!r} needs taps: the networks have no stages")
        places = range(1, few + 1)
        taps = [
            f"stage{_at(i, few, n)}{suffix}:stage{_at(i, few, m)}{other_suffix}" for i in places
        ]
    pairs = {}
    for tap in taps:
        mine, _, other = tap.partition(":")
        other = other or mine
        for whose, name, known in (("student", mine, student), ("teacher", other, teacher)):
            if name not in known:
                raise UserError(
                    f"method {method!r}: the {whose} has no tap {name!r}: "
                    f"choose from {', '.join(known)}"
                )
        pairs[mine if mine == other else f"{mine}:{other}"] = (student[mine], teacher[other])
    return pairs


def maps(
    method: str,
    context: Context,
    taps: Sequence[str] = (),
    *,
    suffix: str = "",
    last: bool = False,
) -> dict[str, tuple[Array, Array]]:
    """As `paired`, of feature maps alone; with `last`, () is for the last stages only.

    Raises:
      UserError: if a tap is none.
    """
    pairs = paired(method, context, taps, suffix=suffix)
    if last and not taps:
        pairs = dict(list(pairs.items())[-1:])
    for name, pair in pairs.items():
        for feature in pair:
            if feature.ndim != 4:
                raise UserError(
                    f"method {method!r} compares feature maps [b, h, w, c], and "
                    f"{name!r} has shape {tuple(feature.shape)}"
                )
    return pairs


def _stages(taps: Mapping[str, Array], suffix: str) -> int:
    return sum(name.startswith("stage") and name == f"{name[:6]}{suffix}" for name in taps)


def _at(i: int, few: int, count: int) -> int:
    """The stage among `count` at the relative depth of stage i among `few`; halves go up."""
    return (2 * i * count + few) // (2 * few)


def stem_and_stages(method: str, context: Context) -> dict[str, tuple[Array, Array]]:
    """The maps of `stem` and of every stage, in order."""
    return maps(method, context, ("stem",)) | maps(method, context)


def embeddings(method: str, context: Context) -> tuple[Array, Array]:
    """What goes into the two networks' classifiers, [b, d] and [b, d']."""
    return paired(method, context, ("pre_logits",))["pre_logits"]


Adapters = Mapping[str, tuple[nn.Module | None, Any]]


def init_adapters(rng: Array, adapters: Adapters) -> Variables:
    """Variables of adapters, {name: (module, its input)}; those without a module have none.

    An input is an array, or a tuple of them.
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
    """Outputs in training mode by name, an input as it is without a module; the new state."""
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
    """Base of the adapters: layers that start as PyTorch leaves them, in training mode."""

    kernel_init = staticmethod(uniform_fan_in_kernel)

    @classmethod
    def for_input(cls, feature: Any, context: Context, **attributes: Any) -> Any:
        """The adapter that computes in its input's type and averages over the devices."""
        dtype = jax.tree.leaves(feature)[0].dtype
        return cls(dtype=dtype, axis_name=context.axis_name, **attributes)


class Regressor(Adapter):
    """FitNet's convolution from the student's shape to the teacher's, as in RepDistiller.

    From twice the size a 3x3 of stride 2, to twice the size a transposed 4x4 of stride 2
    (likewise for other multiples: kernels of m + 1 and 2 m), from a larger map a
    convolution without padding that is as much larger, to a larger one its transpose;
    then batch norm and, where asked for, a ReLU.

    Attributes:
      target: (h, w, c).
      relu: whether the last is a ReLU.
    """

    target: tuple[int, int, int] = (1, 1, 1)
    relu: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
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
            # Padding of the input spread by the strides; PyTorch's is kernel - 1 less this.
            sides = [_transposed_padding(k, ratio) if strided else (k - 1, k - 1) for k in kernel]
            x = nn.ConvTranspose(c, kernel, padding=sides, **common)(x)
        else:
            sides = [(ratio // 2, ratio // 2)] * 2 if strided else [(0, 0)] * 2
            x = nn.Conv(c, kernel, padding=sides, conv_general_dilated=convolve, **common)(x)
        x = self.batch_norm(train=True)()(x)
        return relu(x) if self.relu else x


def _transposed_padding(kernel: int, stride: int) -> tuple[int, int]:
    """What makes a transposed convolution multiply the size by its stride."""
    before = kernel - 1 - stride // 2
    return before, kernel + stride - 2 - before


class Pointwise(Adapter):
    """A 1x1 convolution without bias, N(0, sqrt(2 / c)), and batch norm where asked for.

    Attributes:
      features: c.
      norm: whether batch norm follows.
    """

    features: int = 1
    norm: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = jax.nn.initializers.normal((2 / self.features) ** 0.5)
        x = self.conv(self.features, 1, kernel_init=init)(x)
        return self.batch_norm(train=True)()(x) if self.norm else x


class Embedding(Adapter):
    """A linear layer from [b, d] to float32 [b, features].

    Attributes:
      features: d'.
    """

    features: int = 128

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return self.dense(x.reshape(x.shape[0], -1), self.features, name="linear").astype(
            jnp.float32
        )


def equal_channels(pairs: Mapping[str, tuple[Array, Array]], context: Context) -> Adapters:
    """A 1x1 convolution for each student's map that has not as many channels as the teacher's."""
    adapters = {}
    for name, (student, teacher) in pairs.items():
        features, module = teacher.shape[-1], None
        if student.shape[-1] != features:
            module = Pointwise.for_input(student, context, features=features, norm=False)
        adapters[name] = (module, student)
    return adapters
