"""Which examples form which batch: a function of (seed, step) alone."""

import functools
import os
import re
import threading
import time
from collections.abc import Iterator
from typing import Generic, NotRequired, Protocol, TypedDict, TypeVar

import jax.numpy as jnp
import numpy as np

from kdjax.data.sources import Lazy, Split
from kdjax.host import keep_freed_memory
from kdjax.types import Array, UserError, first_line

# NumPy arrays on the host, JAX arrays in the compiled step.
A = TypeVar("A", np.ndarray, Array)


class ResidentData(TypedDict, Generic[A]):
    """The arrays of a split that stay on the device.

    Attributes:
      labels: int32 [n].
      images: uint8 [n, h, w, c]; absent if they are decoded on demand.
      more: the arrays of a second source of images, if there is one.
    """

    labels: A
    images: NotRequired[A]
    more: NotRequired["ResidentData[A]"]


class Batch(TypedDict, Generic[A]):
    """A batch as the compiled step takes it.

    Attributes:
      index: int32 [b], positions in the split.
      images: uint8 [b, h, w, c]; only where images are not resident, or the student's crops.
      teacher: uint8 [b, t, t, c], what the teacher's view is made from; only with crops of
        whole images (`kdjax.data.whole`), and where it is not `images`.
      more: the part of the batch that comes from a second source, if there is one.
      logits: [b, k] of each teacher for this batch, if they are known.
    """

    index: A
    images: NotRequired[A]
    teacher: NotRequired[A]
    more: NotRequired["Batch[A]"]
    logits: NotRequired[tuple[A, ...]]


class CropsOfWhole(Protocol):
    """The contract of what makes batches from whole images (`kdjax.data.whole.Crops`)."""

    def read_whole(
        self, split: Split, positions: np.ndarray, seed: int, step: int, first: int = 0
    ) -> Batch[np.ndarray]:
        """Rows of a batch, from `first` on, with the given positions [b] at a step.

        All but what `add_in_memory` adds. Of images in memory only the shape is looked at.
        """

    def add_in_memory(self, split: Split, batch: Batch[np.ndarray]) -> Batch[np.ndarray]:
        """The same rows with what they take from images in memory."""


@functools.lru_cache(maxsize=4)
def _epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)


def positions(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The examples of one batch.

    Epochs are permutations of the n examples, laid end to end, and batches are cut from that
    sequence regardless of where an epoch ends: each epoch shows every example once, nothing
    is dropped, and all batches are full.

    Args:
      n: number of examples.
      batch_size: examples per batch.
      seed: seed of the permutations.
      step: which batch, from 0.

    Returns:
      int32 [batch_size], positions in the split.
    """
    sequence = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, indices = np.divmod(sequence, n)
    batch = np.empty(batch_size, np.int32)
    for epoch in np.unique(epochs):
        in_epoch = epochs == epoch
        batch[in_epoch] = _epoch_order(n, seed, int(epoch))[indices[in_epoch]]
    return batch


def resident(split: Split) -> ResidentData[np.ndarray]:
    """The arrays from which a compiled step gathers: only labels if images are `Lazy`."""
    if isinstance(split.images, Lazy):
        return {"labels": split.labels}
    return {"images": split.images, "labels": split.labels}


def read(split: Split, index: np.ndarray) -> Batch[np.ndarray]:
    """The batch with the given positions [b], with its images if they are not resident."""
    if isinstance(split.images, Lazy):
        return {"index": index, "images": split.images[index]}
    return {"index": index}


def gather(data: ResidentData[Array], batch: Batch[Array]) -> tuple[Array, Array]:
    """Images uint8 [b, h, w, c] and labels int32 [b] of a batch, inside the compiled step."""
    labels = jnp.take(data["labels"], batch["index"], axis=0)
    if "images" in batch:
        return batch["images"], labels
    return jnp.take(data["images"], batch["index"], axis=0), labels


def stream(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    workers: int = 0,
    crops: CropsOfWhole | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch[np.ndarray]]:
    """The batches of steps `start` to `stop`; Grain prefetches images that are not resident.

    A batch is a function of (seed, step), whatever the number of workers and shares and wherever
    the stream starts.

    Args:
      split: the examples.
      batch_size: examples per batch.
      seed: seed of the order.
      start: first step.
      stop: one past the last step.
      workers: processes that decode images; 0 decodes in threads of this process. Affects
        only the speed.
      crops: takes the images from the whole ones of the split, if it has them.
      share: (i, n) yields the i-th of n equal, contiguous parts of each batch, and reads no other
        images: what one of n processes needs. The parts of a batch in order are the batch.

    Raises:
      UserError: if a batch has no n equal parts.
    """
    part, parts = share
    if batch_size % parts:
        raise UserError(
            f"a batch takes {batch_size} images of a source, and {parts} processes need a multiple "
            f"of {parts}: change batch_size"
        )
    rows = batch_size // parts
    first, n = part * rows, len(split)
    # What is sent to workers. Each would get a copy of all images in memory.
    light = split
    if crops and isinstance(split.images, np.ndarray):
        light = Split(split.images[:1].copy(), split.labels, split.whole)

    def batch(step: int) -> Batch[np.ndarray]:
        index = positions(n, batch_size, seed, step)[first : first + rows]
        return crops.read_whole(light, index, seed, step, first) if crops else read(light, index)

    if not isinstance(split.images, Lazy) and not crops:
        return map(batch, range(start, stop))

    import grain

    steps = grain.MapDataset.range(start, stop).map(batch)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers)
        # A step is a whole batch: a worker must not read hundreds of them ahead.
        one_by_one = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        found = steps.to_iter_dataset(one_by_one).mp_prefetch(options, _set_up_worker)
    else:
        threads = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
        found = steps.to_iter_dataset(threads)
    guarded = _guarded(iter(found))
    return map(functools.partial(crops.add_in_memory, split), guarded) if crops else guarded


def _set_up_worker(*_: int) -> None:
    keep_freed_memory()
    _end_with_parent()


def _end_with_parent() -> None:
    """Ends a worker soon after its parent, which may be killed and then tells it nothing."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _guarded(batches: Iterator[Batch[np.ndarray]]) -> Iterator[Batch[np.ndarray]]:
    """The batches; what ends them before their time is one line.

    Raises:
      UserError: if an image cannot be read, or a worker was killed.
    """
    try:
        yield from batches
    except UserError:
        raise
    except Exception as error:
        # Grain passes on whatever a worker raised, with its traceback.
        if killed := re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error)):
            raise UserError(
                f"a process that decodes images was ended from outside (status {killed[1]})"
            ) from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        known = [line for line in lines if "UserError: " in line]
        text = known[-1].rpartition("UserError: ")[2] if known else first_line(error)
        raise UserError(f"images cannot be read: {text}") from None
    finally:
        # What workers have put into shared memory would be left there.
        if hasattr(batches, "close"):
            batches.close()


def check_batch_size(batch_size: int, grad_accum_steps: int) -> None:
    """Raises `UserError` unless a batch can be split into `grad_accum_steps` equal parts."""
    if batch_size < 1 or grad_accum_steps < 1 or batch_size % grad_accum_steps:
        raise UserError(
            f"batch_size is {batch_size} and grad_accum_steps is {grad_accum_steps}: both must "
            "be positive, and batch_size a multiple of grad_accum_steps"
        )
