"""Batch norm (Ioffe & Szegedy 2015), synchronised over devices, with a custom gradient."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kdjax import parallel
from kdjax.types import Array

# The collection of what evaluation computes from variables alone (`Network.prepare`).
FOLDED = "folded"


class BatchNorm(nn.Module):
    """Batch norm over the last axis, with the arguments, variables and results of `nn.BatchNorm`.

    Only reverse-mode differentiation is defined, and not through the running averages. The
    gradient is computed as in section 3 of the paper, from two sums over the batch. JAX's own
    derivative takes at least three sums, some of which XLA schedules at the end of the step,
    keeping the arrays that they reduce alive until then.

    Attributes:
      use_running_average: whether to normalise by the running averages, as in evaluation.
      momentum: decay rate of the running averages.
      epsilon: added to variances.
      dtype: dtype of the result; statistics are computed in at least float32.
      axis_name: mapped axis over which the batch statistics are averaged, or None.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises [..., c] over all axes but the last."""
        shape = x.shape[-1:]
        means = self.variable("batch_stats", "mean", jnp.zeros, shape)
        variances = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.use_running_average:
            slope = lax.rsqrt(variances.value + self.epsilon) * scale
            if self.has_variable(FOLDED, "slope"):
                slope = self.get_variable(FOLDED, "slope")
            elif self.is_mutable_collection(FOLDED) and not self.is_initializing():
                self.put_variable(FOLDED, "slope", slope)
            return _affine(_at_least_float32(x), means.value, slope, bias).astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        y, mean, variance = _normalize(x, scale, bias, self.epsilon, axis_name, parallel.on_cpu())
        if not self.is_initializing():
            for average, new in ((means, mean), (variances, variance)):
                new = lax.stop_gradient(new)
                average.value = self.momentum * average.value + (1 - self.momentum) * new
        return y.astype(self.dtype)


def _at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _broadcast(channels: Array, x: Array) -> Array:
    """Adds leading axes to [c], so that it broadcasts against x [..., c]."""
    return lax.expand_dims(channels, range(x.ndim - 1))


def _sum(x: Array, on_cpu: bool) -> Array:
    """Sums [..., c] over all axes but the last.

    On the CPU, products with ones take a third of the time of XLA's own sum or less, and round
    less, as they add up within images first. They have two rows of ones, and so two equal sums:
    for these XLA calls a library, where it compiles a slow kernel for a product with one row.
    """
    if not on_cpu:
        return jnp.sum(x, axis=tuple(range(x.ndim - 1)))
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    of_images = jnp.matmul(jnp.ones((len(rows), 2, rows.shape[1]), x.dtype), rows)
    of_images = of_images.reshape(len(rows), -1)
    return jnp.matmul(jnp.ones((2, len(rows)), x.dtype), of_images)[0, : x.shape[-1]]


def _mean(x: Array, on_cpu: bool) -> Array:
    return _sum(x, on_cpu) / (x.size // x.shape[-1])


def _affine(x: Array, mean: Array, slope: Array, bias: Array) -> Array:
    return (x - _broadcast(mean, x)) * _broadcast(slope, x) + _broadcast(bias, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalize(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None, on_cpu: bool
) -> tuple[Array, Array, Array]:
    """Normalises x by its batch statistics; also returns the mean and the biased variance."""
    return _forward(x, scale, bias, epsilon, axis_name, on_cpu)[0]


# Layers of equal shapes are traced once for each kind of device.
@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _forward(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None, on_cpu: bool
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array, Array]]:
    exact = _at_least_float32(x)
    mean, square = parallel.pmean((_mean(exact, on_cpu), _mean(exact * exact, on_cpu)), axis_name)
    # Rounding may make the difference negative.
    variance = jnp.maximum(0, square - mean * mean)
    rstd = lax.rsqrt(variance + epsilon)
    return (_affine(exact, mean, rstd * scale, bias), mean, variance), (x, mean, rstd, scale)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _backward(
    epsilon: float,
    axis_name: str | None,
    on_cpu: bool,
    saved: tuple[Array, Array, Array, Array],
    grads: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array]:
    x, mean, rstd, scale = saved
    grad, *_ = grads
    exact = _at_least_float32(x)
    bias_grad = _sum(grad, on_cpu)
    scale_grad = _sum(grad * (exact - _broadcast(mean, x)), on_cpu) * rstd
    count = x.size // x.shape[-1]
    shift, slope = parallel.pmean((bias_grad / count, scale_grad * rstd / count), axis_name)
    dx = _broadcast(scale * rstd, x) * (
        grad - _broadcast(shift, x) - (exact - _broadcast(mean, x)) * _broadcast(slope, x)
    )
    return dx.astype(x.dtype), scale_grad, bias_grad


_normalize.defvjp(_forward, _backward)
