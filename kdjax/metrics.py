"""Metrics of predictions: float32 scalars, exact means over all given examples.

Arguments are logits [n, k] (float) and labels [n] (int), or two sets of logits. Evaluate
metrics on a whole split instead of averaging them over batches.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import ensemble
from kdjax.types import Array, Context, Metrics


def top_k(logits: Array, labels: Array, k: int) -> Array:
    """Top-k accuracy: fraction of examples whose label is among the k largest logits, in [0, 1].

    With fewer than k classes it is 1. Ties are resolved in favour of the lower class index.
    """
    _, best = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    return jnp.mean(jnp.any(best == labels[:, None], axis=-1), dtype=jnp.float32)


def accuracy(logits: Array, labels: Array) -> Array:
    """Top-1 accuracy: fraction of examples whose largest logit is that of the label, in [0, 1]."""
    return jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)


def nll(logits: Array, labels: Array) -> Array:
    """Mean negative log-likelihood of the labels, in nats."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=-1))


def ece(logits: Array, labels: Array, bins: int = 15) -> Array:
    """Expected calibration error (Guo et al. 2017, eq. 3), in [0, 1].

    The confidence of a prediction is its largest probability. Examples are binned by it into
    `bins` intervals (a, b] of equal width. The result is the absolute difference between mean
    confidence and accuracy within each bin, averaged with the bins' fractions of the examples.
    """
    p = jax.nn.softmax(logits.astype(jnp.float32))
    confidence = jnp.max(p, axis=-1)
    correct = (jnp.argmax(p, axis=-1) == labels).astype(jnp.float32)
    bin_index = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    gap = jax.ops.segment_sum(confidence - correct, bin_index, num_segments=bins)
    return jnp.sum(jnp.abs(gap)) / logits.shape[0]


def agreement(logits: Array, other_logits: Array) -> Array:
    """Average top-1 agreement (Stanton et al. 2021, section 3.1): a fraction in [0, 1]."""
    agrees = jnp.argmax(logits, -1) == jnp.argmax(other_logits, -1)
    return jnp.mean(agrees, dtype=jnp.float32)


def agreement_top_k(student_logits: Array, teacher_logits: Array, k: int) -> Array:
    """Fraction of examples whose teacher's top class is among the student's k largest logits.

    The distance `agree` of Beyer et al. 2022's code (big_vision, evaluators/proj/distill/
    distance.py), which is reported and not trained with, as it is piecewise constant. In [0, 1];
    with k = 1 it is `agreement`, with fewer than k classes it is 1.
    """
    return top_k(student_logits, jnp.argmax(teacher_logits, -1), k)


def predictive_kl(student_logits: Array, teacher_logits: Array) -> Array:
    """Average predictive KL(teacher || student) (Stanton et al. 2021, section 3.1), in nats."""
    log_s = jax.nn.log_softmax(student_logits.astype(jnp.float32))
    log_t = jax.nn.log_softmax(teacher_logits.astype(jnp.float32))
    return jnp.mean(jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1))


def of_batch(context: Context, compare: bool) -> Metrics:
    """Metrics of the student on a batch as it is trained on: augmented, in training mode.

    Args:
      context: of the step.
      compare: whether to compare the student with the ensemble of its teachers, too.

    Returns:
      `accuracy` on the images that have labels, if any have; and `agreement` and `kl` on all of
      them, the running averages of Stanton et al. 2021 (section 6.1), unless a teacher has other
      classes.
    """
    logits = context.student.logits
    start, stop = context.labelled or (0, len(context.index))
    found = {}
    if start < stop:
        right = jnp.argmax(logits, -1) == jnp.argmax(context.labels, -1)
        found["accuracy"] = jnp.mean(right[start:stop], dtype=jnp.float32)
    if compare and all(one.logits.shape == logits.shape for one in context.teachers):
        joint = ensemble(jnp.stack([one.logits for one in context.teachers]))
        found |= {"agreement": agreement(logits, joint), "kl": predictive_kl(logits, joint)}
    return found
