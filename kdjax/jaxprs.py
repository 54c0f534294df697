"""What is known of a function from its jaxpr alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jcore

from kdjax.types import Array, PyTree, UserError


def dependencies(
    function: Callable[[PyTree], PyTree], inputs: PyTree
) -> tuple[PyTree, frozenset[str]]:
    """What each array that a function returns depends on.

    Follows the uses back through the function's jaxpr, so the answer is known when a step is
    compiled and does not depend on any value. Nothing is computed.

    Returns:
      In place of each array a tree of bools, by which of the inputs' leaves it can be
      differentiated: those that are used other than through `stop_gradient`; and the names of the
      intermediate values that any of them uses in any way, where
      `jax.ad_checkpoint.checkpoint_name` has named them.
    """
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(inputs)
    jaxpr, names = closed.jaxpr, set()

    def follow(output: Any) -> PyTree:
        needed, differentiable = {id(output)}, {id(output)}
        for equation in reversed(jaxpr.eqns):
            results, name = set(map(id, equation.outvars)), equation.primitive.name
            if needed & results:
                needed.update(map(id, equation.invars))
                if name == "name":
                    names.add(equation.params["name"])
            if differentiable & results and name != "stop_gradient":
                differentiable.update(map(id, equation.invars))
        trained = [id(var) in differentiable for var in jaxpr.invars]
        return jax.tree.unflatten(jax.tree.structure(inputs), trained)

    followed = [follow(output) for output in jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(outputs), followed), frozenset(names)


def split_at(
    function: Callable[[PyTree], tuple[Array, Array]], inputs: PyTree
) -> tuple[Array, Callable[[Array], Array]]:
    """Cuts a function at an intermediate value, with respect to which it can be differentiated.

    Args:
      function: returns a result and the intermediate value that it is computed from.
      inputs: its argument; also the constants of the second part.

    Returns:
      The intermediate value, and the function from it to the result.

    Raises:
      UserError: if nothing is computed from the intermediate value.
    """
    closed = jax.make_jaxpr(function)(inputs)
    jaxpr = closed.jaxpr
    result, intermediate = jaxpr.outvars
    leaves = jax.tree.leaves(inputs)
    rest = [equation for equation in jaxpr.eqns if equation.outvars != [intermediate]]
    if not any(intermediate in equation.invars for equation in rest):
        raise UserError("the network's logits are not computed from that feature map")
    value = jcore.jaxpr_as_fun(closed)(*leaves)[1]
    second = jaxpr.replace(invars=[*jaxpr.invars, intermediate], outvars=[result], eqns=rest)

    def from_intermediate(value: Array) -> Array:
        # What does not depend on the value is computed again, unless it is compiled together.
        (output,) = jcore.jaxpr_as_fun(jcore.ClosedJaxpr(second, closed.consts))(*leaves, value)
        return output

    return value, from_intermediate
