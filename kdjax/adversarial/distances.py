"""Distances between the predictions of student and teacher, from logits [b, k] to [b]."""

from typing import Protocol

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.types import Array


class Distance(Protocol):
    """A distance between two sets of logits [b, k], for each example, [b]."""

    def __call__(self, student: Array, teacher: Array) -> Array: ...


def _kl(student: Array, teacher: Array) -> Array:
    return losses.kd(student, teacher, temperature=1.0)


def _kl_class_mean(student: Array, teacher: Array) -> Array:
    return _kl(student, teacher) / student.shape[-1]


def _wasserstein(student: Array, teacher: Array) -> Array:
    return jnp.sum(jnp.abs(jax.nn.softmax(student) - jax.nn.softmax(teacher)), axis=-1) / 2


def _l2(student: Array, teacher: Array) -> Array:
    return jnp.mean(jnp.square(student - teacher), axis=-1)


#: What the generator maximises and the student minimises:
#:
#: - `kl`: KL(teacher || student) in nats, as in Micaelli & Storkey 2019.
#: - `kl_class_mean`: `kl` divided by k, which is what PyTorch's default reduction makes of it
#:   in the paper's published code.
#: - `l2`: mean squared difference of the logits.
#: - `wasserstein`: first Wasserstein distance between the softmaxes where all classes are
#:   equally far from each other, since classes have no order. It equals the total variation.
DISTANCES: dict[str, Distance] = {
    "kl": _kl,
    "kl_class_mean": _kl_class_mean,
    "l2": _l2,
    "wasserstein": _wasserstein,
}
