"""Losses between examples. They take the whole batch, gathered from all devices, and give a scalar.

With a single example, which has no relations, they are zero.
"""

import jax.numpy as jnp
import optax
from jax import Array

from kdjax.losses.features import l2_normalize


def _flat(x: Array) -> Array:
    """[b, ...] -> float32 [b, d]."""
    return x.astype(jnp.float32).reshape(x.shape[0], -1)


def similarity_preserving(student_feature: Array, teacher_feature: Array) -> Array:
    """Mean squared difference of the batch's similarity matrices.

    The matrix holds the dot products of the flattened features, each row scaled to unit
    length (Tung & Mori 2019, eq. 1 to 4). Zero, its minimum, where they are equal.

    Args:
      student_feature: [b, ...] of the whole batch.
      teacher_feature: [b, ...], any size.

    Returns:
      float32 [].
    """

    def matrix(feature: Array) -> Array:
        flat = _flat(feature)
        return l2_normalize(flat @ flat.T)

    return jnp.mean(jnp.square(matrix(student_feature) - matrix(teacher_feature)))


def correlation_congruence(student_embedding: Array, teacher_embedding: Array) -> Array:
    """Mean over neighbours in the batch of the product of their absolute differences.

    Peng et al. 2019 as in their code, which RepDistiller adopted; the paper compares
    kernel matrices. Zero, its minimum, at equality.

    Args:
      student_embedding: [b, d] of the whole batch, in order.
      teacher_embedding: [b, d].

    Returns:
      float32 [].
    """
    difference = jnp.abs(_flat(student_embedding) - _flat(teacher_embedding))
    return jnp.sum(difference[:-1] * difference[1:]) / max(1, len(difference) - 1)


def pkt(student_embedding: Array, teacher_embedding: Array, *, eps: float = 1e-7) -> Array:
    """KL between the conditional probabilities that similarities in the batch define.

    Similarities are (cosine + 1) / 2, each row scaled to a sum of one, the diagonal
    included (Passalis & Tefas 2018, with the cosine kernel). A mean over the b x b pairs,
    as in the authors' code. Zero, its minimum, where the cosines are equal.

    Args:
      student_embedding: [b, d] of the whole batch.
      teacher_embedding: [b, d'].
      eps: added to lengths and probabilities.

    Returns:
      float32 [].
    """

    def probabilities(embedding: Array) -> Array:
        x = _flat(embedding)
        x = x / (optax.safe_norm(x, 0.0, axis=1, keepdims=True) + eps)
        similarity = (x @ x.T + 1) / 2
        return similarity / jnp.sum(similarity, axis=1, keepdims=True)

    student, teacher = probabilities(student_embedding), probabilities(teacher_embedding)
    return jnp.mean(teacher * (jnp.log(teacher + eps) - jnp.log(student + eps)))


def rkd(
    student_embedding: Array,
    teacher_embedding: Array,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    anchors: Array | None = None,
) -> Array:
    """Relational KD: Huber losses on pairs' distances and triplets' angles (Park et al. 2019).

    Distances are divided by their mean over distinct pairs; an angle is the cosine at one
    example between the directions to two others. Memory grows as a b^2. Zero, its minimum,
    where all relations are equal.

    Args:
      student_embedding: [b, d] of the whole batch.
      teacher_embedding: [b, d'].
      distance_weight: of the pairs; 0 leaves them out.
      angle_weight: of the triplets; 0 leaves them out.
      anchors: int [a], the examples whose distances and angles to all others are compared;
        all by default. Means over equal parts of the batch average to that over the whole.

    Returns:
      float32 [].
    """
    student, teacher = _flat(student_embedding), _flat(teacher_embedding)
    anchors = jnp.arange(len(student)) if anchors is None else anchors

    def distances(x: Array) -> Array:
        squares = jnp.sum(jnp.square(x), axis=1)
        d = squares[:, None] + squares[None] - 2 * x @ x.T
        # The root's gradient at zero is infinite.
        d = jnp.sqrt(jnp.maximum(d, 1e-12)) * (1 - jnp.eye(len(x)))
        return (d * d.size / jnp.maximum(jnp.sum(d), 1e-12) * _off_diagonal(len(x)))[anchors]

    def angles(x: Array) -> Array:
        directions = l2_normalize(x[None] - x[anchors][:, None])
        return jnp.einsum("aid,ajd->aij", directions, directions)

    loss = jnp.zeros(())
    if distance_weight:
        loss += distance_weight * jnp.mean(_huber(distances(student) - distances(teacher)))
    if angle_weight:
        loss += angle_weight * jnp.mean(_huber(angles(student) - angles(teacher)))
    return loss


def _off_diagonal(b: int) -> float:
    """Share of the b x b pairs that are distinct examples."""
    return (b - 1) / b


def _huber(difference: Array) -> Array:
    """PyTorch's smooth L1: half the square up to one, then linear."""
    return optax.losses.huber_loss(difference)
