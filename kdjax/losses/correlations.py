"""Losses on the correlations of probabilities, between classes and between examples.

All of them expect the whole batch, gathered from all devices, and return a scalar.
"""

import jax
import jax.numpy as jnp
from jax import Array

from kdjax.losses.features import PRECISION
from kdjax.losses.logits import deviations


def dist(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float = 4.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Array:
    """DIST: T^2 (beta (1 - mean of rho over examples) + gamma (1 - mean of rho over classes)).

    rho is Pearson's correlation of the student's with the teacher's probabilities: of an example,
    over the classes; of a class, over the examples (Huang et al. 2022, eq. 9 and 10). The factor
    T^2 is the authors' code's (dist_kd.py) and not the paper's. The minimum is zero, where all
    correlations are one, but for the 1e-8 that the code adds to the product of the norms.

    Probabilities of an example, or of a class, that do not vary have no correlation: it counts as
    zero, without a gradient.

    Args:
      student_logits: [b, k], the whole batch.
      teacher_logits: [b, k].
      temperature: T > 0, by which both logits are divided.
      beta: weight of the correlations between classes.
      gamma: weight of the correlations between examples.

    Returns:
      float32 [].
    """
    student = _probabilities(student_logits, temperature)
    teacher = _probabilities(teacher_logits, temperature)

    def distance(axis: int) -> Array:
        (s, s_norm), (t, t_norm) = deviations(student, axis), deviations(teacher, axis)
        products = jnp.sum(s * t, axis=axis, keepdims=True)
        return 1 - jnp.mean(products / (s_norm * t_norm + 1e-8))

    return temperature**2 * (beta * distance(1) + gamma * distance(0))


def class_correlation(
    student_logits: Array, teacher_logits: Array, *, temperature: float = 4.0
) -> Array:
    """Squared distance of the correlations between classes: ||P_t' P_t - P_s' P_s||^2 / k.

    P are the probabilities of the batch at temperature T, and P' P their products, summed over the
    examples and not divided by b (Jin et al. 2023; the authors' code, cc_loss). Without a factor
    T^2. The minimum is zero, where both are equal.

    Args:
      student_logits: [b, k], the whole batch.
      teacher_logits: [b, k].
      temperature: T > 0, by which both logits are divided.

    Returns:
      float32 [].
    """
    student = _probabilities(student_logits, temperature).T
    teacher = _probabilities(teacher_logits, temperature).T
    return _distance_of_products(student, teacher)


def batch_correlation(
    student_logits: Array, teacher_logits: Array, *, temperature: float = 4.0
) -> Array:
    """Squared distance of the correlations between examples: ||P_t P_t' - P_s P_s'||^2 / b.

    As `class_correlation`, with the products of examples, summed over the classes (Jin et al. 2023;
    the authors' code, bc_loss).

    Args:
      student_logits: [b, k], the whole batch.
      teacher_logits: [b, k].
      temperature: T > 0, by which both logits are divided.

    Returns:
      float32 [].
    """
    student = _probabilities(student_logits, temperature)
    teacher = _probabilities(teacher_logits, temperature)
    return _distance_of_products(student, teacher)


def _probabilities(logits: Array, temperature: float) -> Array:
    return jax.nn.softmax(logits.astype(jnp.float32) / temperature)


def _distance_of_products(student: Array, teacher: Array) -> Array:
    """The squared distance of the products of rows, of [n, d], divided by n."""

    def products(x: Array) -> Array:
        return jnp.matmul(x, x.T, precision=PRECISION)

    return jnp.sum(jnp.square(products(teacher) - products(student))) / len(student)
