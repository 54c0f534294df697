"""The contrastive loss of CRD."""

import jax.numpy as jnp
from jax import Array


def crd_nce(
    scores: Array, num_examples: int | Array, *, counts: Array | None = None, eps: float = 1e-7
) -> Array:
    """Noise-contrastive estimation of CRD (Tian et al. 2020), per example.

    -log h(positive) - sum log(1 - h(negative)) with h(s) = s / (s + K / N + eps), as in
    RepDistiller. K, the number of negatives, is the sum of their counts.

    Args:
      scores: [b, 1 + m], exp(similarity / temperature) / Z; column 0 holds the positives.
      num_examples: N, the size of the memory, from which the noise is drawn uniformly.
      counts: [b, m], how often each negative counts; 1 by default, 0 excludes it.
      eps: keeps the logarithms finite.

    Returns:
      float32 [b], in nats.
    """
    scores = scores.astype(jnp.float32)
    positive, negatives = scores[:, 0], scores[:, 1:]
    counts = jnp.ones_like(negatives) if counts is None else counts
    noise = jnp.sum(counts, axis=1) / num_examples
    total = noise[:, None] + eps
    # Without negatives the positive has probability one.
    data = jnp.where(noise > 0, jnp.log(positive / (positive + noise + eps)), 0.0)
    # log1p is exact for small scores.
    other = jnp.log(noise[:, None] / total) - jnp.log1p(negatives / total)
    return -data - jnp.sum(jnp.where(counts > 0, counts * other, 0.0), axis=1)
