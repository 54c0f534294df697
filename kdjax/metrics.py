"""Numbers that describe predictions: scalars over all the examples they are given.

They take logits [n, k] (float) and labels [n] (int), or two sets of logits, and
are exact means over the n examples, so evaluate them on a whole split rather
than averaging them over batches.
"""

import jax
import jax.numpy as jnp

from kdjax.types import Array


def top_k(logits: Array, labels: Array, k: int) -> Array:
    """Fraction of examples whose label is among the k largest logits.

    With fewer than k classes this is 1. Ties go to the class with the lower index.
    """
    _, best = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    return jnp.mean(jnp.any(best == labels[:, None], axis=-1), dtype=jnp.float32)


def accuracy(logits: Array, labels: Array) -> Array:
    """Fraction of examples whose largest logit is the label's."""
    return jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)


def nll(logits: Array, labels: Array) -> Array:
    """Mean negative log-likelihood of the labels, in nats."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=-1))


def ece(logits: Array, labels: Array, bins: int = 15) -> Array:
    """Expected calibration error (Guo et al. 2017, eq. 3), in [0, 1].

    The largest probability is the confidence; examples fall into `bins` equal
    intervals (a, b] of it, and the gaps between mean confidence and accuracy are
    averaged with the share of the examples in each interval.
    """
    p = jax.nn.softmax(logits.astype(jnp.float32))
    confidence = jnp.max(p, axis=-1)
    correct = (jnp.argmax(p, axis=-1) == labels).astype(jnp.float32)
    which = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    gap = jax.ops.segment_sum(confidence - correct, which, num_segments=bins)
    return jnp.sum(jnp.abs(gap)) / logits.shape[0]


def agreement(logits: Array, other_logits: Array) -> Array:
    """Average top-1 agreement (Stanton et al. 2021, section 3.1): a share in [0, 1]."""
    same = jnp.argmax(logits, -1) == jnp.argmax(other_logits, -1)
    return jnp.mean(same, dtype=jnp.float32)


def predictive_kl(student_logits: Array, teacher_logits: Array) -> Array:
    """Average predictive KL(teacher || student) (Stanton et al. 2021, section 3.1), in nats."""
    log_s = jax.nn.log_softmax(student_logits.astype(jnp.float32))
    log_t = jax.nn.log_softmax(teacher_logits.astype(jnp.float32))
    return jnp.mean(jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1))
