import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import make_context, make_outputs

from kdjax.distillers import adapters, taps
from kdjax.types import UserError


@pytest.mark.parametrize(
    ("source", "target", "kernel", "parameters"),
    [
        # RepDistiller's layers: kernel * in * out + bias, and scale and bias of batch norm.
        ((16, 16, 3), (8, 8, 5), (3, 3, 3, 5), 3 * 3 * 3 * 5 + 5 + 10),
        ((8, 8, 3), (16, 16, 5), (4, 4, 3, 5), 4 * 4 * 3 * 5 + 5 + 10),
        ((8, 8, 3), (8, 8, 5), (1, 1, 3, 5), 3 * 5 + 5 + 10),
        ((10, 10, 3), (7, 7, 5), (4, 4, 3, 5), 4 * 4 * 3 * 5 + 5 + 10),
        ((32, 32, 3), (8, 8, 5), (5, 5, 3, 5), 5 * 5 * 3 * 5 + 5 + 10),
        ((4, 4, 3), (16, 16, 5), (8, 8, 3, 5), 8 * 8 * 3 * 5 + 5 + 10),
        ((10, 10, 3), (16, 16, 5), (7, 7, 3, 5), 7 * 7 * 3 * 5 + 5 + 10),
    ],
)
def test_a_regressor_reaches_every_target_size(source, target, kernel, parameters):
    module = adapters.Regressor(target=target)
    x = jax.random.normal(jax.random.key(0), (2, *source))
    variables = adapters.init_adapters(jax.random.key(1), {"a": (module, x)})
    (conv,) = (p["kernel"] for p in variables["params"]["a"].values() if "kernel" in p)
    assert conv.shape == kernel
    assert sum(p.size for p in jax.tree.leaves(variables["params"])) == parameters
    outputs, state = adapters.apply_adapters(variables, {"a": (module, x)})
    assert outputs["a"].shape == (2, *target)
    assert jnp.all(outputs["a"] >= 0)
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, state, variables["state"]))


def test_an_upsampling_regressor_is_the_adjoint_of_a_strided_convolution():
    """As PyTorch's ConvTranspose2d(4, 2, 1) is the adjoint of its Conv2d(4, 2, 1)."""
    up = adapters.Regressor(target=(8, 8, 1), relu=False)
    variables = adapters.init_adapters(jax.random.key(0), {"a": (up, jnp.zeros((1, 4, 4, 1)))})
    (name,) = (n for n, p in variables["params"]["a"].items() if "kernel" in p)
    kernel = variables["params"]["a"][name]["kernel"]

    def conv(x):
        padding = [(1, 1), (1, 1)]
        return jax.lax.conv_general_dilated(
            x, kernel[::-1, ::-1], (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 1))
    (adjoint,) = jax.linear_transpose(conv, jnp.zeros((1, 8, 8, 1)))(x)
    bias = variables["params"]["a"][name]["bias"]
    expected = adjoint + bias[None, None, None]
    expected = (expected - expected.mean()) / jnp.sqrt(expected.var() + 1e-5)
    outputs, _ = adapters.apply_adapters(variables, {"a": (up, x)})
    np.testing.assert_allclose(outputs["a"], expected, atol=1e-4)


def test_a_regressor_cannot_enlarge_one_dimension_and_reduce_the_other():
    with pytest.raises(UserError, match=r"no regressor from \(4, 8\) to \(8, 4\) pixels"):
        adapters.init_adapters(
            jax.random.key(0),
            {"a": (adapters.Regressor(target=(8, 4, 1)), jnp.zeros((1, 4, 8, 1)))},
        )


def test_only_maps_with_different_channels_get_an_adapter():
    context = make_context(
        make_outputs(a=(4, 4, 3), b=(4, 4, 6)), make_outputs(a=(4, 4, 5), b=(4, 4, 6))
    )
    pairs = taps.maps("x", context, ("a", "b"))
    built = adapters.equal_channels(pairs, context)
    variables = adapters.init_adapters(jax.random.key(0), built)
    assert list(variables["params"]) == ["a"]
    outputs, _ = adapters.apply_adapters(variables, built)
    assert {name: x.shape[-1] for name, x in outputs.items()} == {"a": 5, "b": 6}


def test_adapters_compute_in_the_dtype_of_their_input_and_keep_float32_parameters():
    x = jnp.ones((2, 4, 4, 3), jnp.bfloat16)
    context = make_context(make_outputs(a=(4, 4, 3)), make_outputs(a=(4, 4, 3)))
    module = adapters.Regressor.for_input(x, context, target=(4, 4, 5))
    variables = adapters.init_adapters(jax.random.key(0), {"a": (module, x)})
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    outputs, _ = adapters.apply_adapters(variables, {"a": (module, x)})
    assert outputs["a"].dtype == jnp.bfloat16
