"""Augmentation policies: what they are, and how they are applied inside the compiled step.

A policy is a table of sub-policies. For every image some of them are drawn uniformly and with
replacement, and their actions are applied one after the other, each with its probability. What
an image becomes depends on its own key alone. `kdjax.data.policies` has published policies.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import parallel
from kdjax.data import augment, operators
from kdjax.types import Array, UserError


class Action(NamedTuple):
    """One operator of a sub-policy.

    Attributes:
      operator: a name in `OPERATORS`.
      probability: of being applied.
      values: its argument, of which one is drawn uniformly: one value, or two that differ in
        the sign.
    """

    operator: str
    probability: float = 1.0
    values: tuple[float, ...] = (0.0,)


class Policy(NamedTuple):
    """A policy.

    Attributes:
      sub_policies: sequences of actions, all of the same length a.
      draws: how many sub-policies are applied to an image.
      order: of the parts of the augmentation in the code that published the policy.
      fill: value of pixels from outside of the image.
      cutout_color: red, green and blue of what the operators `cutout` paint.
      transparent: whether pixels from outside and painted pixels are missing, and in the end of
        the mean colour, unless an operator that knows no transparency was applied to them.
      bicubic: operators that interpolate; the others take the nearest pixel.
    """

    sub_policies: tuple[tuple[Action, ...], ...]
    draws: int
    order: tuple[str, ...]
    fill: int = 0
    cutout_color: tuple[int, int, int] = (0, 0, 0)
    transparent: bool = False
    bicubic: tuple[str, ...] = ()


class Draw(NamedTuple):
    """What was drawn for one image; n draws of a actions.

    Attributes:
      sub_policy: int32 [n], index in `Policy.sub_policies`.
      applied: bool [n, a].
      value: int32 [n, a], index in `Action.values`.
      position: float32 [n, a, 2], in [0, 1): where `cutout` paints, from top and left.
    """

    sub_policy: Array
    applied: Array
    value: Array
    position: Array


Sides = tuple[Array, Array, Array, Array]


def _square(size: Array, at: Array) -> Sides:
    """A square of even size around a pixel, as in UDA's code."""
    top, left = jnp.floor(at) - size // 2
    return top, left, top + size - 1, left + size - 1


def _drawn_square(size: Array, at: Array) -> Sides:
    """What `ImageDraw.rectangle` paints, which includes its lower and right side."""
    top, left = jnp.floor(jnp.maximum(at - size / 2, 0))
    return top, left, jnp.floor(top + size), jnp.floor(left + size)


# The matrix of a geometric operator, of its value, the image's height and its width.
_MATRICES: dict[str, Callable[[float, int, int], operators.Matrix]] = {
    "shear_x": lambda value, h, w: operators.shear_x(value),
    "shear_y": lambda value, h, w: operators.shear_y(value),
    "translate_x": lambda value, h, w: operators.translate(value, 0),
    "translate_y": lambda value, h, w: operators.translate(0, value),
    "translate_x_by_share": lambda value, h, w: operators.translate(value * w, 0),
    "translate_y_by_share": lambda value, h, w: operators.translate(0, value * h),
    "rotate": operators.rotate,
}
# Top, left, bottom and right of what is painted, of the value and the position in pixels.
_CUTOUTS: dict[str, Callable[[Array, Array], Sides]] = {
    "cutout": _square,
    "cutout_abs": _drawn_square,
}
OPERATORS = (*operators.WITHOUT_VALUE, *operators.BY_VALUE, *_MATRICES, *_CUTOUTS)
# Pillow cannot apply these to an image with transparency, which UDA's code removes before them.
_OPAQUE = ("invert", "autocontrast", "equalize", "posterize", "solarize", "solarize_add")


def draw(rng: Array, policy: Policy) -> Draw:
    """Draws what is applied to one image."""
    row_key, applied_key, value_key, position_key = jax.random.split(rng, 4)
    shape = (policy.draws, len(policy.sub_policies[0]))
    probabilities = jnp.array([[a.probability for a in row] for row in policy.sub_policies])
    variants = jnp.array([[len(a.values) for a in row] for row in policy.sub_policies])
    row = jax.random.randint(row_key, shape[:1], 0, len(policy.sub_policies))
    return Draw(
        row,
        jax.random.uniform(applied_key, shape) < probabilities[row],
        jax.random.randint(value_key, shape, 0, variants[row]),
        jax.random.uniform(position_key, (*shape, 2)),
    )


class _Tables(NamedTuple):
    """The arguments of a policy's actions: [s, a, 2] for s sub-policies and two values each.

    Attributes:
      operator: int32 [s, a], index in `names`.
      value: float32 [s, a, 2].
      units: int32 [s, a, 2, 6], of `operators.affine`.
      samples: int32 [s, a, 2], index in `grids`.
      grids: of `operators.affine_bicubic`, [g, h, w].
      names: the operators that occur.
    """

    operator: np.ndarray
    value: np.ndarray
    units: operators.Matrix
    samples: np.ndarray
    grids: operators.Samples
    names: tuple[str, ...]


def _tabulate(policy: Policy, h: int, w: int) -> _Tables:
    """Computes on the host, in float64, what images of a size need."""
    shape = (len(policy.sub_policies), len(policy.sub_policies[0]))
    names = tuple(dict.fromkeys(a.operator for row in policy.sub_policies for a in row))
    operator, value = np.zeros(shape, np.int32), np.zeros((*shape, 2), np.float32)
    matrices = np.tile(operators.translate(0, 0), (*shape, 2, 1))
    samples = np.zeros((*shape, 2), np.int32)
    grids: dict[tuple[str, float], operators.Matrix] = {}
    for i, j in itertools.product(*map(range, shape)):
        action = policy.sub_policies[i][j]
        operator[i, j] = names.index(action.operator)
        for k, number in enumerate(action.values):
            value[i, j, k] = number
            if action.operator in _MATRICES:
                matrices[i, j, k] = _MATRICES[action.operator](number, h, w)
            if action.operator in policy.bicubic:
                key = (action.operator, number)
                grids.setdefault(key, matrices[i, j, k])
                samples[i, j, k] = list(grids).index(key)
    stacked = np.stack([*grids.values()] or [operators.translate(0, 0)])
    return _Tables(
        operator,
        value,
        operators.fixed_point(matrices),
        samples,
        operators.samples(stacked, h, w),
        names,
    )


class _Step(NamedTuple):
    """One action on one image; 0 is no operator, and i the one at i - 1 of the names."""

    operator: Array
    value: Array
    units: Array
    samples: Array
    position: Array


class _State(NamedTuple):
    """An image, uint8 [h, w, c], and which of its pixels are missing, bool [h, w, 1]."""

    image: Array
    missing: Array


def apply(policy: Policy, keys: Array, images: Array, mean: Array) -> Array:
    """Applies a policy to a batch.

    Args:
      policy: what to apply.
      keys: [b], one per image.
      images: float32 [b, h, w, c], pixels in [0, 1], which are rounded to multiples of 1/255,
        with c = 1 or 3.
      mean: [c], the colour in [0, 1] of what is missing in the end (`Policy.transparent`).

    Returns:
      float32 [b, h, w, c], multiples of 1/255 save for the mean.

    Raises:
      UserError: if the images have neither one nor three channels.
    """
    _, h, w, c = images.shape
    if c not in (1, 3):
        raise UserError(f"images have {c} channels: a policy needs 1 or 3")
    tables = _tabulate(policy, h, w)
    drawn = jax.vmap(draw, (0, None))(keys, policy)

    # [b, n] and [b, n, a]: everything that is known before the first pixel.
    row = jnp.broadcast_to(drawn.sub_policy[..., None], drawn.value.shape)
    action = jax.lax.broadcasted_iota(jnp.int32, drawn.value.shape, 2)
    at = (row, action, drawn.value)
    steps = _Step(
        jnp.where(drawn.applied, jnp.asarray(tables.operator)[row, action] + 1, 0),
        jnp.asarray(tables.value)[at],
        jnp.asarray(tables.units)[at],
        jnp.asarray(tables.samples)[at],
        drawn.position * jnp.array([h, w]).reshape(1, 1, 1, 2),
    )
    steps = jax.tree.map(lambda x: x.reshape(len(x), -1, *x.shape[3:]), steps)
    branches = [lambda step, state: state, *_branches(policy, tables, c)]

    def one(arguments: tuple[Array, _Step]) -> Array:
        image, steps = arguments
        state = _State(augment.as_uint8(image), jnp.zeros((h, w, 1), bool))
        state, _ = jax.lax.scan(
            lambda state, step: (jax.lax.switch(step.operator, branches, step, state), None),
            state,
            steps,
        )
        pixels = state.image.astype(jnp.float32) / 255
        return jnp.where(state.missing, mean[None, None], pixels) if policy.transparent else pixels

    # One after the other, images run only the operators that were drawn for them, which takes a
    # tenth of the time on a CPU. All at once, they run every operator and select a result, which
    # keeps an accelerator busy.
    each = jax.lax.map if parallel.on_cpu() else lambda f, xs: jax.vmap(f)(xs)
    return each(one, (images, steps))


def _branches(
    policy: Policy, tables: _Tables, channels: int
) -> Iterator[Callable[[_Step, _State], _State]]:
    """The operators by their names, with one signature."""
    r, g, b = policy.cutout_color
    grey = round((299 * r + 587 * g + 114 * b) / 1000)
    color = jnp.array([r, g, b] if channels == 3 else [grey], jnp.uint8)

    def branch(name: str) -> Callable[[_Step, _State], _State]:
        def simple(step: _Step, state: _State) -> _State:
            if name in operators.BY_VALUE:
                image = operators.BY_VALUE[name](state.image, step.value)
            else:
                image = operators.WITHOUT_VALUE[name](state.image)
            missing = jnp.zeros_like(state.missing) if name in _OPAQUE else state.missing
            return _State(image, missing)

        def nearest(step: _Step, state: _State) -> _State:
            return _State(
                operators.affine(state.image, step.units, policy.fill),
                operators.affine(state.missing, step.units, True),
            )

        def bicubic(step: _Step, state: _State) -> _State:
            at = jax.tree.map(lambda x: jnp.asarray(x)[step.samples], tables.grids)
            return state._replace(image=operators.affine_bicubic(state.image, at, policy.fill))

        def cutout(step: _Step, state: _State) -> _State:
            sides = _CUTOUTS[name](step.value, step.position)
            return _State(
                operators.rectangle(state.image, *sides, color),
                operators.rectangle(state.missing, *sides, jnp.array(True)),
            )

        if name in _CUTOUTS:
            return cutout
        if name in policy.bicubic:
            return bicubic
        return nearest if name in _MATRICES else simple

    return map(branch, tables.names)
