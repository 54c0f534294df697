"""Losses on logits."""

import jax
import jax.numpy as jnp
from jax import Array

# A logit whose class has no probability; infinity would make gradients nan.
_NEVER = -1e30


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


def dkd(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Array:
    """Decoupled KD: T^2 (alpha TCKD + beta NCKD), one value an example (Zhao et al. 2022).

    TCKD is the KL between the probabilities of the label's class and of all others
    together; NCKD that between the distributions over the others alone. With beta the
    teacher's probability of the others it would be KD. Zero, its minimum, where both
    softmaxes are equal.

    Args:
      student_logits: [b, k], k > 1.
      teacher_logits: [b, k].
      labels: int [b].
      alpha: weight of the label's class.
      beta: weight of the others.
      temperature: T > 0, by which both logits are divided.

    Returns:
      float32 [b], in nats times T^2.
    """
    target = jax.nn.one_hot(labels, student_logits.shape[-1], dtype=bool)

    def split(logits: Array) -> tuple[Array, Array]:
        """Log-probabilities of (label, others) [b, 2] and, given the others, of each [b, k]."""
        scaled = logits.astype(jnp.float32) / temperature
        others = jnp.where(target, _NEVER, scaled)
        label = jnp.sum(jnp.where(target, scaled, 0.0), axis=-1)
        binary = jnp.stack([label, jax.nn.logsumexp(others, axis=-1)], axis=-1)
        return jax.nn.log_softmax(binary), jax.nn.log_softmax(others)

    (log_s, log_s_others), (log_t, log_t_others) = split(student_logits), split(teacher_logits)
    tckd = jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)
    nckd = jnp.sum(
        jnp.exp(log_t_others) * jnp.where(target, 0.0, log_t_others - log_s_others), axis=-1
    )
    return temperature**2 * (alpha * tckd + beta * nckd)
