"""Contrastive representation distillation.

Tian et al. 2020, "Contrastive representation distillation".
"""

from typing import Any

import jax
import jax.numpy as jnp

from kdjax import losses, parallel
from kdjax.distillers.adapters import Adapters, Embedding, apply_adapters, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import embeddings
from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables

MEMORIES = ("bank", "queue", "batch")
_SIDES = ("student", "teacher")


def crd(
    *,
    features: int = 128,
    negatives: int = 16384,
    temperature: float = 0.07,
    momentum: float = 0.5,
    memory: str = "bank",
) -> Distiller:
    """Noise-contrastive estimation between each network's embeddings and the other's memory.

    The positive of an example is the other network's embedding of the same image; negatives are
    the other network's embeddings of images of other classes. There are three memories:

    - `bank`, the paper's: one embedding of every training image, updated with momentum after it
      has been scored. It holds 2 N `features` floats for N training images, and a batch is
      scored against all of it in one matrix product. Negatives are drawn without replacement,
      anew in every step: for each example, a window with random start in a permutation of the
      bank that the step's examples share. If there are fewer than `negatives` candidates, all
      of them count equally, as drawing with replacement would on average.
    - `queue`: the last `negatives` embeddings, for data sets too large for a bank.
    - `batch`: the other embeddings of the whole batch.

    With `queue` and `batch`, all embeddings of other classes are negatives, and the positive is
    the other network's embedding of the same view. The normalisers Z are estimated from the
    first batch and then kept, as in the authors' code.

    Taps: `pre_logits`. Trains: the student, and a linear embedding of each network. State:
    memory and normalisers, equal on all devices. Usual weight: 0.8, with 1 for cross-entropy
    (RepDistiller).

    Args:
      features: dimensions of the embeddings.
      negatives: K, the number of negatives per example.
      temperature: tau > 0, by which cosine similarities are divided.
      momentum: momentum of the bank, in [0, 1).
      memory: one of `MEMORIES`.

    Raises:
      UserError: if the memory is unknown or `negatives` is less than one; from `init`, if the
        bank's training labels are missing from the context.
    """
    if memory not in MEMORIES:
        raise UserError(f"unknown memory {memory!r} of crd: choose from {', '.join(MEMORIES)}")
    if negatives < 1:
        raise UserError(f"crd needs at least one negative: negatives is {negatives}")

    def adapters(context: Context) -> Adapters:
        return {
            side: (Embedding.for_input(x, context, features=features), x)
            for side, x in zip(_SIDES, embeddings("crd", context), strict=True)
        }

    def init(rng: Array, context: Context) -> Variables:
        embed_key, memory_key = jax.random.split(rng)
        state: dict[str, Any] = {"normalizers": jnp.zeros(2)}
        if memory != "batch":
            size = negatives
            if memory == "bank":
                if context.train_labels is None:
                    raise UserError("crd's bank needs the training split's labels")
                size = len(context.train_labels)
            else:
                state |= {"labels": jnp.full(size, _EMPTY), "next": jnp.zeros((), jnp.int32)}
            # As in the authors' code, with variance 1 / features.
            bound = (3 / features) ** 0.5
            keys = dict(zip(_SIDES, jax.random.split(memory_key), strict=True))
            state["memory"] = {
                side: jax.random.uniform(key, (size, features), minval=-bound, maxval=bound)
                for side, key in keys.items()
            }
        params = init_adapters(embed_key, adapters(context))["params"]
        return {"params": params, "state": state}

    def loss(variables: Variables, context: Context) -> MethodLoss:
        own = {"params": variables["params"], "state": {}}
        embedded, _ = apply_adapters(own, adapters(context))
        embedded = {side: losses.l2_normalize(x) for side, x in embedded.items()}
        constant = jax.lax.stop_gradient(embedded)
        labels = jnp.argmax(context.labels, axis=-1)
        whole, index, whole_labels = parallel.all_gather(
            (constant, context.index, labels), context.axis_name
        )
        state = variables["state"]
        if memory == "bank":
            keys, key_labels = state["memory"], jnp.asarray(context.train_labels)
            positives = {side: bank[context.index] for side, bank in keys.items()}
            known = key_labels[context.index]
            indices = jnp.arange(len(key_labels))
            other = (key_labels[None] != known[:, None]) | (key_labels[None] < 0)
            other &= indices[None] != context.index[:, None]
            counts = draw_negatives(
                context.rng,
                other,
                negatives,
                parallel.batch_indices(len(labels), context.axis_name),
            )
        else:
            keys, key_labels = whole, whole_labels
            if memory == "queue":
                keys, key_labels = state["memory"], state["labels"]
            positives = constant
            other = (key_labels[None] != labels[:, None]) & (key_labels[None] != _EMPTY)
            counts = other.astype(jnp.float32)
        value = jnp.zeros(len(labels))
        normalizers = []
        for i, (side, opposite) in enumerate(zip(_SIDES, reversed(_SIDES), strict=True)):
            positive = jnp.sum(embedded[side] * positives[opposite], axis=1, keepdims=True)
            negative = jnp.matmul(embedded[side], keys[opposite].T, precision=losses.PRECISION)
            cosines = jnp.concatenate([positive, negative], axis=1)
            scores = jnp.exp(cosines / temperature)
            mean = _weighted_mean(scores, counts)
            first = parallel.pmean(jnp.mean(mean), context.axis_name) * len(key_labels)
            stored = state["normalizers"][i]
            normalizer = jax.lax.stop_gradient(jnp.where(stored > 0, stored, first))
            normalizers.append(normalizer)
            value += losses.crd_nce(scores / normalizer, len(key_labels), counts=counts)
        state = state | {"normalizers": jnp.stack(normalizers)}
        if memory == "bank":
            state["memory"] = _update_bank(state["memory"], index, whole, momentum)
        elif memory == "queue":
            state |= _push(state, whole, whole_labels)
        return MethodLoss(value, state, {})

    return for_each_teacher("crd", loss, init)


# The label of an entry of the queue that has not been written yet.
_EMPTY = -2


def draw_negatives(rng: Array, other: Array, negatives: int, indices: Array) -> Array:
    """Draws negatives for each example, without replacement if there are enough candidates.

    Args:
      rng: the step's key, the same on every device.
      other: bool [b, n], the candidates among the keys.
      negatives: K, the number of negatives per example.
      indices: int [b], positions of the examples in the whole batch.

    Returns:
      float32 [b, n], how often each key counts: K ones per row and otherwise zeros. If there
      are m < K candidates, each of them counts K / m times.
    """
    pool = jnp.sum(other, axis=1, keepdims=True)
    repeats = jnp.maximum(negatives / jnp.maximum(pool, 1), 1.0)
    if negatives >= other.shape[1]:
        return jnp.where(other, repeats, 0.0)
    order_key, start_key = jax.random.split(rng)
    order = jax.random.permutation(order_key, other.shape[1])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(start_key, indices)

    def draw_start(key: Array, count: Array) -> Array:
        return jax.random.randint(key, (1,), 0, jnp.maximum(count, 1)[0])

    # The rank of each key among the candidates, in the permuted order.
    rank = (jnp.cumsum(other[:, order], axis=1) - 1)[:, jnp.argsort(order)]
    inside = (rank - jax.vmap(draw_start)(keys, pool)) % jnp.maximum(pool, 1) < negatives
    return jnp.where(other & inside, repeats, 0.0)


def _weighted_mean(scores: Array, counts: Array) -> Array:
    """The mean [b] of the scores of the positive and the negatives, weighted by their counts."""
    negatives = jnp.sum(jnp.where(counts > 0, counts * scores[:, 1:], 0.0), axis=1)
    return (scores[:, 0] + negatives) / (1 + jnp.sum(counts, axis=1))


def _update_bank(bank: Any, index: Array, whole: Any, momentum: float) -> Any:
    """Averages the batch's embeddings into the bank and normalises them to unit length."""
    # A batch that spans two epochs may contain an example twice. The result of two writes to
    # one index is undefined, but must be the same on all devices: only the first is written.
    twice = jnp.tril(index[:, None] == index[None], -1).any(axis=1)
    target = jnp.where(twice, len(next(iter(bank.values()))), index)
    return {
        side: stored.at[target].set(
            losses.l2_normalize(momentum * stored[index] + (1 - momentum) * whole[side]),
            mode="drop",
        )
        for side, stored in bank.items()
    }


def _push(state: Any, whole: Any, labels: Array) -> Any:
    """Replaces the oldest entries of the queue with the batch."""
    size = len(state["labels"])
    kept = min(size, len(labels))
    target = (state["next"] + jnp.arange(kept)) % size
    memory = {
        side: stored.at[target].set(whole[side][:kept]) for side, stored in state["memory"].items()
    }
    return {
        "memory": memory,
        "labels": state["labels"].at[target].set(labels[:kept]),
        "next": (state["next"] + kept) % size,
    }
