"""Losses of generated images, by what a teacher makes of them."""

import jax
import jax.numpy as jnp
from jax import Array


def batch_norm_distance(
    mean: Array, variance: Array, running_mean: Array, running_variance: Array
) -> Array:
    """How far the inputs of a batch norm are from those it was trained with.

    The sum of two Euclidean distances, |variance - running_variance| + |mean - running_mean|, as
    in DeepInversion (Yin et al. 2020) and zju-vipa/CMI. The gradient of a distance of zero
    is zero. Choi et al. 2020 have the KL between Gaussians in its place.

    Args:
      mean: [c], of the inputs over the batch and all positions.
      variance: [c], likewise; the biased one.
      running_mean: [c], the running average of the batch norm.
      running_variance: [c], likewise.

    Returns:
      float32 [].
    """
    return _norm(variance - running_variance) + _norm(mean - running_mean)


def _norm(x: Array) -> Array:
    squares = jnp.sum(jnp.square(x))
    # The inner where keeps the slope of the branch not chosen finite.
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)


def class_balance(logits: Array) -> Array:
    """The negative entropy of the mean prediction, smallest where all classes are equally likely.

    sum_k p_k log p_k with the mean p of the softmaxes: the "batch categorical entropy loss" of Choi
    et al. 2020, up to its sign the information entropy loss of DAFL (Chen et al. 2019).

    Args:
      logits: [b, k], of the whole batch.

    Returns:
      float32 [], in nats, in [-log k, 0].
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_mean = jax.nn.logsumexp(log_p, axis=0) - jnp.log(logits.shape[0])
    return jnp.sum(jnp.exp(log_mean) * log_mean)
