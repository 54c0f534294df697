"""Losses on logits."""

import jax
import jax.numpy as jnp
from jax import Array


def cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """Cross-entropy with the labels, in nats, one value an example.

    Args:
      logits: [b, k].
      labels: class indices [b] (int) or class probabilities [b, k].
      label_smoothing: share of the probability spread evenly over the classes, in [0, 1).

    Returns:
      float32 [b].
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    if labels.ndim == logits.ndim - 1:
        labels = jax.nn.one_hot(labels, logits.shape[-1])
    labels = (1 - label_smoothing) * labels + label_smoothing / logits.shape[-1]
    return -jnp.sum(labels * log_p, axis=-1)


def kd(student_logits: Array, teacher_logits: Array, *, temperature: float = 4.0) -> Array:
    """Knowledge distillation: T^2 KL(p_teacher^T || p_student^T), one value an example.

    The factor T^2 keeps the gradient's size when T changes (Hinton et al. 2015,
    section 2.1). Zero, its minimum, where both softmaxes are equal.

    Args:
      student_logits: [b, k].
      teacher_logits: [b, k].
      temperature: T > 0, by which both logits are divided.

    Returns:
      float32 [b], in nats times T^2.
    """
    log_s = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature)
    log_t = jax.nn.log_softmax(teacher_logits.astype(jnp.float32) / temperature)
    return temperature**2 * jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)
