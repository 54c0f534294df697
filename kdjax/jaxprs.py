"""What is known of a function from its jaxpr alone."""

from collections.abc import Callable

import jax

from kdjax.types import Array, PyTree


def inputs_used(function: Callable[[PyTree], Array], inputs: PyTree) -> PyTree:
    """Which of the inputs' leaves a function depends on, as a tree of bools.

    Follows the uses back through the function's jaxpr, so the answer is known when a step is
    compiled and does not depend on any value. Nothing is computed.
    """
    jaxpr = jax.make_jaxpr(function)(inputs).jaxpr
    needed = set(map(id, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if any(id(var) in needed for var in equation.outvars):
            needed.update(map(id, equation.invars))
    used = [id(var) in needed for var in jaxpr.invars]
    return jax.tree.unflatten(jax.tree.structure(inputs), used)
