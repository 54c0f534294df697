"""The update of a state by its gradient; on accelerators of all parameters as one vector.

An update of each array by itself starts a kernel for every one of them, and the step of a small
network takes as long as its kernels need to be started.
"""

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from kdjax.types import Array, PyTree, Separated, TrainState

# From `(student params, method params)` to a loss, which may be `Separated`, and anything else.
Objective = Callable[[tuple[PyTree, PyTree]], tuple[PyTree, Any]]

S = TypeVar("S", bound=TrainState)


def _order(ndim: int) -> tuple[int, ...]:
    """The order of the axes of an array in a vector: kernels as cuDNN takes them, [o, h, w, i]."""
    return (3, 0, 1, 2) if ndim == 4 else tuple(range(ndim))


@flax.struct.dataclass
class Flat:
    """A tree of float32 arrays as one vector; itself a tree with that single leaf.

    Attributes:
      vector: float32 [n], all elements in the order of the leaves.
      structure: of the tree.
      shapes: of its leaves.
    """

    vector: Array
    structure: Any = flax.struct.field(pytree_node=False)
    shapes: tuple[tuple[int, ...], ...] = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, tree: PyTree) -> "Flat":
        """A tree as a vector. Of slices of a vector in their order, XLA makes that vector."""
        leaves, structure = jax.tree.flatten(tree)
        shapes = tuple(leaf.shape for leaf in leaves)
        rows = [leaf.transpose(_order(leaf.ndim)).reshape(-1) for leaf in leaves]
        return cls(jnp.concatenate([jnp.zeros(0), *rows]), structure, shapes)

    def tree(self) -> PyTree:
        """The tree."""
        leaves, start = [], 0
        for shape in self.shapes:
            stop, order = start + math.prod(shape), _order(len(shape))
            leaf = self.vector[start:stop].reshape([shape[axis] for axis in order])
            leaves.append(leaf.transpose(np.argsort(order)))
            start = stop
        return jax.tree.unflatten(self.structure, leaves)


def can_pack(state: TrainState) -> bool:
    """Whether a state's trees can be vectors: all their arrays are float32. A packed one's can."""
    trees = (state.params, state.method_params, state.batch_stats, state.ema)
    return all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(trees))


def flattened(tree: PyTree, like: PyTree) -> PyTree:
    """A tree, such as an optimiser's state, with vectors for its parts that are like `like`."""
    structure: Any = jax.tree.structure(like)

    def is_like(node: Any) -> bool:
        return jax.tree.structure(node) == structure

    return jax.tree.map(lambda x: Flat.of(x) if is_like(x) else x, tree, is_leaf=is_like)


def restored(tree: PyTree) -> PyTree:
    """The inverse of `flattened`."""

    def is_flat(node: Any) -> bool:
        return isinstance(node, Flat)

    return jax.tree.map(lambda x: x.tree() if is_flat(x) else x, tree, is_leaf=is_flat)


def gradient(
    objective: Objective, trained: tuple[PyTree, PyTree], *, separate: bool
) -> tuple[PyTree, Any]:
    """The gradient of an objective's loss, and what it returns beside that.

    Args:
      objective: see `Objective`.
      trained: its argument.
      separate: whether the loss is `Separated`. So is the gradient then; both have one forward
        pass, and a backward pass each.
    """
    if not separate:
        return jax.grad(objective, has_aux=True)(trained)
    losses, pull_back, rest = jax.vjp(objective, trained, has_aux=True)
    task, distillation = jax.tree.map(jnp.ones_like, losses)
    nothing = jax.tree.map(jnp.zeros_like, losses)
    (of_task,) = pull_back(nothing._replace(task=task))
    (of_distillation,) = pull_back(nothing._replace(distillation=distillation))
    return Separated(of_task, of_distillation), rest


def step(
    optimizer: optax.GradientTransformation,
    rate: Any,
    grad: PyTree,
    opt_state: Any,
    params: PyTree,
    *,
    as_vectors: bool = False,
) -> tuple[PyTree, Any]:
    """Applies the update of an optimiser with a learning rate of 1, times `rate`.

    Returns:
      The parameters, and the optimiser's state.
    """
    if as_vectors:
        opt_state = flattened(opt_state, params)
        grad, params = Flat.of(grad), Flat.of(params)
    changes, opt_state = optimizer.update(grad, opt_state, params)
    params = optax.apply_updates(params, optax.tree.scale(rate, changes))
    return restored(params), restored(opt_state)


def apply(
    optimizer: optax.GradientTransformation,
    grad: PyTree,
    state: TrainState,
    trains: PyTree,
    *,
    ema_decay: float,
    as_vectors: bool,
) -> tuple[TrainState, Array]:
    """Updates parameters, the optimiser's state, the moving average and the step.

    Args:
      optimizer: over `(student params, method params)`.
      grad: of these; `Separated` for a `kdjax.optimizers.DistillationOriented` optimiser.
      state: with the new batch statistics.
      trains: for each array whether the objective depends on it; the others stay as they are,
        which weight decay would still change. `Separated` where the gradient is.
      ema_decay: as for `kdjax.train.make_train_step`.
      as_vectors: update all arrays as one vector; the optimiser must be elementwise.

    Returns:
      The state, and the norm of the gradient, which is that of the sum if it is `Separated`.
    """
    trained, opt_state, averages = (state.params, state.method_params), state.opt_state, state.ema
    whole: Callable[[PyTree], PyTree] = Flat.of if as_vectors else lambda tree: tree

    def of_elements(bools: PyTree) -> PyTree:
        if not as_vectors:
            return bools
        sizes = [leaf.size for leaf in jax.tree.leaves(trained)]
        used = np.repeat(jax.tree.leaves(bools), sizes)
        # One value where all are the same, which costs nothing.
        of_all: Any = True if used.all() else used
        return dataclasses.replace(Flat.of(trained), vector=of_all)

    if as_vectors:
        opt_state = flattened(opt_state, trained)
    extra: dict[str, Any] = {}
    if isinstance(grad, Separated):
        extra = {"shared": of_elements(jax.tree.map(operator.and_, *trains))}
        trains = jax.tree.map(operator.or_, *trains)
    trains = of_elements(trains)
    grad = Separated(*map(whole, grad)) if extra else whole(grad)
    trained, averages = whole(trained), whole(averages)
    changes, opt_state = optimizer.update(grad, opt_state, trained, **extra)
    changes = jax.tree.map(
        lambda change, used: change if used is True else jnp.where(used, change, 0),
        changes, trains,
    )  # fmt: skip
    params, method_params = restored(optax.apply_updates(trained, changes))
    if ema_decay:
        rate = 1 - jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        new = whole({"params": params, "batch_stats": state.batch_stats})
        averages = optax.incremental_update(new, averages, rate)
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        method_params=method_params,
        opt_state=restored(opt_state),
        ema=restored(averages),
    )
    # As one vector, which is there already where devices have averaged it: a norm of each array by
    # itself is up to three kernels to compile for each of them.
    vector, _ = ravel_pytree(optax.tree.add(*grad) if extra else grad)
    return state, jnp.linalg.norm(vector)


def pack(state: S) -> S:
    """A state whose trees are vectors, to be carried from step to step."""
    trained = (state.params, state.method_params)
    return dataclasses.replace(
        state,
        params=Flat.of(trained),
        method_params={},
        batch_stats=Flat.of(state.batch_stats),
        opt_state=flattened(state.opt_state, trained),
        ema=Flat.of(state.ema),
    )


def unpack(packed: S) -> S:
    """The inverse of `pack`."""
    params, method_params = packed.params.tree()
    return dataclasses.replace(
        packed,
        params=params,
        method_params=method_params,
        batch_stats=packed.batch_stats.tree(),
        opt_state=restored(packed.opt_state),
        ema=packed.ema.tree(),
    )
