"""Losses on logits."""

import jax
import jax.numpy as jnp
from jax import Array

# The logit of an excluded class; infinity would give nan gradients.
_EXCLUDED = -1e30
# Norm of deviations, relative to the norm of what deviates, below which rounding is most of it.
_ROUNDING = 1e-6


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


def kd(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float | Array = 4.0,
    standardize: bool = False,
) -> Array:
    """Knowledge distillation: T^2 KL(p_teacher || p_student) at temperature T, per example.

    The factor T^2 keeps the magnitude of the gradient independent of T (Hinton et al. 2015,
    section 2). The minimum is zero, where both softmaxes are equal.

    Args:
      student_logits: [b, k].
      teacher_logits: [b, k].
      temperature: T > 0, by which both logits are divided.
      standardize: whether each example's logits are standardised first, by their mean and standard
        deviation, so that the student's need not have the range of the teacher's (S. Sun et al.
        2024). The variance is a sum divided by k - 1, as in the authors' code. Where all logits of
        an example are equal, they become zero, without a gradient.

    Returns:
      float32 [b], in nats times T^2.
    """
    log_s = jax.nn.log_softmax(_scaled(student_logits, temperature, standardize))
    log_t = jax.nn.log_softmax(_scaled(teacher_logits, temperature, standardize))
    return temperature**2 * jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)


def deviations(x: Array, axis: int = -1) -> tuple[Array, Array]:
    """The deviations of values from their mean, and the norm of these.

    Where the values are equal but for rounding, both are zero, without a gradient: the direction
    of the deviations consists of rounding errors there, and its gradient would be huge.

    Args:
      x: float32 [..., n, ...].
      axis: that of the n values.

    Returns:
      float32 [..., n, ...], and the norm [..., 1, ...].
    """
    centred = x - jnp.mean(x, axis=axis, keepdims=True)
    squares = jnp.sum(jnp.square(centred), axis=axis, keepdims=True)
    sizes = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    differ = squares > _ROUNDING**2 * sizes
    # The gradient of the square root is infinite at zero.
    norm = jnp.where(differ, jnp.sqrt(jnp.where(differ, squares, 1.0)), 0.0)
    return jnp.where(differ, centred, 0.0), norm


def _scaled(logits: Array, temperature: float | Array, standardize: bool = False) -> Array:
    """Logits at a temperature, float32 [b, k]; standardised before if that is wanted."""
    logits = logits.astype(jnp.float32)
    if standardize:
        centred, norm = deviations(logits)
        logits = centred / (norm / (logits.shape[-1] - 1) ** 0.5 + 1e-7)
    return logits / temperature


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
    standardize: bool = False,
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
      standardize: as for `kd`.

    Returns:
      float32 [b], in nats times T^2.
    """
    target = _one_hot(labels, student_logits)
    student = _scaled(student_logits, temperature, standardize)
    teacher = _scaled(teacher_logits, temperature, standardize)
    tckd = _binary_divergence(target, student, target, teacher)
    nckd = _divergence_among(~target, student, teacher)
    return temperature**2 * (alpha * tckd + beta * nckd)


def nkd(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Array:
    """Normalised KD: of the target class, and of the others given that it is none of them.

    The value is -p_t log p_s of the target class, at T = 1, minus gamma T^2 sum t log s over the
    other classes, with t and s the softmaxes over these alone (Yang et al. 2023; cls_KD, nkd.py).
    Both terms are cross-entropies: where student and teacher agree, the second has no gradient,
    and the value is not zero. The first pulls the student to the label as far as the teacher is
    sure of it; it is in addition to the cross-entropy with the labels.

    Args:
      student_logits: [b, k], k > 1.
      teacher_logits: [b, k].
      labels: target classes, int [b].
      gamma: weight of the other classes.
      temperature: T > 0, of the other classes.

    Returns:
      float32 [b], in nats.
    """
    target = _one_hot(labels, student_logits)
    log_s = jax.nn.log_softmax(student_logits.astype(jnp.float32))
    log_t = jax.nn.log_softmax(teacher_logits.astype(jnp.float32))
    of_target = -jnp.sum(jnp.where(target, jnp.exp(log_t) * log_s, 0.0), axis=-1)
    log_s = _log_softmax_among(~target, _scaled(student_logits, temperature))
    log_t = _log_softmax_among(~target, _scaled(teacher_logits, temperature))
    of_others = -jnp.sum(jnp.where(target, 0.0, jnp.exp(log_t) * log_s), axis=-1)
    return of_target + gamma * temperature**2 * of_others


def rld(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    alpha_temperature: float = 4.0,
) -> Array:
    """Refined logit distillation, which corrects the teacher by the labels (W. Sun et al. 2024).

    The value is alpha A^2 KL((q_max, 1 - q_max) || (p_label, 1 - p_label)), with the teacher's
    largest probability q_max and the student's probability of the label at temperature A, plus
    beta T^2 KL over the classes to which the teacher gives less than to the label. What it gives
    more to, wrongly, is not learned. Where no class has less, that term is zero, without a
    gradient.

    Args:
      student_logits: [b, k], k > 1.
      teacher_logits: [b, k].
      labels: target classes, int [b].
      alpha: weight of the first term, "sample confidence".
      beta: weight of the second term, "masked correlation".
      temperature: T > 0, of the second term.
      alpha_temperature: A > 0, of the first term.

    Returns:
      float32 [b], in nats times squared temperature.
    """
    target = _one_hot(labels, student_logits)
    teacher = teacher_logits.astype(jnp.float32)
    largest = _one_hot(jnp.argmax(teacher, axis=-1), teacher)
    confidence = _binary_divergence(
        target, _scaled(student_logits, alpha_temperature),
        largest, _scaled(teacher, alpha_temperature),
    )  # fmt: skip
    below = teacher < jnp.sum(jnp.where(target, teacher, 0.0), axis=-1, keepdims=True)
    correlation = _divergence_among(
        below, _scaled(student_logits, temperature), _scaled(teacher, temperature)
    )
    return alpha * alpha_temperature**2 * confidence + beta * temperature**2 * correlation


def ttm(student_logits: Array, teacher_logits: Array, *, gamma: float = 0.1) -> Array:
    """Transformed teacher matching: KL(q || p_student), q = p_teacher^gamma / n, per example.

    n is the sum of p_teacher^gamma over the classes. This is KD at temperature 1 / gamma of the
    teacher alone, without T^2 (Zheng & Yang 2024). The minimum is zero, where p_student is q.

    Args:
      student_logits: [b, k].
      teacher_logits: [b, k].
      gamma: exponent in (0, 1]; 1 is KD at T = 1.

    Returns:
      float32 [b], in nats.
    """
    log_s = jax.nn.log_softmax(student_logits.astype(jnp.float32))
    log_q = jax.nn.log_softmax(gamma * teacher_logits.astype(jnp.float32))
    return jnp.sum(jnp.exp(log_q) * (log_q - log_s), axis=-1)


def wttm(student_logits: Array, teacher_logits: Array, *, gamma: float = 0.2) -> Array:
    """Weighted transformed teacher matching: `ttm` times n, per example (Zheng & Yang 2024).

    n, the sum of p_teacher^gamma over the classes, is between 1 and k^(1 - gamma): an example
    counts the more, the less sure the teacher is. The weights are not divided by their sum.

    Args:
      student_logits: [b, k].
      teacher_logits: [b, k].
      gamma: exponent in (0, 1].

    Returns:
      float32 [b], in nats.
    """
    log_t = jax.nn.log_softmax(teacher_logits.astype(jnp.float32))
    n = jnp.exp(jax.nn.logsumexp(gamma * log_t, axis=-1))
    return n * ttm(student_logits, teacher_logits, gamma=gamma)


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


def _one_hot(labels: Array, logits: Array) -> Array:
    """Which class is the label, bool [b, k]."""
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)


def _log_binary(of: Array, logits: Array) -> Array:
    """Log-probabilities of the class that `of` [b, k] selects, and of all others, [b, 2]."""
    one = jnp.sum(jnp.where(of, logits, 0.0), axis=-1)
    others = jax.nn.logsumexp(jnp.where(of, _EXCLUDED, logits), axis=-1)
    return jax.nn.log_softmax(jnp.stack([one, others], axis=-1))


def _binary_divergence(
    of_student: Array, student_logits: Array, of_teacher: Array, teacher_logits: Array
) -> Array:
    """KL between the probabilities of a class of each network and of all others, [b]."""
    log_s = _log_binary(of_student, student_logits)
    log_t = _log_binary(of_teacher, teacher_logits)
    return jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)


def _log_softmax_among(classes: Array, logits: Array) -> Array:
    """Log-probabilities given that the class is one of `classes` [b, k]; only theirs mean any."""
    return jax.nn.log_softmax(jnp.where(classes, logits, _EXCLUDED))


def _divergence_among(classes: Array, student_logits: Array, teacher_logits: Array) -> Array:
    """KL given that the class is one of `classes` [b, k], [b]; zero where there is none."""
    log_s = _log_softmax_among(classes, student_logits)
    log_t = _log_softmax_among(classes, teacher_logits)
    return jnp.sum(jnp.where(classes, jnp.exp(log_t) * (log_t - log_s), 0.0), axis=-1)
