"""Knowledge review (Chen et al. 2021, "Distilling knowledge via knowledge review")."""

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
RESIDUALS = ("middle", "output")
PREACTIVATIONS = ("none", "teacher", "both")


class Fusion(Adapter):
    """One attention-based fusion (ABF, figure 3a): a student's map and what was fused so far.

    Attributes:
      target: (h, w, c) of the teacher's map.
      middle: channels in which the fusion takes place.
      attention: whether two maps weigh what is added, place by place.
      residual: one of `RESIDUALS`.
    """

    target: tuple[int, int, int] = (1, 1, 1)
    middle: int = 1
    attention: bool = True
    residual: str = "middle"

    # kaiming_uniform_(a=1)
    kernel_init = staticmethod(jax.nn.initializers.variance_scaling(1.0, "fan_in", "uniform"))

    @nn.compact
    def __call__(self, x: Array, deeper: Array | None = None) -> tuple[Array, Array]:
        """[b, ., ., .] and the next deeper level's residual -> [b, h, w, c], the residual."""
        norm = self.batch_norm(train=True)
        h, w, c = self.target
        direct = self.residual == "output"
        middle, kernel = (c, 3) if direct else (self.middle, 1)
        x = self.conv_norm(x, norm, ("conv1", "bn1"), middle, kernel)
        if deeper is not None:
            if direct:
                deeper = self.conv_norm(deeper, norm, ("conv_deeper", "bn_deeper"), middle, kernel)
            deeper = losses.nearest_resize(deeper, (x.shape[1], x.shape[2]))
            if self.attention:
                attention = nn.sigmoid(
                    self.conv(
                        2,
                        1,
                        use_bias=True,
                        kernel_init=uniform_fan_in_kernel,
                        bias_init=uniform_fan_in(2 * middle),
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
    """All fusions of a student's levels.

    Attributes:
      targets: (h, w, c) of the teacher's levels.
      fusion: one of `FUSIONS`.
      residual: one of `RESIDUALS`.
      middle: the most channels in which a fusion takes place.
    """

    targets: tuple[tuple[int, int, int], ...] = ()
    fusion: str = "attention"
    residual: str = "middle"
    middle: int = 512

    @nn.compact
    def __call__(self, features: tuple[Array, ...]) -> list[list[Array]]:
        """A student's levels, shallow to deep -> for each of the teacher's what is compared."""
        levels = [_as_map(feature) for feature in features]
        outputs: list[list[Array]] = [[] for _ in levels]

        def fuse(teacher: int, student: int, name: str, deeper: Array | None = None) -> Array:
            module = Fusion(
                target=self.targets[teacher],
                middle=min(self.middle, levels[-1].shape[-1]),
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
    residual: str = "middle",
    levels: tuple[int | str, ...] = ("h", 4, 2, 1),
    weights: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125),
    middle: int = 512,
    preactivation: str = "teacher",
    taps: tuple[str, ...] = (),
) -> Distiller:
    """Hierarchical context loss between the teacher's maps and the student's fused ones.

    A level of the teacher guides the student's level of the same depth and all deeper
    ones. Four ways, each a step further (table 7 of the paper):

    - `none`: each level guides its own alone, which goes through two convolutions.
    - `pairs`: each guides the deeper ones, too, every pair of levels for itself (figure 1,
      with as many pairs of convolutions).
    - `sum`: the student's levels are added up from the deepest on, and each sum is
      compared with one level: the residual learning framework.
    - `attention`: so that two attention maps weigh the summands.

    The sum is in min(`middle`, the deepest level's) channels, what is compared is a
    convolution of it. The paper draws both as one; so does `residual="output"`, where 3x3
    convolutions bring both summands to the teacher's channels and the sum is compared.

    Levels are the stages and the embedding as a map of one pixel, as in the authors' code.
    Taps: every stage, the student's after and the teacher's before its activation, and
    `pre_logits`. Trains: the student and the convolutions with batch norm. Usual weight:
    by the pair of networks, from 0.6 to 8 beside 1 of cross-entropy, rising over 20
    epochs.

    Args:
      fusion: one of `FUSIONS`.
      residual: one of `RESIDUALS`: what goes on to the next shallower level.
      levels: of the loss, as for `losses.hcl`; ("h",) is the plain L2 loss.
      weights: of the levels.
      middle: the most channels of a fusion; the authors' code has 256 for MobileNet on
        ImageNet.
      preactivation: one of `PREACTIVATIONS`: whose stages are taken before the
        activation; on ImageNet the authors take `both`.
      taps: instead of the stages and the embedding, shallow to deep, `student:teacher`
        where the two differ.

    Raises:
      UserError: on another fusion, residual or preactivation, or levels and weights that
        `losses.hcl` does not take.
    """
    for name, given, known in (
        ("fusion", fusion, FUSIONS),
        ("residual", residual, RESIDUALS),
        ("preactivation", preactivation, PREACTIVATIONS),
    ):
        if given not in known:
            raise UserError(f"unknown {name} {given!r} of review: choose from {', '.join(known)}")
    if middle < 1:
        raise UserError(f"middle of review is {middle}: it must be positive")
    try:
        losses.hcl(jnp.zeros((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1)), levels=levels, weights=weights)
    except ValueError as error:
        raise UserError(f"method 'review': {error}") from None

    def pairs(context: Context) -> dict[str, tuple[Array, Array]]:
        if taps:
            return paired("review", context, taps)
        suffix = "_pre" if preactivation == "both" else ""
        teacher_suffix = "" if preactivation == "none" else "_pre"
        stages = paired("review", context, suffix=suffix, teacher_suffix=teacher_suffix)
        return stages | paired("review", context, ("pre_logits",))

    def adapters(context: Context) -> Adapters:
        students, teachers = zip(*pairs(context).values(), strict=True)
        targets = tuple(t.shape[1:] if len(t.shape) == 4 else (1, 1, t.shape[1]) for t in teachers)
        module = Review.for_input(
            students, context, targets=targets, fusion=fusion, residual=residual, middle=middle
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
                value += losses.hcl(output, teacher, levels=levels, weights=weights)
        return MethodLoss(value, state, {})

    return for_each_teacher("review", loss, init)


def _as_map(feature: Array) -> Array:
    """[b, h, w, c] as it is, [b, c] -> [b, 1, 1, c]."""
    return feature if feature.ndim == 4 else feature[:, None, None]
