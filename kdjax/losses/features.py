"""Losses on feature maps, all NHWC. Those of different size are averaged to the smaller."""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def adaptive_average_pool(feature: Array, size: tuple[int, int]) -> Array:
    """[b, h, w, c] -> [b, *size, c], as PyTorch's `adaptive_avg_pool2d`.

    Output row i is the mean of the input rows floor(i h / out) ... ceil((i + 1) h / out) - 1,
    columns likewise; where the sizes divide, that is average pooling.
    """
    _, h, w, _ = feature.shape
    if (h, w) == size:
        return feature
    rows, columns = _pooling(h, size[0]), _pooling(w, size[1])
    return jnp.einsum("bhwc,ih,jw->bijc", feature, rows, columns).astype(feature.dtype)


def _pooling(size: int, out: int) -> np.ndarray:
    """float32 [out, size]: the weight of each input place in each output place."""
    i = np.arange(out)[:, None]
    first, last = i * size // out, -(-(i + 1) * size // out)
    inside = (np.arange(size) >= first) & (np.arange(size) < last)
    return inside.astype(np.float32) / inside.sum(1, keepdims=True)


def smaller_size(student: Array, teacher: Array) -> tuple[int, int]:
    """The smaller height and the smaller width of two maps."""
    return min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])


def match_size(student: Array, teacher: Array) -> tuple[Array, Array]:
    """Both maps in float32, averaged to their `smaller_size`."""
    size = smaller_size(student, teacher)
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    return adaptive_average_pool(student, size), adaptive_average_pool(teacher, size)


def l2_normalize(x: Array, axis: int = -1) -> Array:
    """x / |x|_2 along an axis; zeros, and their gradient, stay zero."""
    squares = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def _mean(x: Array) -> Array:
    """[b, ...] -> [b]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def _attention(feature: Array) -> Array:
    """[b, h, w, c] -> [b, h * w], of unit length: the mean over channels of the squares."""
    attention = jnp.mean(jnp.square(feature), axis=-1)
    return l2_normalize(attention.reshape(feature.shape[0], -1))


def fitnet(student_feature: Array, teacher_feature: Array) -> Array:
    """Mean squared difference of two maps of equal shape, one value an example.

    Romero et al. 2015, eq. 3, without the factor 1/2 and as a mean over the map, as in
    RepDistiller. Zero, its minimum, at equality.

    Args:
      student_feature: [b, h, w, c], after the regressor.
      teacher_feature: [b, h, w, c].

    Returns:
      float32 [b].
    """
    difference = student_feature.astype(jnp.float32) - teacher_feature.astype(jnp.float32)
    return _mean(jnp.square(difference))


def attention_transfer(student_feature: Array, teacher_feature: Array) -> Array:
    """Mean squared difference of the attention maps of one stage, one value an example.

    The map is the mean over channels of the squared activations, scaled to unit length
    (Zagoruyko & Komodakis 2017, eq. 2 with p = 2). The mean over places is the authors'
    code; the paper's equation is a norm. Zero, its minimum, where the maps are equal.

    Args:
      student_feature: [b, h, w, c].
      teacher_feature: [b, h', w', c'].

    Returns:
      float32 [b].
    """
    student, teacher = match_size(student_feature, teacher_feature)
    return _mean(jnp.square(_attention(student) - _attention(teacher)))


def nst(student_feature: Array, teacher_feature: Array) -> Array:
    """Squared maximum mean discrepancy of the channels' selectivity, one value an example.

    Channels, scaled to unit length over the map, are compared by the polynomial kernel
    (x . y)^2 (Huang & Wang 2017). Zero, its minimum, where both
    networks have the same channels in any order.

    Args:
      student_feature: [b, h, w, c].
      teacher_feature: [b, h', w', c'].

    Returns:
      float32 [b].
    """

    def channels(feature: Array) -> Array:
        b, h, w, c = feature.shape
        return l2_normalize(feature.reshape(b, h * w, c), axis=1)

    def kernel(a: Array, b: Array) -> Array:
        return _mean(jnp.square(jnp.einsum("bxi,bxj->bij", a, b)))

    student, teacher = map(channels, match_size(student_feature, teacher_feature))
    return kernel(teacher, teacher) + kernel(student, student) - 2 * kernel(student, teacher)


def factor_transfer(student_factor: Array, teacher_factor: Array) -> Array:
    """Mean absolute difference of the factors' normalised maps, one value an example.

    Kim et al. 2018 with p = 1, on the factors' attention maps, as RepDistiller has it; the
    paper normalises the factors themselves. Zero, its minimum, where they are equal.

    Args:
      student_factor: [b, h, w, k], the translator's output.
      teacher_factor: [b, h', w', k], the paraphraser's.

    Returns:
      float32 [b].
    """
    student, teacher = match_size(student_factor, teacher_factor)
    return _mean(jnp.abs(_attention(student) - _attention(teacher)))


def fsp(
    student_bottom: Array, student_top: Array, teacher_bottom: Array, teacher_top: Array
) -> Array:
    """Mean squared difference of two networks' FSP matrices, one value an example.

    A matrix is the mean over places of the products of two layers' channels, the larger
    map averaged to the smaller (Yim et al. 2017, eq. 1).
    Zero, its minimum, where the matrices are equal.

    Args:
      student_bottom: [b, h, w, m].
      student_top: [b, h', w', n].
      teacher_bottom: [b, ., ., m].
      teacher_top: [b, ., ., n].

    Returns:
      float32 [b].
    """

    def matrix(bottom: Array, top: Array) -> Array:
        bottom, top = match_size(bottom, top)
        return jnp.einsum("bhwm,bhwn->bmn", bottom, top) / (top.shape[1] * top.shape[2])

    difference = matrix(student_bottom, student_top) - matrix(teacher_bottom, teacher_top)
    return _mean(jnp.square(difference))


def vid(
    predicted_mean: Array, teacher_feature: Array, log_scale: Array, *, eps: float = 1e-5
) -> Array:
    """Negative Gaussian log-likelihood of the teacher's map, one value an example.

    Without the constant log(2 pi) / 2 (Ahn et al. 2019). For a given
    variance its minimum, the mean of log(variance) / 2, is where the maps are equal.

    Args:
      predicted_mean: [b, h, w, c], the regressor's output.
      teacher_feature: [b, h, w, c].
      log_scale: [c]; the variance of a channel is softplus(log_scale) + eps.
      eps: least variance.

    Returns:
      float32 [b], the mean over places and channels.
    """
    variance = (jax.nn.softplus(log_scale.astype(jnp.float32)) + eps)[None, None, None]
    difference = predicted_mean.astype(jnp.float32) - teacher_feature.astype(jnp.float32)
    return _mean(0.5 * (jnp.square(difference) / variance + jnp.log(variance)))


def activation_boundary(
    student_preactivation: Array, teacher_preactivation: Array, *, margin: float = 1.0
) -> Array:
    """How far the student is from the teacher's side of each activation boundary.

    The squared distance to a margin beyond zero, where the student is on the wrong side
    of it or too near, summed over the map (Heo et al. 2019a); one value an example.
    Zero, its minimum, where the student exceeds the margin on the teacher's side
    everywhere: not at equality.

    Args:
      student_preactivation: [b, h, w, c], after the connector.
      teacher_preactivation: [b, h, w, c], of which only the signs matter.
      margin: > 0.

    Returns:
      float32 [b].
    """
    student = student_preactivation.astype(jnp.float32)
    on = teacher_preactivation > 0
    too_high = jnp.where(~on & (student > -margin), jnp.square(student + margin), 0.0)
    too_low = jnp.where(on & (student <= margin), jnp.square(student - margin), 0.0)
    return jnp.sum(too_high + too_low, axis=(1, 2, 3))


def ofd_margin(bn_scale: Array, bn_bias: Array) -> Array:
    """The margin of a channel: E[x | x < 0] for x ~ N(bias, scale^2) (Heo et al. 2019b).

    Where x is negative with a probability of 0.001 or less, -3 |scale|, as the
    authors have it.

    Args:
      bn_scale: [c], gamma of the batch norm that gives x.
      bn_bias: [c], its beta.

    Returns:
      float32 [c].
    """
    scale, bias = jnp.abs(bn_scale.astype(jnp.float32)), bn_bias.astype(jnp.float32)
    ratio = -bias / jnp.maximum(scale, 1e-12)
    probability = jax.scipy.stats.norm.cdf(ratio)
    mean = bias - scale * jax.scipy.stats.norm.pdf(ratio) / jnp.maximum(probability, 1e-12)
    return jnp.where(probability > 0.001, mean, -3 * scale)


def ofd(student_preactivation: Array, teacher_preactivation: Array, margin: Array) -> Array:
    """Partial L2 distance to the teacher's margin ReLU, summed over the map.

    The target is max(teacher, margin); where it is not positive, a student below it is
    left alone (Heo et al. 2019b); one value an example. Zero, its minimum,
    at equality among others.

    Args:
      student_preactivation: [b, h, w, c], after the connector.
      teacher_preactivation: [b, h, w, c].
      margin: [c], negative: `ofd_margin`.

    Returns:
      float32 [b].
    """
    student = student_preactivation.astype(jnp.float32)
    target = jnp.maximum(teacher_preactivation.astype(jnp.float32), margin[None, None, None])
    counts = (student > target) | (target > 0)
    return jnp.sum(jnp.where(counts, jnp.square(student - target), 0.0), axis=(1, 2, 3))


def adaptive_max_pool(feature: Array, size: tuple[int, int]) -> Array:
    """[b, h, w, c] -> [b, *size, c], the maxima of the windows of `adaptive_average_pool`."""
    for axis, out in ((1, size[0]), (2, size[1])):
        n = feature.shape[axis]
        windows = [(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]
        parts = [jax.lax.slice_in_dim(feature, a, b, axis=axis).max(axis) for a, b in windows]
        feature = jnp.stack(parts, axis=axis)
    return feature


def sfd(student_feature: Array, teacher_feature: Array) -> Array:
    """Mean squared difference of two maps, the larger max-pooled to the smaller.

    Simple feature distillation of the CIFAR-10 survey, section 4.0.1; one value an
    example. Zero, its minimum, where the pooled maps are equal.

    Args:
      student_feature: [b, h, w, c].
      teacher_feature: [b, h', w', c].

    Returns:
      float32 [b].
    """
    size = smaller_size(student_feature, teacher_feature)
    return fitnet(
        adaptive_max_pool(student_feature, size), adaptive_max_pool(teacher_feature, size)
    )


def level_size(level: int | str, size: int) -> int:
    """The side of a level of `hcl` for a map of this side.

    Args:
      level: a number, or of the map's side h `"h"`, `"h/2"` (rounded down) or `"h-1"`.
      size: h.

    Raises:
      ValueError: on another level.
    """
    if isinstance(level, int) and level > 0:
        return level
    found = re.fullmatch(r"h(?:([/-])([1-9]\d*))?", str(level))
    if not found:
        raise ValueError(
            f"level {level!r} is neither a positive number nor like 'h', 'h/2' or 'h-1'"
        )
    operation, number = found[1], int(found[2] or 1)
    return size // number if operation == "/" else size - number if operation else size


def hcl(
    student_feature: Array,
    teacher_feature: Array,
    *,
    levels: Sequence[int | str] = ("h", 4, 2, 1),
    weights: Sequence[float] = (1.0, 0.5, 0.25, 0.125),
) -> Array:
    """Hierarchical context loss: the mean squared difference at several levels of pooling.

    Chen et al. 2021, section 3.4; levels and weights are those of their code. The maps are
    averaged down to each level, and the levels' losses averaged with the weights. A level
    that is larger than the map, has no pixel or the size of one before is left out, and
    the levels that are used take the weights in order, as in their code. Where no level
    is used, the map itself is. Zero, its minimum, at equality.

    Args:
      student_feature: [b, h, w, c], after the fusion.
      teacher_feature: [b, h, w, c].
      levels: sides of the pooled maps, as for `level_size`; ("h",) is the plain L2 loss.
      weights: positive, as many.

    Returns:
      float32 [b].

    Raises:
      ValueError: on a bad level, or weights that are not positive or not as many.
    """
    if len(levels) != len(weights) or not levels or min(weights) <= 0:
        raise ValueError(
            f"hcl needs a positive weight for each level: {tuple(levels)}, {tuple(weights)}"
        )
    _, h, w, _ = student_feature.shape
    sizes: list[tuple[int, int]] = []
    for level in levels:
        size = level_size(level, h), level_size(level, w)
        if 0 < size[0] <= h and 0 < size[1] <= w and size not in sizes:
            sizes.append(size)
    sizes = sizes or [(h, w)]
    used = weights[: len(sizes)]
    difference = student_feature.astype(jnp.float32) - teacher_feature.astype(jnp.float32)
    value = jnp.zeros(len(difference))
    for weight, size in zip(used, sizes, strict=True):
        value += weight * _mean(jnp.square(adaptive_average_pool(difference, size)))
    return value / sum(used)


def nearest_resize(feature: Array, size: tuple[int, int]) -> Array:
    """[b, h, w, c] -> [b, *size, c], as PyTorch's `interpolate` of mode `nearest`.

    Output row i is the input row floor(i h / out), columns likewise.
    """
    for axis, out in ((1, size[0]), (2, size[1])):
        n = feature.shape[axis]
        if out % n == 0:
            feature = jnp.repeat(feature, out // n, axis=axis)
        else:
            feature = jnp.take(feature, np.arange(out) * n // out, axis=axis)
    return feature
