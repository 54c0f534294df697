"""Losses on class activation maps."""

import jax.numpy as jnp
from jax import Array

from kdjax.losses.features import adaptive_average_pool, l2_normalize


def class_attention_transfer(
    student_maps: Array, teacher_maps: Array, *, size: int = 2, normalize: bool = False
) -> Array:
    """Mean squared difference of class activation maps, per example (Guo et al. 2023).

    The minimum is zero, at equality.

    Args:
      student_maps: [b, h, w, k], one map a class.
      teacher_maps: [b, h', w', k].
      size: side to which the maps are average-pooled.
      normalize: whether each pooled map is divided by its norm over positions.

    Returns:
      float32 [b].
    """

    def pooled(maps: Array) -> Array:
        x = adaptive_average_pool(maps.astype(jnp.float32), (size, size))
        x = x.reshape(len(x), size * size, -1)
        return l2_normalize(x, axis=1) if normalize else x

    difference = pooled(student_maps) - pooled(teacher_maps)
    return jnp.mean(jnp.square(difference), axis=(1, 2))
