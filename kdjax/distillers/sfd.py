"""Simple feature distillation, from section 4.0.1 of the CIFAR-10 survey."""

from collections.abc import Mapping

import jax.numpy as jnp

from kdjax import losses, parallel
from kdjax.distillers.adapters import (
    Adapters,
    Regressor,
    apply_adapters,
    equal_channels,
    init_adapters,
)
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps, stem_and_stages
from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables

FORMS = ("map", "peak")
DECONVOLUTION = "deconvolution"
POOLS = (*losses.SFD_POOLS, DECONVOLUTION)
# What the survey's code compares of a stem.
_STEM = {"stem_conv", "stem_pre"}


def sfd(
    *, form: str = "map", distance: str = "mse", pool: str = "max", layers: str = "all"
) -> Distiller:
    """Mean squared difference of the maps, the larger max-pooled to the smaller, summed.

    The survey's code, which produced its results, differs from its text: it max-pools every
    map globally and uses only the largest distance between teacher and student in the whole
    batch, and it takes the maps before their ReLUs, the stem's before its batch norm, too.
    `form="peak"` reproduces the code. The survey's networks have equal numbers of channels;
    where they differ, the student's maps pass through a 1x1 convolution.

    Taps: `stem` and all stages; with `peak`, all stages before their activations, and
    `stem_conv` and `stem_pre` of the survey's networks (`distiller_resnet*`), `stem` if one of
    the networks is another. Trains: the student, and the convolutions if there are any.
    Usual weight: 1, with 1 for cross-entropy.

    Args:
      form: one of `FORMS`.
      distance: of `map`, as for `kdjax.losses.sfd`.
      pool: of `map`, as for `kdjax.losses.sfd`; or `deconvolution` (section 4.0.1): where sizes
        differ, a transposed convolution enlarges the student's map to the teacher's, or a
        convolution reduces it, both as in FitNet but without a ReLU. (If the teacher's map were
        transformed, a constant would minimise the loss.)
      layers: of `map`, which of the stem and the stages are compared: `all`, `first:N`,
        `last:N` or `every:N` (each N-th, the last included), as in section 5.6.

    Raises:
      UserError: if one of them is unknown.
    """
    for what, given, allowed in (
        ("form", form, FORMS),
        ("distance", distance, losses.SFD_DISTANCES),
        ("pool", pool, POOLS),
    ):
        if given not in allowed:
            raise UserError(f"unknown {what} {given!r} of sfd: choose from {', '.join(allowed)}")
    chosen = _layers(layers)

    def pairs(context: Context) -> dict[str, tuple[Array, Array]]:
        if form == "map":
            found = stem_and_stages("sfd", context)
            return {name: found[name] for name in list(found)[chosen]}
        survey = all(set(one.taps) >= _STEM for one in (context.student, context.teacher))
        stem = maps("sfd", context, sorted(_STEM) if survey else ("stem",))
        return stem | maps("sfd", context, suffix="_pre")

    def adapters(compared: Mapping[str, tuple[Array, Array]], context: Context) -> Adapters:
        modules = dict(equal_channels(compared, context))
        if pool == DECONVOLUTION:
            for name, (student, teacher) in compared.items():
                target = teacher.shape[1:]
                if student.shape[1:3] != target[:2]:
                    module = Regressor.for_input(student, context, target=target, relu=False)
                    modules[name] = (module, student)
        return modules

    def init(rng: Array, context: Context) -> Variables:
        return init_adapters(rng, adapters(pairs(context), context))

    def compare(student: Array, teacher: Array, axis_name: str | None) -> Array:
        if form == "map":
            # After a deconvolution the sizes are equal, and there is nothing left to pool.
            smaller = "max" if pool == DECONVOLUTION else pool
            return losses.sfd(student, teacher, distance=distance, pool=smaller)
        peaks = [x.max((1, 2)).astype(jnp.float32) for x in (student, teacher)]
        peaks = parallel.all_gather(peaks, axis_name)
        squares = jnp.sum(jnp.square(peaks[0] - peaks[1]), axis=-1)
        # The gradient of the square root is infinite at zero.
        return jnp.sqrt(jnp.maximum(jnp.max(squares), 1e-12))

    def loss(variables: Variables, context: Context) -> MethodLoss:
        compared = pairs(context)
        adapted, state = apply_adapters(variables, adapters(compared, context))
        value: Array = jnp.zeros(())
        for name, (_, teacher) in compared.items():
            value += compare(adapted[name], teacher, context.axis_name)
        return MethodLoss(value, state, {})

    return for_each_teacher("sfd", loss, init)


def _layers(given: str) -> slice:
    """The slice of the layers that `layers` means."""
    which, _, number = given.partition(":")
    if given == "all":
        return slice(None)
    if which not in ("first", "last", "every") or not number.isdigit() or int(number) < 1:
        raise UserError(
            f"unknown layers {given!r} of sfd: choose from all, first:N, last:N, every:N"
        )
    n = int(number)
    if which == "every":
        # Counted from the last layer, in the order of the network.
        return slice(None, None, -n)
    return slice(n) if which == "first" else slice(-n, None)
