"""Simple feature distillation, of the CIFAR-10 survey (section 4.0.1)."""

import jax.numpy as jnp

from kdjax import losses, parallel
from kdjax.distillers.adapters import apply_adapters, equal_channels, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import stem_and_stages
from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables

FORMS = ("map", "peak")


def sfd(*, form: str = "map") -> Distiller:
    """Mean squared difference of all stages' maps, the larger max-pooled to the smaller.

    The survey's code, which gave its results, differs from its text: it pools every map to
    its maximum and counts, of the whole batch, only the largest distance between those of
    teacher and student; that is `form="peak"`. Its networks have equal channels; where they
    differ, the student's maps go through a 1x1 convolution.

    Taps: `stem` and every stage. Trains: the student, and the convolutions where there
    are any. Usual weight: 1 beside 1 of cross-entropy.

    Args:
      form: one of `FORMS`.

    Raises:
      UserError: on another form.
    """
    if form not in FORMS:
        raise UserError(f"unknown form {form!r} of sfd: choose from {', '.join(FORMS)}")

    def init(rng: Array, context: Context) -> Variables:
        return init_adapters(rng, equal_channels(stem_and_stages("sfd", context), context))

    def compare(student: Array, teacher: Array, axis_name: str | None) -> Array:
        if form == "map":
            return losses.sfd(student, teacher)
        peaks = [x.max((1, 2)).astype(jnp.float32) for x in (student, teacher)]
        peaks = parallel.all_gather(peaks, axis_name)
        squares = jnp.sum(jnp.square(peaks[0] - peaks[1]), axis=-1)
        # The root's gradient at zero is infinite.
        return jnp.sqrt(jnp.maximum(jnp.max(squares), 1e-12))

    def loss(variables: Variables, context: Context) -> MethodLoss:
        adapted, state = apply_adapters(
            variables, equal_channels(stem_and_stages("sfd", context), context)
        )
        value: Array = jnp.zeros(())
        for name, (_, teacher) in stem_and_stages("sfd", context).items():
            value += compare(adapted[name], teacher, context.axis_name)
        return MethodLoss(value, state, {})

    return for_each_teacher("sfd", loss, init)
