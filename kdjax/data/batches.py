"""Which examples make up which batch: a function of (seed, step) and nothing else."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from kdjax.data.sources import Lazy, Split
from kdjax.types import Array, UserError


@functools.lru_cache(maxsize=4)
def _epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)


def positions(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The examples of one batch.

    Epochs are permutations of the n examples laid end to end, and batches are cut
    from that line without regard to where an epoch ends: each epoch shows every
    example once, nothing is dropped, and all batches are full.

    Returns:
      int32 [batch_size].
    """
    line = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(line, n)
    batch = np.empty(batch_size, np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        batch[here] = _epoch_order(n, seed, int(epoch))[places[here]]
    return batch


def resident(split: Split) -> dict[str, np.ndarray]:
    """The arrays that a compiled step gathers from: only labels if images are decoded on demand."""
    if isinstance(split.images, Lazy):
        return {"labels": split.labels}
    return {"images": split.images, "labels": split.labels}


def read(split: Split, batch: np.ndarray) -> dict[str, np.ndarray]:
    """One batch as the compiled step takes it: positions, and what is not resident."""
    if isinstance(split.images, Lazy):
        return {"index": batch, "images": split.images[batch]}
    return {"index": batch}


def gather(data: dict[str, Array], batch: dict[str, Array]) -> tuple[Array, Array]:
    """Images uint8 [b, h, w, c] and labels int32 [b] of a batch, inside the compiled step."""
    labels = jnp.take(data["labels"], batch["index"], axis=0)
    if "images" in batch:
        return batch["images"], labels
    return jnp.take(data["images"], batch["index"], axis=0), labels


def stream(
    split: Split, *, batch_size: int, seed: int, start: int, stop: int, workers: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of steps `start` to `stop`, decoded ahead by Grain where they are not resident.

    Args:
      split: what to draw from.
      batch_size: examples a batch.
      seed: of the order.
      start: first step.
      stop: one past the last step.
      workers: processes that decode, 0 for threads of this process. Their number
        changes nothing but the speed.
    """
    n = len(split)

    def batch(step: int) -> dict[str, Any]:
        return read(split, positions(n, batch_size, seed, step))

    if not isinstance(split.images, Lazy):
        return map(batch, range(start, stop))

    import grain

    steps = grain.MapDataset.range(start, stop).map(batch)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers)
        return iter(steps.to_iter_dataset().mp_prefetch(options))
    threads = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    return iter(steps.to_iter_dataset(threads))


def check_batch_size(batch_size: int, accumulate: int) -> None:
    """Raises UserError unless a batch can be cut into `accumulate` equal parts."""
    if batch_size < 1 or accumulate < 1 or batch_size % accumulate:
        raise UserError(
            f"batch_size is {batch_size} and accumulate {accumulate}: both are positive and the "
            "first is a multiple of the second"
        )
