"""The running averages of batch norm: equal on all devices, and measured again."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from kdjax import parallel
from kdjax.data import batches, seen
from kdjax.data.views import ViewFn
from kdjax.types import Array, Network, PyTree, TrainState


def equal_on_devices(student: Network, batch_stats: PyTree, axis_name: str | None) -> PyTree:
    """Batch statistics after a step on every device, averaged where they may differ.

    Args:
      student: the network. If it is one of kdjax's and its batch norm is synchronised, its
        statistics are equal already. A network of one's own may have other batch norm.
      batch_stats: this device's.
      axis_name: the mapped axis over which batches are sharded, or None.
    """
    modules = (student.module, getattr(student.module, "backbone", student.module))
    if all(type(m).__module__.startswith("kdjax.") and m.axis_name is not None for m in modules):
        return batch_stats
    return parallel.pmean(batch_stats, axis_name)


def make_batch_stats_step(
    *, student: Network, views: Sequence[ViewFn], axis_name: str | None = None
) -> Callable[..., TrainState]:
    """A step that renews a student's batch statistics and changes nothing else.

    A pass of such steps makes the running averages of a network fit its parameters where these
    were not trained, as on the line between two networks (Stanton et al. 2021, section 6.2).

    Args:
      student: applied in training mode.
      views: as for `kdjax.train.make_train_step`; the averages take one after the other.
      axis_name: the mapped axis over which batches are sharded, or None.

    Returns:
      `step(state, data, batch, rng) -> state`, with the arguments of a train step; `batch` has a
      leading axis of a single step. `state.step` stays, so every step needs a `rng` of its own.
    """

    def step(
        state: TrainState, data: batches.ResidentData[Array], batch: Any, rng: Array
    ) -> TrainState:
        view_key, dropout_key = jax.random.split(jax.random.fold_in(rng, state.step))
        first: batches.Batch[Array] = jax.tree.map(lambda x: x[0], batch)
        batch_stats = state.batch_stats
        for sources in seen.see(views, data, first, view_key, axis_name):
            view, _ = seen.joined(sources)
            variables = {"params": state.params, "batch_stats": batch_stats}
            _, batch_stats = student.train(variables, view.student, dropout_key)
        batch_stats = equal_on_devices(student, batch_stats, axis_name)
        ema = state.ema | {"batch_stats": batch_stats} if state.ema else state.ema
        return dataclasses.replace(state, batch_stats=batch_stats, ema=ema)

    return step
