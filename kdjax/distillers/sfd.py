"""Simple feature distillation, from section 4.0.1 of the CIFAR-10 survey."""

import jax.numpy as jnp

from kdjax import losses, parallel
from kdjax.distillers.adapters import apply_adapters, equal_channels, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps, stem_and_stages
from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables

FORMS = ("map", "peak")
# What the survey's code compares of a stem.
_STEM = {"stem_conv", "stem_pre"}


def sfd(*, form: str = "map") -> Distiller:
    """Mean squared difference of the maps, the larger max-pooled to the smaller, summed.

    The survey's code, which produced its results, differs from its text: it max-pools every
    map globally and uses only the largest distance between teacher and student in the whole
    batch, and it takes the maps before their ReLUs, the stem's before its batch norm, too.
    `form="peak"` reproduces the code. The survey's networks have equal numbers of channels;
    where they differ, the student's maps pass through a 1x1 convolution.

    Taps: `stem` and all stages; with `peak`, all stages before their activations, and
    `stem_conv` and `stem_pre` of the survey's networks (`distiller_resnet*`), `stem` if one of
    the networks is another. Trains: the student, and the 1x1 convolutions if there are any.
    Usual weight: 1, with 1 for cross-entropy.

    Args:
      form: one of `FORMS`.

    Raises:
      UserError: if the form is unknown.
    """
    if form not in FORMS:
        raise UserError(f"unknown form {form!r} of sfd: choose from {', '.join(FORMS)}")

    def pairs(context: Context) -> dict[str, tuple[Array, Array]]:
        if form == "map":
            return stem_and_stages("sfd", context)
        survey = all(set(one.taps) >= _STEM for one in (context.student, context.teacher))
        stem = maps("sfd", context, sorted(_STEM) if survey else ("stem",))
        return stem | maps("sfd", context, suffix="_pre")

    def init(rng: Array, context: Context) -> Variables:
        return init_adapters(rng, equal_channels(pairs(context), context))

    def compare(student: Array, teacher: Array, axis_name: str | None) -> Array:
        if form == "map":
            return losses.sfd(student, teacher)
        peaks = [x.max((1, 2)).astype(jnp.float32) for x in (student, teacher)]
        peaks = parallel.all_gather(peaks, axis_name)
        squares = jnp.sum(jnp.square(peaks[0] - peaks[1]), axis=-1)
        # The gradient of the square root is infinite at zero.
        return jnp.sqrt(jnp.maximum(jnp.max(squares), 1e-12))

    def loss(variables: Variables, context: Context) -> MethodLoss:
        compared = pairs(context)
        adapted, state = apply_adapters(variables, equal_channels(compared, context))
        value: Array = jnp.zeros(())
        for name, (_, teacher) in compared.items():
            value += compare(adapted[name], teacher, context.axis_name)
        return MethodLoss(value, state, {})

    return for_each_teacher("sfd", loss, init)
