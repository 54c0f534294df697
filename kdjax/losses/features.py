"""Losses on feature maps, all NHWC.

Maps of different sizes are average-pooled to the smaller size, unless stated otherwise.
"""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

#: Of the products in the losses. They are small, and GPUs would round their operands to TF32, of
#: which little is left in the differences of similarities that the losses are made of.
PRECISION = jax.lax.Precision.HIGHEST
# Of the levels of `hcl`.
HCL_WEIGHTINGS = ("in_order", "fixed")


def adaptive_average_pool(feature: Array, size: tuple[int, int]) -> Array:
    """Average-pools to a given size, as PyTorch's `adaptive_avg_pool2d`.

    Row i of the output is the mean of the input rows floor(i h / out) to
    ceil((i + 1) h / out) - 1, and columns accordingly. If the input size is a multiple of the
    output size, this is ordinary average pooling.

    Args:
      feature: [b, h, w, c].
      size: height and width of the output.

    Returns:
      `[b, *size, c]`, in the dtype of `feature`.
    """
    _, h, w, _ = feature.shape
    if (h, w) == size:
        return feature
    rows, columns = _pooling(h, size[0]), _pooling(w, size[1])
    pooled = jnp.einsum("bhwc,ih,jw->bijc", feature, rows, columns, precision=PRECISION)
    return pooled.astype(feature.dtype)


def _pooling(size: int, out: int) -> np.ndarray:
    """The pooling matrix, float32 [out, size]: weights of the inputs in each output."""
    i = np.arange(out)[:, None]
    first, last = i * size // out, -(-(i + 1) * size // out)
    inside = (np.arange(size) >= first) & (np.arange(size) < last)
    weights: np.ndarray = inside.astype(np.float32) / inside.sum(1, keepdims=True)
    return weights


def smaller_size(student: Array, teacher: Array) -> tuple[int, int]:
    """The smaller height and the smaller width of two maps [b, h, w, c]."""
    return min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])


def match_size(student: Array, teacher: Array) -> tuple[Array, Array]:
    """Casts two maps [b, h, w, c] to float32 and average-pools them to their `smaller_size`."""
    size = smaller_size(student, teacher)
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    return adaptive_average_pool(student, size), adaptive_average_pool(teacher, size)


def l2_normalize(x: Array, axis: int = -1) -> Array:
    """`x / |x|_2` along an axis; 0, with zero gradient, for vectors of length 1e-12 or less."""
    squares = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    # The maximum keeps the slope of the branch not chosen finite, as zero times infinity is nan.
    unit = x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
    return jnp.where(squares > 1e-24, unit, 0.0)


def _mean(x: Array) -> Array:
    """Mean over all axes but the first: [b, ...] to [b]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def _attention(feature: Array) -> Array:
    """The attention map: mean square over channels, [b, h, w, c] to unit vectors [b, h * w]."""
    attention = jnp.mean(jnp.square(feature), axis=-1)
    return l2_normalize(attention.reshape(feature.shape[0], -1))


def fitnet(student_feature: Array, teacher_feature: Array) -> Array:
    """Mean squared difference of two maps of equal shape, per example.

    Romero et al. 2015, eq. 3, without the factor 1/2 and as a mean over the map, as in
    RepDistiller. The minimum is zero, at equality.

    Args:
      student_feature: [b, h, w, c], after the regressor.
      teacher_feature: [b, h, w, c].

    Returns:
      float32 [b].
    """
    difference = student_feature.astype(jnp.float32) - teacher_feature.astype(jnp.float32)
    return _mean(jnp.square(difference))


def attention_transfer(student_feature: Array, teacher_feature: Array) -> Array:
    """Mean squared difference of attention maps, per example.

    An attention map is the mean over channels of the squared activations, normalised to unit
    length (Zagoruyko & Komodakis 2017, eq. 2 with p = 2). The mean over positions follows the
    authors' code; the paper's equation has a norm. The minimum is zero, where the attention
    maps are equal.

    Args:
      student_feature: [b, h, w, c].
      teacher_feature: [b, h', w', c'].

    Returns:
      float32 [b].
    """
    student, teacher = match_size(student_feature, teacher_feature)
    return _mean(jnp.square(_attention(student) - _attention(teacher)))


def nst(student_feature: Array, teacher_feature: Array) -> Array:
    """Squared maximum mean discrepancy between the channels of two maps, per example.

    Channels are normalised to unit length over the map and compared with the polynomial kernel
    (x . y)^2 (Huang & Wang 2017). The minimum is zero, attained among others where both maps
    have the same channels in any order.

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
        return _mean(jnp.square(jnp.einsum("bxi,bxj->bij", a, b, precision=PRECISION)))

    student, teacher = map(channels, match_size(student_feature, teacher_feature))
    return kernel(teacher, teacher) + kernel(student, student) - 2 * kernel(student, teacher)


def factor_transfer(student_factor: Array, teacher_factor: Array) -> Array:
    """Mean absolute difference of the factors' attention maps, per example.

    Kim et al. 2018 with p = 1, on attention maps of the factors as in RepDistiller; the paper
    normalises the factors themselves. The minimum is zero, where the attention maps are equal.

    Args:
      student_factor: [b, h, w, k], output of the translator.
      teacher_factor: [b, h', w', k], the paraphraser's factor.

    Returns:
      float32 [b].
    """
    student, teacher = match_size(student_factor, teacher_factor)
    return _mean(jnp.abs(_attention(student) - _attention(teacher)))


def fsp(
    student_bottom: Array, student_top: Array, teacher_bottom: Array, teacher_top: Array
) -> Array:
    """Mean squared difference of two networks' FSP matrices, per example.

    An FSP matrix is the mean over positions of the outer products of two layers' channels (Yim
    et al. 2017, eq. 1). The minimum is zero, where the matrices are equal.

    Args:
      student_bottom: the student's lower layer [b, h, w, m].
      student_top: the student's upper layer [b, h', w', n].
      teacher_bottom: the teacher's lower layer, with m channels and any size.
      teacher_top: the teacher's upper layer, with n channels and any size.

    Returns:
      float32 [b].
    """

    def matrix(bottom: Array, top: Array) -> Array:
        bottom, top = match_size(bottom, top)
        products = jnp.einsum("bhwm,bhwn->bmn", bottom, top, precision=PRECISION)
        return products / (top.shape[1] * top.shape[2])

    difference = matrix(student_bottom, student_top) - matrix(teacher_bottom, teacher_top)
    return _mean(jnp.square(difference))


def vid(
    predicted_mean: Array, teacher_feature: Array, log_scale: Array, *, eps: float = 1e-5
) -> Array:
    """Negative Gaussian log-likelihood of the teacher's map, per example.

    Without the constant log(2 pi) / 2 (Ahn et al. 2019). For a given variance, the minimum is
    the mean of log(variance) / 2, where the maps are equal.

    Args:
      predicted_mean: [b, h, w, c], output of the regressor.
      teacher_feature: [b, h, w, c].
      log_scale: [c]; the variance of a channel is softplus(log_scale) + eps.
      eps: the minimum variance.

    Returns:
      float32 [b], in nats, the mean over positions and channels.
    """
    variance = (jax.nn.softplus(log_scale.astype(jnp.float32)) + eps)[None, None, None]
    difference = predicted_mean.astype(jnp.float32) - teacher_feature.astype(jnp.float32)
    return _mean(0.5 * (jnp.square(difference) / variance + jnp.log(variance)))


def activation_boundary(
    student_preactivation: Array, teacher_preactivation: Array, *, margin: float = 1.0
) -> Array:
    """Squared hinge loss on the sides of the activation boundaries, per example.

    Where the student's pre-activation is not beyond the margin on the teacher's side of zero,
    the squared distance to the margin is added (Heo et al. 2019a). The minimum is zero, where
    it is beyond the margin everywhere; equality of the maps is not a minimum in general.

    Args:
      student_preactivation: [b, h, w, c], after the connector.
      teacher_preactivation: [b, h, w, c]; only the signs matter.
      margin: distance from zero, positive.

    Returns:
      float32 [b].
    """
    student = student_preactivation.astype(jnp.float32)
    on = teacher_preactivation > 0
    too_high = jnp.where(~on & (student > -margin), jnp.square(student + margin), 0.0)
    too_low = jnp.where(on & (student <= margin), jnp.square(student - margin), 0.0)
    return jnp.sum(too_high + too_low, axis=(1, 2, 3))


def ofd_margin(bn_scale: Array, bn_bias: Array) -> Array:
    """The margin of each channel: E[x | x < 0] for x ~ N(bias, scale^2) (Heo et al. 2019b).

    If x is negative with probability 0.001 or less, the margin is `-3 |scale|`, as in the
    authors' code.

    Args:
      bn_scale: [c], gamma of the batch norm whose output is x.
      bn_bias: [c], beta of the same batch norm.

    Returns:
      float32 [c], negative.
    """
    scale, bias = jnp.abs(bn_scale.astype(jnp.float32)), bn_bias.astype(jnp.float32)
    ratio = -bias / jnp.maximum(scale, 1e-12)
    probability = jax.scipy.stats.norm.cdf(ratio)
    mean = bias - scale * jax.scipy.stats.norm.pdf(ratio) / jnp.maximum(probability, 1e-12)
    return jnp.where(probability > 0.001, mean, -3 * scale)


def ofd(student_preactivation: Array, teacher_preactivation: Array, margin: Array) -> Array:
    """Partial L2 distance to the teacher's margin ReLU, summed over the map, per example.

    The target is max(teacher, margin). Where the target is not positive, a student below it is
    not penalised (Heo et al. 2019b). The minimum is zero, attained among others at equality
    with the target.

    Args:
      student_preactivation: [b, h, w, c], after the connector.
      teacher_preactivation: [b, h, w, c].
      margin: [c], negative, as from `ofd_margin`.

    Returns:
      float32 [b].
    """
    student = student_preactivation.astype(jnp.float32)
    target = jnp.maximum(teacher_preactivation.astype(jnp.float32), margin[None, None, None])
    counts = (student > target) | (target > 0)
    return jnp.sum(jnp.where(counts, jnp.square(student - target), 0.0), axis=(1, 2, 3))


def adaptive_max_pool(feature: Array, size: tuple[int, int]) -> Array:
    """Max-pools [b, h, w, c] to `[b, *size, c]`, over the windows of `adaptive_average_pool`."""
    for axis, out in ((1, size[0]), (2, size[1])):
        n = feature.shape[axis]
        windows = [(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]
        parts = [jax.lax.slice_in_dim(feature, a, b, axis=axis).max(axis) for a, b in windows]
        feature = jnp.stack(parts, axis=axis)
    return feature


def _resize(feature: Array, size: tuple[int, int]) -> Array:
    """Resizes [b, h, w, c] to [b, *size, c], bilinear."""
    return jax.image.resize(feature, (len(feature), *size, feature.shape[-1]), "linear")


def _cosine_distance(student: Array, teacher: Array) -> Array:
    a, b = (l2_normalize(x.reshape(len(x), -1).astype(jnp.float32)) for x in (student, teacher))
    return 1 - jnp.sum(a * b, axis=-1)


def _kl_of_maps(student: Array, teacher: Array) -> Array:
    log_s, log_t = (
        jax.nn.log_softmax(x.reshape(len(x), -1).astype(jnp.float32)) for x in (student, teacher)
    )
    return jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)


#: How `sfd` reduces the larger of two maps to the smaller, by name.
SFD_POOLS = {"max": adaptive_max_pool, "average": adaptive_average_pool, "resize": _resize}
#: Distances between two maps of equal size that `sfd` takes, by name.
SFD_DISTANCES = {"mse": fitnet, "cosine": _cosine_distance, "kl": _kl_of_maps}


def sfd(
    student_feature: Array, teacher_feature: Array, *, distance: str = "mse", pool: str = "max"
) -> Array:
    """Distance between two maps, the larger pooled to the smaller, per example.

    Simple feature distillation, section 4.0.1 of the CIFAR-10 survey; the other distances and
    pools are those of its section 5.6. The minimum is zero, where the pooled maps are equal.

    Args:
      student_feature: [b, h, w, c].
      teacher_feature: [b, h', w', c].
      distance: one of `SFD_DISTANCES`: the mean squared difference, one less the cosine of the
        flattened maps, or the KL divergence of their softmaxes in nats.
      pool: one of `SFD_POOLS`.

    Returns:
      float32 [b].
    """
    size = smaller_size(student_feature, teacher_feature)
    smaller = SFD_POOLS[pool]
    return SFD_DISTANCES[distance](smaller(student_feature, size), smaller(teacher_feature, size))


def level_size(level: int | str, size: int) -> int:
    """The height or width of a map pooled to a level of `hcl`.

    Args:
      level: a positive integer, or relative to the size h of the map: `"h"`, `"h/n"` (rounded
        down) or `"h-n"`.
      size: h, the height or width of the map.

    Raises:
      ValueError: if the level has none of these forms.
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
    weighting: str = "in_order",
) -> Array:
    """Hierarchical context loss: mean squared difference at several levels of pooling, per example.

    Chen et al. 2021, section 3.4, with the levels and weights of the authors' code. The maps
    are average-pooled to each level, and the losses of the levels are averaged with the
    weights. Levels that are larger than the map, or empty, are skipped. What becomes of their
    weights depends on `weighting`:

    - `in_order`, as in the authors' code: a level of the same size as an earlier one is skipped
      too, the remaining levels take the weights in order, and the loss is divided by the sum of
      the weights taken. If no level remains, the map itself is used.
    - `fixed`, as in the code of the reproduction (Verma et al. 2022): every level has its own
      weight, levels of the same size count several times, and the loss is divided by the sum
      of all weights, including those of the skipped levels. With the default levels and
      weights, a map of one pixel counts 1.125 / 1.875 = 0.6.

    The minimum is zero, at equality.

    Args:
      student_feature: [b, h, w, c], after the fusion.
      teacher_feature: [b, h, w, c].
      levels: sizes of the pooled maps, as for `level_size`; ("h",) is the plain L2 loss.
      weights: one positive weight per level.
      weighting: one of `HCL_WEIGHTINGS`.

    Returns:
      float32 [b].

    Raises:
      ValueError: if a level has none of the forms of `level_size`, if there is not one
        positive weight per level, or if the weighting is unknown.
    """
    if len(levels) != len(weights) or not levels or min(weights) <= 0:
        raise ValueError(
            "hcl needs one positive weight per level: "
            f"got levels {tuple(levels)} and weights {tuple(weights)}"
        )
    if weighting not in HCL_WEIGHTINGS:
        raise ValueError(
            f"unknown weighting {weighting!r} of hcl: choose from {', '.join(HCL_WEIGHTINGS)}"
        )
    _, h, w, _ = student_feature.shape
    sizes = [(level_size(level, h), level_size(level, w)) for level in levels]
    used = [
        (weight, size)
        for weight, size in zip(weights, sizes, strict=True)
        if 0 < size[0] <= h and 0 < size[1] <= w
    ]
    total = sum(weights)
    if weighting == "in_order":
        distinct = list(dict.fromkeys(size for _, size in used)) or [(h, w)]
        used = list(zip(weights, distinct, strict=False))
        total = sum(weight for weight, _ in used)
    difference = student_feature.astype(jnp.float32) - teacher_feature.astype(jnp.float32)
    value = jnp.zeros(len(difference))
    for weight, size in used:
        value += weight * _mean(jnp.square(adaptive_average_pool(difference, size)))
    return value / total


def nearest_resize(feature: Array, size: tuple[int, int]) -> Array:
    """Resizes [b, h, w, c] to `[b, *size, c]`, as PyTorch's `interpolate(mode="nearest")`.

    Row i of the output is row floor(i h / out) of the input, and columns accordingly.
    """
    for axis, out in ((1, size[0]), (2, size[1])):
        n = feature.shape[axis]
        if out % n == 0:
            feature = jnp.repeat(feature, out // n, axis=axis)
        else:
            feature = jnp.take(feature, np.arange(out) * n // out, axis=axis)
    return feature
