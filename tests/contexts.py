"""Contexts of distillation methods, shared by the tests of taps and of adapters."""

import jax
import jax.numpy as jnp

from kdjax.types import Context, Outputs


def make_outputs(**shapes):
    """The outputs of a network for two images, with zeros in taps of these shapes."""
    return Outputs(
        jnp.zeros((2, 3)), {name: jnp.zeros((2, *shape)) for name, shape in shapes.items()}
    )


def make_context(student, teacher):
    """The context of a step on two images."""
    return Context(
        student=student,
        teachers=(teacher,),
        labels=jnp.zeros((2, 3)),
        index=jnp.arange(2),
        step=jnp.int32(0),
        rng=jax.random.key(0),
    )
