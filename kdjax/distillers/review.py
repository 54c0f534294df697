"""Knowledge review.

Chen et al. 2021, "Distilling knowledge via knowledge review".
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.adapters import Adapter, Adapters, apply_adapters, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import paired
from kdjax.models.layers import uniform_fan_in, uniform_fan_in_kernel
from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables

FUSIONS = ("none", "pairs", "sum", "attention")
RESIDUALS = ("mid", "output")
PREACTIVATIONS = ("none", "teacher", "both")


class Fusion(Adapter):
    """Attention-based fusion (ABF, figure 3a) of a student's map with the deeper levels' residual.

    Attributes:
      target: (h, w, c) of the teacher's map.
      mid_channels: channels in which the maps are fused; unused if `residual` is "output",
        where it is c.
      attention: whether two attention maps weight the summands at each position.
      residual: one of `RESIDUALS`, the map passed on to the next shallower level.
    """

    target: tuple[int, int, int] = (1, 1, 1)
    mid_channels: int = 1
    attention: bool = True
    residual: str = "mid"

    # PyTorch's kaiming_uniform_(a=1).
    kernel_init = staticmethod(jax.nn.initializers.variance_scaling(1.0, "fan_in", "uniform"))

    @nn.compact
    def __call__(self, x: Array, deeper: Array | None = None) -> tuple[Array, Array]:
        """Fuses two maps.

        Args:
          x: the student's map [b, h', w', c'].
          deeper: the residual of the next deeper level, if there is one.

        Returns:
          The map to compare with the teacher's [b, h, w, c], and the residual for the next
          shallower level.
        """
        norm = self.batch_norm(train=True)
        h, w, c = self.target
        direct = self.residual == "output"
        mid_channels, kernel = (c, 3) if direct else (self.mid_channels, 1)
        x = self.conv_norm(x, norm, ("conv1", "bn1"), mid_channels, kernel)
        if deeper is not None:
            if direct:
                names = ("conv_deeper", "bn_deeper")
                deeper = self.conv_norm(deeper, norm, names, mid_channels, kernel)
            deeper = losses.nearest_resize(deeper, (x.shape[1], x.shape[2]))
            if self.attention:
                attention = nn.sigmoid(
                    self.conv(
                        2,
                        1,
                        use_bias=True,
                        kernel_init=uniform_fan_in_kernel,
                        bias_init=uniform_fan_in(2 * mid_channels),
                        name="att_conv",
                    )(jnp.concatenate([x, deeper], axis=-1))
                )
                x = x * attention[..., :1] + deeper * attention[..., 1:]
            else:
                x = x + deeper
        x = losses.nearest_resize(x, (h, w))
        if direct:
            return x, x
        return self.conv_norm(x, norm, ("conv2", "bn2"), c, 3), x


class Review(Adapter):
    """The fusions of all levels of a student.

    Attributes:
      targets: (h, w, c) of the teacher's levels, shallow to deep.
      fusion: one of `FUSIONS`.
      residual: one of `RESIDUALS`.
      mid_channels: maximum number of channels in which maps are fused.
    """

    targets: tuple[tuple[int, int, int], ...] = ()
    fusion: str = "attention"
    residual: str = "mid"
    mid_channels: int = 512

    @nn.compact
    def __call__(self, features: tuple[Array, ...]) -> list[list[Array]]:
        """Computes the maps that each level of the teacher is compared with.

        Args:
          features: the student's levels, shallow to deep, [b, h, w, c] or [b, c].

        Returns:
          For each level of the teacher, the maps to compare with it.
        """
        levels = [_as_map(feature) for feature in features]
        outputs: list[list[Array]] = [[] for _ in levels]

        def fuse(teacher: int, student: int, name: str, deeper: Array | None = None) -> Array:
            module = Fusion(
                target=self.targets[teacher],
                mid_channels=min(self.mid_channels, levels[-1].shape[-1]),
                attention=self.fusion == "attention",
                residual=self.residual,
                dtype=self.dtype,
                axis_name=self.axis_name,
                name=name,
            )
            output, residual = module(levels[student], deeper)
            outputs[teacher].append(output)
            return residual

        residual = None
        for i in reversed(range(len(levels))):
            if self.fusion == "pairs":
                for j in range(i, len(levels)):
                    fuse(i, j, f"fusion{i + 1}_{j + 1}")
            else:
                fused = fuse(i, i, f"fusion{i + 1}", residual)
                residual = None if self.fusion == "none" else fused
        return outputs


def review(
    *,
    fusion: str = "attention",
    residual: str = "mid",
    levels: tuple[int | str, ...] = ("h", 4, 2, 1),
    weights: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125),
    weighting: str = "in_order",
    mid_channels: int = 512,
    preactivation: str = "teacher",
    stem: bool = False,
    taps: tuple[str, ...] = (),
) -> Distiller:
    """Hierarchical context loss between the teacher's maps and the student's fused maps.

    Each level of the teacher guides the student's level of the same depth and all deeper ones.
    There are four variants, of increasing complexity (table 7 of the paper):

    - `none`: each level guides only its own, through two convolutions.
    - `pairs`: each level also guides all deeper ones, each pair of levels separately (figure 1,
      two convolutions per pair).
    - `sum`: the residual learning framework: the student's levels are summed from deep to
      shallow, and each partial sum is compared with one level of the teacher.
    - `attention`: as `sum`, with two attention maps that weight the summands (ABF).

    Sums have min(`mid_channels`, channels of the deepest level) channels, and a convolution of
    the sum is compared with the teacher, as in the authors' code. The paper's figures show both
    as one map: with `residual="output"`, 3x3 convolutions map both summands to the teacher's
    channels and their sum itself is compared.

    The levels are the stages and the embedding, as a map of one pixel, as in the authors' code.

    Taps: all stages, the student's after and the teacher's before the activation, and
    `pre_logits`. Trains: the student, and the convolutions with batch norm. Usual weight:
    between 0.6 and 8 depending on the pair of networks, with 1 for cross-entropy, warmed up
    over 20 epochs.

    Args:
      fusion: one of `FUSIONS`.
      residual: one of `RESIDUALS`: the map passed on to the next shallower level.
      levels: levels of the loss, as for `losses.hcl`; ("h",) is the plain L2 loss.
      weights: weights of the levels, positive.
      weighting: `in_order` or `fixed`: the weights on maps that are smaller than some levels, as
        for `losses.hcl`.
      mid_channels: maximum number of channels of a fusion; the authors' code uses 256 for
        MobileNet on ImageNet.
      preactivation: one of `PREACTIVATIONS`: the networks whose stages are taken before the
        activation; on ImageNet the authors use `both`.
      stem: whether the stems are compared too, as the shallowest level.
      taps: taps to compare instead of the stages and the embedding, shallow to deep,
        `student:teacher` where the names differ.

    Raises:
      UserError: if fusion, residual or preactivation is unknown, if `losses.hcl` does not
        accept the levels and weights, or if both `stem` and `taps` are given.
    """
    for name, given, known in (
        ("fusion", fusion, FUSIONS),
        ("residual", residual, RESIDUALS),
        ("preactivation", preactivation, PREACTIVATIONS),
    ):
        if given not in known:
            raise UserError(f"unknown {name} {given!r} of review: choose from {', '.join(known)}")
    if mid_channels < 1:
        raise UserError(f"mid_channels of review is {mid_channels}: it must be positive")
    if stem and taps:
        raise UserError("review takes stem=True or taps, not both: name the stem in taps")
    compare = functools.partial(losses.hcl, levels=levels, weights=weights, weighting=weighting)
    try:
        compare(jnp.zeros((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1)))
    except ValueError as error:
        raise UserError(f"method 'review': {error}") from None

    def pairs(context: Context) -> dict[str, tuple[Array, Array]]:
        if taps:
            return paired("review", context, taps)
        suffix = "_pre" if preactivation == "both" else ""
        teacher_suffix = "" if preactivation == "none" else "_pre"
        stages = paired("review", context, suffix=suffix, teacher_suffix=teacher_suffix)
        shallowest = paired("review", context, ("stem",)) if stem else {}
        return shallowest | stages | paired("review", context, ("pre_logits",))

    def adapters(context: Context) -> Adapters:
        students, teachers = zip(*pairs(context).values(), strict=True)
        targets = tuple(t.shape[1:] if len(t.shape) == 4 else (1, 1, t.shape[1]) for t in teachers)
        module = Review.for_input(
            students,
            context,
            targets=targets,
            fusion=fusion,
            residual=residual,
            mid_channels=mid_channels,
        )
        return {"review": (module, students)}

    def init(rng: Array, context: Context) -> Variables:
        return init_adapters(rng, adapters(context))

    def loss(variables: Variables, context: Context) -> MethodLoss:
        fused, state = apply_adapters(variables, adapters(context))
        value = jnp.zeros(len(context.index))
        teachers = [_as_map(teacher) for _, teacher in pairs(context).values()]
        for outputs, teacher in zip(fused["review"], teachers, strict=True):
            for output in outputs:
                value += compare(output, teacher)
        return MethodLoss(value, state, {})

    return for_each_teacher("review", loss, init)


def _as_map(feature: Array) -> Array:
    """Maps [b, c] to [b, 1, 1, c], and returns [b, h, w, c] unchanged."""
    return feature if feature.ndim == 4 else feature[:, None, None]
