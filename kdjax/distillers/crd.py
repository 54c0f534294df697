"""Contrastive representation distillation (Tian et al. 2020)."""

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
    """Tells an image's embedding by the other network from those of other classes' images.

    Both networks' embeddings are scored against the other's memory by noise-contrastive
    estimation. Three memories:

    - `bank`, the paper's: an embedding of every training image, averaged with momentum
      after it was scored. It takes 2 N features floats; scores of a batch against all of
      it are one matrix product. Negatives are drawn without replacement among the other
      classes, in every step anew: a window, which starts at random for each example, of
      the step's permutation of the bank. Where there are fewer than `negatives`, all of
      them count equally often: the mean of drawing with replacement.
    - `queue`: the last `negatives` embeddings, for data too large for a bank.
    - `batch`: the other embeddings of the whole batch.

    In the latter two every one of another class is a negative, and the positive is the
    other network's embedding of the same view. The normalisers are set by the first
    batch and then kept, as in the authors' code.

    Taps: `pre_logits`. Trains: the student and a linear layer behind each network. State:
    memory and normalisers, the same on every device. Usual weight: 0.8 beside 1 of
    cross-entropy (RepDistiller).

    Args:
      features: dimensions of the embeddings.
      negatives: K, for an example.
      temperature: by which cosines are divided.
      momentum: of the bank, in [0, 1).
      memory: one of `MEMORIES`.

    Raises:
      UserError: on another memory, or fewer than one negative.
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
            # The authors' start: a variance of 1 / features.
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
            places = jnp.arange(len(key_labels))
            other = (key_labels[None] != known[:, None]) | (key_labels[None] < 0)
            other &= places[None] != context.index[:, None]
            counts = draw_negatives(
                context.rng, other, negatives, parallel.places(len(labels), context.axis_name)
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
            cosines = jnp.concatenate([positive, embedded[side] @ keys[opposite].T], axis=1)
            scores = jnp.exp(cosines / temperature)
            mean = _weighted_mean(scores, counts)
            first = parallel.pmean(jnp.mean(mean), context.axis_name) * len(key_labels)
            stored = state["normalizers"][i]
            normalizer = jax.lax.stop_gradient(jnp.where(stored > 0, stored, first))
            normalizers.append(normalizer)
            value += losses.crd_nce(scores / normalizer, len(key_labels), counts=counts)
        state = state | {"normalizers": jnp.stack(normalizers)}
        if memory == "bank":
            state["memory"] = _averaged(state["memory"], index, whole, momentum)
        elif memory == "queue":
            state |= _pushed(state, whole, whole_labels)
        return MethodLoss(value, state, {})

    return for_each_teacher("crd", loss, init)


# The label of a place in the queue that nothing was written to yet.
_EMPTY = -2


def draw_negatives(rng: Array, other: Array, negatives: int, places: Array) -> Array:
    """How often each key counts for each example, without replacement where there are enough.

    Args:
      rng: the step's key, the same on every device.
      other: bool [b, n], the keys that may be drawn.
      negatives: K, how many.
      places: int [b], of the examples in the whole batch.

    Returns:
      float32 [b, n], zeros and ones with K ones a row; where fewer than K may be drawn,
      each of them counts K divided by their number.
    """
    pool = jnp.sum(other, axis=1, keepdims=True)
    repeats = jnp.maximum(negatives / jnp.maximum(pool, 1), 1.0)
    if negatives >= other.shape[1]:
        return jnp.where(other, repeats, 0.0)
    order_key, start_key = jax.random.split(rng)
    order = jax.random.permutation(order_key, other.shape[1])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(start_key, places)
    start = jax.vmap(lambda key, n: jax.random.randint(key, (1,), 0, jnp.maximum(n, 1)[0]))
    # The rank of a key among those that may be drawn, in the permuted order.
    rank = (jnp.cumsum(other[:, order], axis=1) - 1)[:, jnp.argsort(order)]
    inside = (rank - start(keys, pool)) % jnp.maximum(pool, 1) < negatives
    return jnp.where(other & inside, repeats, 0.0)


def _weighted_mean(scores: Array, counts: Array) -> Array:
    """[b]: the mean of the positive's score and the negatives', each as often as it counts."""
    negatives = jnp.sum(jnp.where(counts > 0, counts * scores[:, 1:], 0.0), axis=1)
    return (scores[:, 0] + negatives) / (1 + jnp.sum(counts, axis=1))


def _averaged(bank: Any, index: Array, whole: Any, momentum: float) -> Any:
    """The bank with the batch's embeddings averaged in, of unit length."""
    # An example may be twice in a batch that spans two epochs. Which of two writes to one
    # place wins is not defined, and must be the same on all devices: the first.
    twice = jnp.tril(index[:, None] == index[None], -1).any(axis=1)
    target = jnp.where(twice, len(next(iter(bank.values()))), index)
    return {
        side: stored.at[target].set(
            losses.l2_normalize(momentum * stored[index] + (1 - momentum) * whole[side]),
            mode="drop",
        )
        for side, stored in bank.items()
    }


def _pushed(state: Any, whole: Any, labels: Array) -> Any:
    """The queue with the batch in the places of its oldest."""
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
