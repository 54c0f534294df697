"""Losses on relations between examples.

All of them expect the whole batch, gathered from all devices, and return a scalar. For a single
example, which has no relations, they are zero.
"""

import jax.numpy as jnp
import optax
from jax import Array

from kdjax.losses.features import PRECISION, l2_normalize

# Squared distances of examples, relative to their squared norms, below which rounding is most of
# the difference between them: the errors of a Gram matrix are this large in float32.
_ROUNDING = 1e-6


def _flat(x: Array) -> Array:
    """[b, ...] -> float32 [b, d]."""
    return x.astype(jnp.float32).reshape(x.shape[0], -1)


def similarity_preserving(student_feature: Array, teacher_feature: Array) -> Array:
    """Mean squared difference of the batch's similarity matrices.

    A similarity matrix holds the dot products of the flattened features, with each row
    normalised to unit length (Tung & Mori 2019, eq. 1 to 4). The minimum is zero, where the
    matrices are equal.

    Args:
      student_feature: [b, ...], the whole batch.
      teacher_feature: [b, ...], of any size.

    Returns:
      float32 [].
    """

    def matrix(feature: Array) -> Array:
        flat = _flat(feature)
        return l2_normalize(jnp.matmul(flat, flat.T, precision=PRECISION))

    return jnp.mean(jnp.square(matrix(student_feature) - matrix(teacher_feature)))


def correlation_congruence(student_embedding: Array, teacher_embedding: Array) -> Array:
    """Mean product of the absolute embedding differences of neighbouring examples.

    Peng et al. 2019 as in the authors' code, which RepDistiller adopted; the paper compares
    kernel matrices. The minimum is zero, attained among others at equality.

    Args:
      student_embedding: [b, d], the whole batch; the loss depends on the order of examples.
      teacher_embedding: [b, d].

    Returns:
      float32 [].
    """
    difference = jnp.abs(_flat(student_embedding) - _flat(teacher_embedding))
    return jnp.sum(difference[:-1] * difference[1:]) / max(1, len(difference) - 1)


def pkt(student_embedding: Array, teacher_embedding: Array, *, eps: float = 1e-7) -> Array:
    """KL divergence between the conditional probabilities given by similarities in the batch.

    Similarities are (cosine + 1) / 2, normalised so that each row, including the diagonal,
    sums to one (Passalis & Tefas 2018, with the cosine kernel). The result is the mean over
    the b x b pairs, as in the authors' code. The minimum is zero, where the cosines are equal.

    Embeddings no longer than `eps` count as zero and have no gradient.

    Args:
      student_embedding: [b, d], the whole batch.
      teacher_embedding: [b, d'].
      eps: added to norms and probabilities.

    Returns:
      float32 [].
    """

    def probabilities(embedding: Array) -> Array:
        x = _flat(embedding)
        norm: Array = optax.safe_norm(x, 0.0, axis=1, keepdims=True)
        alive = norm > eps
        x = jnp.where(alive, x / (jnp.where(alive, norm, 1.0) + eps), 0.0)
        similarity = (jnp.matmul(x, x.T, precision=PRECISION) + 1) / 2
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
    """Relational KD: Huber losses on pairwise distances and triplet angles (Park et al. 2019).

    Distances are divided by their mean over distinct pairs. An angle is represented by its
    cosine, at an anchor between the directions to two other examples. The angles take O(a b^2)
    memory for a anchors. The minimum is zero, where all relations are equal.

    Examples that differ by less than a thousandth of their norms count as equal: their distance
    is zero, there is no direction from one to the other, and neither has a gradient. Their
    difference consists of rounding errors, and the gradient of its direction would be huge.

    Args:
      student_embedding: [b, d], the whole batch.
      teacher_embedding: [b, d'].
      distance_weight: weight of the distances; 0 omits them.
      angle_weight: weight of the angles; 0 omits them.
      anchors: int [a], indices of the examples whose distances and angles are compared; all by
        default. The average of the losses over equal parts of the batch is the loss over all.

    Returns:
      float32 [].
    """
    student, teacher = _flat(student_embedding), _flat(teacher_embedding)
    anchors = jnp.arange(len(student)) if anchors is None else anchors

    def distances(x: Array) -> Array:
        squares = jnp.sum(jnp.square(x), axis=1)
        d = squares[:, None] + squares[None] - jnp.matmul(2 * x, x.T, precision=PRECISION)
        apart = _apart(d, squares, squares) & ~jnp.eye(len(x), dtype=bool)
        # The gradient of the square root is infinite at zero.
        d = jnp.where(apart, jnp.sqrt(jnp.where(apart, d, 1.0)), 0.0)
        return (d * d.size / jnp.maximum(jnp.sum(d), 1e-12) * _off_diagonal(len(x)))[anchors]

    def angles(x: Array) -> Array:
        squares = jnp.sum(jnp.square(x), axis=1)
        differences = x[None] - x[anchors][:, None]
        apart = _apart(jnp.sum(jnp.square(differences), axis=2), squares[anchors], squares)
        directions = l2_normalize(jnp.where(apart[..., None], differences, 0.0))
        return jnp.einsum("aid,ajd->aij", directions, directions, precision=PRECISION)

    loss = jnp.zeros(())
    if distance_weight:
        loss += distance_weight * jnp.mean(_huber(distances(student) - distances(teacher)))
    if angle_weight:
        loss += angle_weight * jnp.mean(_huber(angles(student) - angles(teacher)))
    return loss


def _apart(distances: Array, squares: Array, others: Array) -> Array:
    """Which examples differ by more than rounding, [a, b].

    Args:
      distances: squared distances, [a, b].
      squares: squared norms of the one side, [a].
      others: squared norms of the other side, [b].
    """
    return distances > _ROUNDING * (squares[:, None] + others[None])


def _off_diagonal(b: int) -> float:
    """Fraction of the b x b pairs that consist of distinct examples."""
    return (b - 1) / b


def _huber(difference: Array) -> Array:
    """PyTorch's smooth L1: x^2 / 2 for |x| <= 1, |x| - 1/2 otherwise."""
    loss: Array = optax.losses.huber_loss(difference)
    return loss
