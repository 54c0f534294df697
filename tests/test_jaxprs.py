import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from kdjax import jaxprs


def test_what_a_function_depends_on_is_found_in_its_jaxpr():
    inputs = {"used": jnp.ones(2), "unused": jnp.ones(2), "zero": jnp.zeros(2), "constant": 1.0}
    inputs["stopped"] = jnp.ones(2)

    def function(x):
        jnp.sum(x["unused"])
        zeros = jnp.zeros_like(x["constant"]) * jax.lax.stop_gradient(x["stopped"])
        return jnp.sum(jax.jit(jnp.multiply)(x["used"], x["zero"]) + zeros)

    expected = {
        "used": True, "unused": False, "zero": True, "constant": False, "stopped": False,
    }  # fmt: skip
    assert jaxprs.dependencies(function, inputs) == (expected, frozenset())


def test_each_array_that_a_function_returns_depends_on_its_own_inputs():
    inputs = {"a": jnp.ones(2), "b": jnp.ones(2), "both": jnp.ones(2)}

    def function(x):
        return jnp.sum(x["a"] * x["both"]), {"second": jnp.sum(x["b"] + x["both"])}

    first, rest = jaxprs.dependencies(function, inputs)[0]
    assert first == {"a": True, "b": False, "both": True}
    assert rest == {"second": {"a": False, "b": True, "both": True}}


def test_named_values_that_a_function_depends_on_are_found():
    def function(x):
        named = {name: checkpoint_name(x[name], name) for name in x}
        jnp.sum(named["unused"])
        return jnp.sum(jax.lax.stop_gradient(named["used"]) * 2)

    inputs = {"used": jnp.ones(2), "unused": jnp.ones(2)}
    assert jaxprs.dependencies(function, inputs)[1] == {"used"}
