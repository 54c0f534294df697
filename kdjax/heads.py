"""Heads: what of a network makes its logits, for fine-tuning on other classes."""

import jax

from kdjax import train
from kdjax.types import Network, Variables


def with_own_head(
    network: Network, given: Variables, own: Variables, image_shape: tuple[int, int, int]
) -> Variables:
    """The variables `given`, with the head of `own`.

    The head is every array whose shape depends on the number of classes.

    Args:
      network: that is going to have the variables.
      given: variables of the same model, whose number of classes may be another.
      own: variables of `network`.
      image_shape: (h, w, c) of the images as the network sees them.

    Raises:
      ValueError: if the structures differ.
    """
    module = network.module

    def shapes(num_classes: int) -> Variables:
        other = network._replace(module=module.clone(num_classes=num_classes))
        return train.abstract_outputs(other, image_shape)[1]

    chosen: Variables = jax.tree.map(
        lambda a, b, theirs, ours: theirs if a.shape == b.shape else ours,
        shapes(module.num_classes),
        shapes(module.num_classes + 1),
        given,
        own,
    )
    return chosen
