"""Losses on logits."""

import jax
import jax.numpy as jnp
from jax import Array

# The logit of an excluded class; infinity would give nan gradients.
_EXCLUDED = -1e30


def cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """Cross-entropy with the labels, per example.

    Args:
      logits: [b, k].
      labels: class indices, int [b], or class probabilities [b, k].
      label_smoothing: probability mass distributed uniformly over the classes, in [0, 1).

    Returns:
      float32 [b], in nats.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    if labels.ndim == logits.ndim - 1:
        labels = jax.nn.one_hot(labels, logits.shape[-1])
    labels = (1 - label_smoothing) * labels + label_smoothing / logits.shape[-1]
    return -jnp.sum(labels * log_p, axis=-1)


def kd(student_logits: Array, teacher_logits: Array, *, temperature: float | Array = 4.0) -> Array:
    """Knowledge distillation: T^2 KL(p_teacher || p_student) at temperature T, per example.

    The factor T^2 keeps the magnitude of the gradient independent of T (Hinton et al. 2015,
    section 2). The minimum is zero, where both softmaxes are equal.

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


def ensemble(logits: Array) -> Array:
    """The logarithm of the mean probability of several networks: logits of their ensemble.

    It is the target of Stanton et al. 2021 (z_t = log of the mean softmax), which `kd` then divides
    by T. Its softmax is the mean of the networks' (deep ensembles, Lakshminarayanan et al. 2017).

    Args:
      logits: [m, b, k], of m networks.

    Returns:
      float32 [b, k], in nats.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jax.nn.logsumexp(log_p, axis=0) - jnp.log(logits.shape[0])


def hard_kd(student_logits: Array, teacher_logits: Array) -> Array:
    """Cross-entropy with the teacher's most probable class, per example.

    The distance `hard` of Beyer et al. 2022's code (big_vision, evaluators/proj/distill/
    distance.py, without label smoothing).

    Args:
      student_logits: [b, k].
      teacher_logits: [b, k].

    Returns:
      float32 [b], in nats.
    """
    return cross_entropy(student_logits, jnp.argmax(teacher_logits, axis=-1))


def euclidean(student_logits: Array, teacher_logits: Array, *, epsilon: float = 1e-12) -> Array:
    """Euclidean distance between the logits, sqrt(||s - t||^2 + epsilon), per example.

    The distance `euclidean` of Beyer et al. 2022's code (as for `hard_kd`). Unlike KL it is not
    invariant to adding a constant to all logits of a network.

    Args:
      student_logits: [b, k].
      teacher_logits: [b, k].
      epsilon: positive; keeps the gradient finite where the logits are equal.

    Returns:
      float32 [b].
    """
    difference = student_logits.astype(jnp.float32) - teacher_logits.astype(jnp.float32)
    return jnp.sqrt(jnp.sum(jnp.square(difference), axis=-1) + epsilon)


def dkd(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Array:
    """Decoupled KD: T^2 (alpha TCKD + beta NCKD), per example (Zhao et al. 2022).

    Target class KD (TCKD) is the KL divergence between the binary distributions over the
    target class and all others. Non-target class KD (NCKD) is the KL divergence between the
    distributions over the other classes, given that the target is none of them. With alpha = 1
    and beta the teacher's probability of the other classes, the loss equals KD (eq. 7). The
    minimum is zero, where both softmaxes are equal.

    Args:
      student_logits: [b, k], k > 1.
      teacher_logits: [b, k].
      labels: target classes, int [b].
      alpha: weight of TCKD.
      beta: weight of NCKD.
      temperature: T > 0, by which both logits are divided.

    Returns:
      float32 [b], in nats times T^2.
    """
    target = jax.nn.one_hot(labels, student_logits.shape[-1], dtype=bool)

    def split(logits: Array) -> tuple[Array, Array]:
        """Log-probabilities of (target, others) [b, 2], and of each class given others [b, k]."""
        scaled = logits.astype(jnp.float32) / temperature
        others = jnp.where(target, _EXCLUDED, scaled)
        label = jnp.sum(jnp.where(target, scaled, 0.0), axis=-1)
        binary = jnp.stack([label, jax.nn.logsumexp(others, axis=-1)], axis=-1)
        return jax.nn.log_softmax(binary), jax.nn.log_softmax(others)

    (log_s, log_s_others), (log_t, log_t_others) = split(student_logits), split(teacher_logits)
    tckd = jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)
    nckd = jnp.sum(
        jnp.exp(log_t_others) * jnp.where(target, 0.0, log_t_others - log_s_others), axis=-1
    )
    return temperature**2 * (alpha * tckd + beta * nckd)


def sdd(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    temperature: float = 4.0,
    alpha: float | None = None,
    beta: float | None = None,
) -> Array:
    """Scale decoupled distillation: KD or DKD of each cell, per example (Wei et al. 2024).

    The mean over cells of the cell's loss times w: 2 where the teacher is right about the
    whole image and wrong about the cell, or the reverse (complementary terms), and 1 elsewhere, as
    in the authors' code. The minimum is zero, where all softmaxes are equal.

    Args:
      student_logits: [b, k, cells], of the whole image first.
      teacher_logits: [b, k, cells].
      labels: target classes, int [b].
      temperature: T > 0, by which both logits are divided.
      alpha: weight of TCKD; with `beta`, the loss of a cell is DKD, and without, KD.
      beta: weight of NCKD.

    Returns:
      float32 [b], in nats times T^2.
    """
    student, teacher = (jnp.moveaxis(x, -1, 0) for x in (student_logits, teacher_logits))
    repeated = jnp.broadcast_to(labels, teacher.shape[:2])
    if alpha is None or beta is None:
        each = kd(student, teacher, temperature=temperature)
    else:
        each = dkd(student, teacher, repeated, alpha=alpha, beta=beta, temperature=temperature)
    right = jnp.argmax(teacher, axis=-1) == repeated
    return jnp.mean(each * jnp.where(right == right[:1], 1.0, 2.0), axis=0)
