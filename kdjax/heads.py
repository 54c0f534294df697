"""Heads: what of a network makes its logits."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kdjax import train
from kdjax.types import Array, Context, Network, Outputs, PyTree, UserError, Variables


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


def pooled_map(whose: str, outputs: Outputs) -> Array:
    """The map [b, h, w, c] whose mean over positions a network's classifier takes.

    Args:
      whose: the network, for the error message, such as "method 'sdd': the student".
      outputs: of the network.

    Raises:
      UserError: if there is none.
    """
    if "pre_pool" not in outputs.taps:
        raise UserError(
            f"{whose} has no tap 'pre_pool': choose a network that ends in global average pooling "
            "and a linear layer"
        )
    return outputs.taps["pre_pool"]


def linear(whose: str, variables: Variables, shape: tuple[int, int]) -> tuple[Array, Array]:
    """The kernel and the bias of the linear layer that makes a network's logits.

    Args:
      whose: the network, for the error message.
      variables: of the network.
      shape: (d, k): of its `pre_logits` and of its logits.

    Returns:
      [d, k] and [k]; the bias of a layer without one is 0.

    Raises:
      UserError: if there is not exactly one linear layer of that shape.
    """
    found = list(_linear_layers(variables["params"], tuple(shape)))
    if len(found) != 1:
        raise UserError(
            f"{whose} has {len(found)} linear layers from {shape[0]} features to {shape[1]} "
            "classes: its classifier must be the only one"
        )
    return found[0]["kernel"], found[0].get("bias", jnp.zeros(shape[1]))


def _linear_layers(params: PyTree, shape: tuple[int, ...]) -> Iterator[dict[str, Array]]:
    for value in params.values():
        if isinstance(value, Mapping):
            if getattr(value.get("kernel"), "shape", None) == shape:
                yield dict(value)
            else:
                yield from _linear_layers(value, shape)


class LinearHead(NamedTuple):
    """The last map of a network, and the linear layer that makes logits of its mean.

    Attributes:
      feature_map: [b, h, w, d].
      kernel: [d, k].
      bias: [k].
    """

    feature_map: Array
    kernel: Array
    bias: Array


def linear_heads(method: str, context: Context) -> tuple[LinearHead, LinearHead]:
    """The heads of student and teacher; no gradient reaches the teacher's.

    Args:
      method: name of the method, for error messages.
      context: a context with exactly one teacher.

    Raises:
      UserError: if a network does not end in global average pooling and a linear layer.
    """
    found = []
    for role, outputs, variables in (
        ("student", context.student, context.student_variables),
        ("teacher", context.teacher, context.teacher_variables[0]),
    ):
        whose = f"method {method!r}: the {role}"
        feature_map = pooled_map(whose, outputs)
        shape = feature_map.shape[-1], outputs.logits.shape[-1]
        found.append(LinearHead(feature_map, *linear(whose, variables, shape)))
    student, teacher = found
    return student, jax.lax.stop_gradient(teacher)
