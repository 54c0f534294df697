"""Inputs, reference and inspection shared by the tests of the convolution algorithms."""

import jax
from jax import lax

from kdjax.models.convolution import convolve


def reference(images, kernel, stride=1):
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


def convolved(images, kernel, stride=1):
    return convolve(
        images,
        kernel,
        (stride, stride),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def arrays(shape, c, d):
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (*shape, c))
    kernel = jax.random.normal(keys[1], (3, 3, c, d))
    grad = jax.random.normal(keys[2], (*shape, d))
    return images, kernel, grad


def kernels(function, *args):
    """Shapes of the kernels of all convolutions that a function traces to."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    found = []

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                found.append(equation.invars[1].aval.shape)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    look(inner)

    look(jaxpr)
    return found
