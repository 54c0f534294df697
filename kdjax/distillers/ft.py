"""Factor transfer (Kim et al. 2018)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.distillers.adapters import Adapter, Adapters, apply_adapters, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables

STAGES = ("joint", "paraphraser", "translator")


class Paraphraser(Adapter):
    """The teacher's autoencoder, without batch norm, as in RepDistiller.

    Attributes:
      factors: channels of the factor.
    """

    factors: int = 1

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[b, h, w, c] -> the factor [b, h, w, factors] and the reconstruction [b, h, w, c]."""
        channels = x.shape[-1]
        for features in (channels, self.factors, self.factors):
            x = _leaky(self.conv(features, 3, use_bias=True)(x))
        factor = x
        for features in (self.factors, channels, channels):
            x = _leaky(self.conv(features, 3, use_bias=True)(x))
        return factor, x


class Translator(Adapter):
    """From the student's map to the factor.

    Attributes:
      factors: channels of the factor.
    """

    factors: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for features in (x.shape[-1], self.factors, self.factors):
            x = _leaky(self.batch_norm(train=True)()(self.conv(features, 3, use_bias=True)(x)))
        return x


def _leaky(x: Array) -> Array:
    return nn.leaky_relu(x, 0.1)


def ft(*, stage: str = "joint", rate: float = 0.5, taps: tuple[str, ...] = ()) -> Distiller:
    """Mean absolute difference of the teacher's factors and the student's translation of them.

    The paper trains the paraphraser first, on the teacher's maps alone, and then keeps it:
    a phase with `stage="paraphraser"`, and one with `stage="translator"` whose
    `start_methods` names it. `joint` does both at once, the paraphraser by its
    reconstruction only.

    Taps: the last stage. Trains: the student, the translator, the paraphraser. Usual
    weight: 200 beside 1 of cross-entropy, after 30 epochs of the paraphraser
    (RepDistiller).

    Args:
      stage: one of `STAGES`.
      rate: channels of the factor, as a share of the teacher's.
      taps: instead of the last stage, `student:teacher` where the two differ; their
        losses are added.

    Raises:
      UserError: on another stage.
    """
    if stage not in STAGES:
        raise UserError(f"unknown stage {stage!r} of ft: choose from {', '.join(STAGES)}")

    def adapters(context: Context) -> tuple[Adapters, Adapters]:
        paraphrasers, translators = {}, {}
        for name, (student, teacher) in maps("ft", context, taps, last=True).items():
            factors = max(1, int(rate * teacher.shape[-1]))
            paraphraser = Paraphraser.for_input(teacher, context, factors=factors)
            translator = Translator.for_input(student, context, factors=factors)
            paraphrasers[f"paraphraser_{name}"] = (paraphraser, teacher)
            translators[f"translator_{name}"] = (translator, student)
        return paraphrasers, translators

    def init(rng: Array, context: Context) -> Variables:
        paraphrasers, translators = adapters(context)
        keys = jax.random.split(rng)
        paraphraser = init_adapters(keys[0], paraphrasers)["params"]
        if stage == "paraphraser":
            return {"params": paraphraser, "state": {}}
        translator = init_adapters(keys[1], translators)
        if stage == "joint":
            return {"params": paraphraser | translator["params"], "state": translator["state"]}
        # What is kept is no parameter: the optimiser would still decay it.
        return {"params": translator["params"], "state": paraphraser | translator["state"]}

    def loss(variables: Variables, context: Context) -> MethodLoss:
        paraphrasers, translators = adapters(context)
        everything = variables["params"] | variables["state"]
        both = {"params": everything, "state": {}}
        paraphrased, _ = apply_adapters(both, paraphrasers)
        value = jnp.zeros(len(context.index))
        if stage != "translator":
            for name, (_, teacher) in paraphrasers.items():
                value += losses.fitnet(paraphrased[name][1], teacher)
        if stage == "paraphraser":
            return MethodLoss(value, {}, {})
        translated, state = apply_adapters(variables, translators)
        for mine, (factor, _) in zip(translated.values(), paraphrased.values(), strict=True):
            value += losses.factor_transfer(mine, jax.lax.stop_gradient(factor))
        kept = {name: kept for name, kept in variables["state"].items() if name in paraphrasers}
        return MethodLoss(value, kept | state, {})

    return for_each_teacher("ft", loss, init)
