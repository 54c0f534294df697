"""Factor transfer.

Kim et al. 2018, "Paraphrasing complex network: network compression via factor transfer".
"""

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
    """An autoencoder of the teacher's map, without batch norm as in RepDistiller.

    Attributes:
      factors: channels of the factor.
    """

    factors: int = 1

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps [b, h, w, c] to the factor [b, h, w, factors] and the reconstructed map."""
        channels = x.shape[-1]
        for features in (channels, self.factors, self.factors):
            x = _leaky(self.conv(features, 3, use_bias=True)(x))
        factor = x
        for features in (self.factors, channels, channels):
            x = _leaky(self.conv(features, 3, use_bias=True)(x))
        return factor, x


class Translator(Adapter):
    """Translates the student's map to the factor.

    Attributes:
      factors: channels of the factor.
    """

    factors: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h, w, factors]."""
        for features in (x.shape[-1], self.factors, self.factors):
            x = _leaky(self.batch_norm(train=True)()(self.conv(features, 3, use_bias=True)(x)))
        return x


def _leaky(x: Array) -> Array:
    return nn.leaky_relu(x, 0.1)


def ft(*, stage: str = "joint", rate: float = 0.5, taps: tuple[str, ...] = ()) -> Distiller:
    """Mean absolute difference between the teacher's factor and the student's translation.

    The paper trains the paraphraser first, on the teacher's maps alone, and then freezes it:
    in kdjax a phase with `stage="paraphraser"`, and one with `stage="translator"` whose method
    variables are initialised from the first. `joint` does both at once, where the paraphraser
    is trained by its reconstruction error only.

    Taps: the last stage. Trains: the student, the translator and, depending on `stage`, the
    paraphraser. Usual weight: 200, with 1 for cross-entropy, after 30 epochs of the
    paraphraser (RepDistiller).

    Args:
      stage: one of `STAGES`.
      rate: channels of the factor, relative to the teacher's, positive.
      taps: taps to compare instead of the last stage, `student:teacher` where the names
        differ; their losses are summed.

    Raises:
      UserError: if the stage is unknown.
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
        # A frozen paraphraser is state: weight decay would still change parameters.
        return {"params": translator["params"], "state": paraphraser | translator["state"]}

    def loss(variables: Variables, context: Context) -> MethodLoss:
        paraphrasers, translators = adapters(context)
        # The paraphraser is either trained or frozen, and has no batch statistics.
        merged = {"params": variables["params"] | variables["state"], "state": {}}
        paraphrased, _ = apply_adapters(merged, paraphrasers)
        value = jnp.zeros(len(context.index))
        if stage != "translator":
            for name, (_, teacher) in paraphrasers.items():
                value += losses.fitnet(paraphrased[name][1], teacher)
        if stage == "paraphraser":
            return MethodLoss(value, {}, {})
        translated, state = apply_adapters(variables, translators)
        for translation, (factor, _) in zip(translated.values(), paraphrased.values(), strict=True):
            value += losses.factor_transfer(translation, jax.lax.stop_gradient(factor))
        frozen = {name: p for name, p in variables["state"].items() if name in paraphrasers}
        return MethodLoss(value, frozen | state, {})

    return for_each_teacher("ft", loss, init)
