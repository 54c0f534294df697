"""The moments of what enters a network's batch norms."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from kdjax import parallel
from kdjax.models.batch_norm import BatchNorm
from kdjax.types import Array, Network, Outputs, Variables


class Moments(NamedTuple):
    """Moments of the inputs of a batch norm, over the whole batch and all positions.

    Attributes:
      mean: float32 [c].
      variance: float32 [c], the biased one.
      running_mean: [c], the batch norm's running average.
      running_variance: [c], likewise.
    """

    mean: Array
    variance: Array
    running_mean: Array
    running_variance: Array


def evaluate_with_moments(
    network: Network, variables: Variables, images: Array, axis_name: str | None = None
) -> tuple[Outputs, tuple[Moments, ...]]:
    """A network's outputs in evaluation mode, and the moments at each of its batch norms.

    Args:
      network: any network; its batch norms are kdjax's or Flax's.
      variables: `{"params", "batch_stats"}`.
      images: [b, h, w, c].
      axis_name: the mapped axis over which the batch is sharded, or None.

    Returns:
      The outputs, and the moments in the order in which the batch norms are applied.
    """
    sums: list[tuple[Array, Array]] = []
    averages: list[tuple[Array, Array]] = []

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        layer: Any = context.module
        if isinstance(layer, BatchNorm | nn.BatchNorm) and context.method_name == "__call__":
            x = args[0].astype(jnp.promote_types(args[0].dtype, jnp.float32))
            axes = tuple(range(x.ndim - 1))
            sums.append((jnp.mean(x, axes), jnp.mean(jnp.square(x), axes)))
            mean: Any = layer.get_variable("batch_stats", "mean")
            averages.append((mean, layer.get_variable("batch_stats", "var")))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        outputs = network.evaluate(variables, images)
    # Rounding may make the difference negative.
    return outputs, tuple(
        Moments(mean, jnp.maximum(0, square - jnp.square(mean)), *running)
        for (mean, square), running in zip(parallel.pmean(sums, axis_name), averages, strict=True)
    )
