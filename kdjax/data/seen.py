"""What the networks see of a batch: every view of it, and of every source its own part."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.data import batches
from kdjax.data.views import ViewFn, Views
from kdjax.types import Array

# The views of a source's part of the batch, and the positions of its examples.
Part = tuple[Views, Array]
# By view, and then by source.
Seen = tuple[tuple[Part, ...], ...]


def see(
    views: Sequence[ViewFn],
    data: batches.ResidentData[Array],
    batch: batches.Batch[Array],
    rng: Array,
    axis_name: str | None,
) -> Seen:
    """Makes all views of this device's shard of a batch.

    The sources are augmented one by one, so that no random draw depends on the number of
    devices. Examples of the second source have positions after those of the first.

    Args:
      views: from `kdjax.data.views.make_views`.
      data: of the split, and under `more` that of the second source if there is one.
      batch: in the same form.
      rng: the step's key.
      axis_name: the mapped axis over which batches are sharded, or None.
    """
    sources: list[tuple[Any, Any]] = [(data, batch)]
    if "more" in batch:
        sources.append((data["more"], batch["more"]))
    seen = []
    for v, view in enumerate(views):
        parts, before = [], 0
        for s, (arrays, one) in enumerate(sources):
            key = jax.random.fold_in(rng, len(sources) * v + s) if v + s else rng
            images, labels = batches.gather(arrays, one)
            made = view(key, images, labels, axis_name, one.get("teacher"))
            made = made._replace(teacher_logits=tuple(one.get("logits", ())))
            parts.append((made, one["index"] + before))
            before += len(arrays["labels"])
        seen.append(tuple(parts))
    return tuple(seen)


def joined(parts: Sequence[Part]) -> Part:
    """The parts of all sources as one batch, in order."""
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def train_labels(data: batches.ResidentData[Array]) -> Array:
    """int32 [n], the labels of all examples that a batch may have, by position."""
    if "more" not in data:
        return data["labels"]
    return jnp.concatenate([data["labels"], data["more"]["labels"]])


def labelled_rows(sizes: Sequence[int], labelled: Sequence[bool]) -> tuple[int, int] | None:
    """The rows [start, stop) of `joined` parts that have labels; None if all have.

    Args:
      sizes: examples of each source in the batch.
      labelled: whether each source has labels.
    """
    if all(labelled):
        return None
    if not any(labelled):
        return 0, 0
    first = list(labelled).index(True)
    start = sum(sizes[:first])
    return start, start + sizes[first]


def step_keys(rng: Array, step: Array) -> tuple[Array, Array]:
    """The keys of a step: of the views, and of the methods."""
    view_key, method_key = jax.random.split(jax.random.fold_in(rng, step))
    return view_key, method_key
