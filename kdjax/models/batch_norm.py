"""Batch norm (Ioffe & Szegedy 2015), averaged over devices, with a gradient of its own."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kdjax import parallel
from kdjax.types import Array


class BatchNorm(nn.Module):
    """`nn.BatchNorm` over the last axis: its arguments, variables and results.

    Only reverse-mode differentiation is defined, and not through the running averages. The
    gradient is the one of the paper (section 3), computed from two sums over the batch. As JAX
    derives it, it takes at least three, of which XLA computes some only at the end of a step
    and keeps the arrays that they sum until then.

    Attributes:
      use_running_average: normalise by the running averages, as in evaluation.
      momentum: of the running averages: how much stays of them in a step.
      epsilon: added to variances.
      dtype: of the result; sums are taken in float32 or better.
      axis_name: mapped axis over which the batch's averages are taken, or None.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., c] -> [..., c]."""
        shape = x.shape[-1:]
        means = self.variable("batch_stats", "mean", jnp.zeros, shape)
        variances = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.use_running_average:
            rstd = lax.rsqrt(variances.value + self.epsilon)
            return _affine(_exact(x), means.value, rstd * scale, bias).astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        y, mean, variance = _normalize(x, scale, bias, self.epsilon, axis_name)
        if not self.is_initializing():
            for average, new in ((means, mean), (variances, variance)):
                new = lax.stop_gradient(new)
                average.value = self.momentum * average.value + (1 - self.momentum) * new
        return y.astype(self.dtype)


def _exact(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _along(channels: Array, x: Array) -> Array:
    """[c] as it is added to or multiplied with x."""
    return lax.expand_dims(channels, range(x.ndim - 1))


def _sum(x: Array) -> Array:
    return jnp.sum(x, axis=tuple(range(x.ndim - 1)))


def _mean(x: Array) -> Array:
    return jnp.mean(x, axis=tuple(range(x.ndim - 1)))


def _affine(x: Array, mean: Array, slope: Array, bias: Array) -> Array:
    return (x - _along(mean, x)) * _along(slope, x) + _along(bias, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalize(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None
) -> tuple[Array, Array, Array]:
    """The batch normalised by its own mean and (biased) variance, and these."""
    return _forward(x, scale, bias, epsilon, axis_name)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None) -> Any:
    exact = _exact(x)
    mean, square = parallel.pmean((_mean(exact), _mean(exact * exact)), axis_name)
    # Rounding may leave less than nothing of a difference.
    variance = jnp.maximum(0, square - mean * mean)
    rstd = lax.rsqrt(variance + epsilon)
    return (_affine(exact, mean, rstd * scale, bias), mean, variance), (x, mean, rstd, scale)


def _backward(epsilon: float, axis_name: str | None, saved: Any, grads: Any) -> Any:
    x, mean, rstd, scale = saved
    grad, *_ = grads
    exact = _exact(x)
    of_bias = _sum(grad)
    of_scale = _sum(grad * (exact - _along(mean, x))) * rstd
    count = x.size // x.shape[-1]
    shift, slope = parallel.pmean((of_bias / count, of_scale * rstd / count), axis_name)
    dx = _along(scale * rstd, x) * (
        grad - _along(shift, x) - (exact - _along(mean, x)) * _along(slope, x)
    )
    return dx.astype(x.dtype), of_scale, of_bias


_normalize.defvjp(_forward, _backward)
