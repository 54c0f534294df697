import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models
from kdjax.distillers import taps
from kdjax.train import abstract_outputs
from kdjax.types import Context, Network, Outputs, UserError


def _outputs(**shapes):
    return Outputs(
        jnp.zeros((2, 3)), {name: jnp.zeros((2, *shape)) for name, shape in shapes.items()}
    )


def _context(student, teacher):
    return Context(
        student=student,
        teachers=(teacher,),
        labels=jnp.zeros((2, 3)),
        index=jnp.arange(2),
        step=jnp.int32(0),
        rng=jax.random.key(0),
    )


def _stages(count):
    maps = {f"stage{i}{pre}": (8, 8, i) for i in range(1, count + 1) for pre in ("_pre", "")}
    return _outputs(stem=(8, 8, 3), **maps, pre_logits=(5,))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3, 3, ["stage1", "stage2", "stage3"]),
        (3, 4, ["stage1", "stage2:stage3", "stage3:stage4"]),
        (4, 3, ["stage1", "stage3:stage2", "stage4:stage3"]),
        (2, 4, ["stage1:stage2", "stage2:stage4"]),
    ],
)
def test_stages_are_paired_by_depth_and_the_last_with_the_last(student, teacher, expected):
    pairs = taps.paired("x", _context(_stages(student), _stages(teacher)))
    assert list(pairs) == expected
    before = taps.paired("x", _context(_stages(student), _stages(teacher)), suffix="_pre")
    assert len(before) == min(student, teacher)
    assert all("_pre" in name for name in before)


def test_named_taps_are_the_students_and_the_teachers():
    context = _context(_stages(3), _stages(4))
    pairs = taps.paired("x", context, ("stage2", "stem:stage4"))
    assert [(s.shape[-1], t.shape[-1]) for s, t in pairs.values()] == [(2, 2), (3, 4)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("stage4",), "method 'x': the student has no tap 'stage4': choose from stem, stage1_pre"),
        (("stem:layer1",), "method 'x': the teacher has no tap 'layer1': choose from stem"),
        (("pre_logits",), r"compares feature maps .* 'pre_logits' has shape \(2, 5\)"),
    ],
)
def test_a_wrong_tap_is_one_line(names, message):
    with pytest.raises(UserError, match=message):
        taps.maps("x", _context(_stages(3), _stages(4)), names)


def test_networks_without_stages_are_refused():
    with pytest.raises(UserError, match="method 'x' needs taps"):
        taps.paired("x", _context(_outputs(stem=(8, 8, 3)), _stages(3)))


@pytest.mark.parametrize(
    ("source", "target", "kernel", "parameters"),
    [
        # Counts of RepDistiller's layers: kernel * in * out + bias, and batch norm's two.
        ((16, 16, 3), (8, 8, 5), (3, 3, 3, 5), 3 * 3 * 3 * 5 + 5 + 10),
        ((8, 8, 3), (16, 16, 5), (4, 4, 3, 5), 4 * 4 * 3 * 5 + 5 + 10),
        ((8, 8, 3), (8, 8, 5), (1, 1, 3, 5), 3 * 5 + 5 + 10),
        ((10, 10, 3), (7, 7, 5), (4, 4, 3, 5), 4 * 4 * 3 * 5 + 5 + 10),
        ((32, 32, 3), (8, 8, 5), (5, 5, 3, 5), 5 * 5 * 3 * 5 + 5 + 10),
        ((4, 4, 3), (16, 16, 5), (8, 8, 3, 5), 8 * 8 * 3 * 5 + 5 + 10),
        ((10, 10, 3), (16, 16, 5), (7, 7, 3, 5), 7 * 7 * 3 * 5 + 5 + 10),
    ],
)
def test_a_regressor_meets_any_size(source, target, kernel, parameters):
    module = taps.Regressor(target=target)
    x = jax.random.normal(jax.random.key(0), (2, *source))
    variables = taps.init_adapters(jax.random.key(1), {"a": (module, x)})
    (conv,) = (p["kernel"] for p in variables["params"]["a"].values() if "kernel" in p)
    assert conv.shape == kernel
    assert sum(p.size for p in jax.tree.leaves(variables["params"])) == parameters
    outputs, state = taps.apply_adapters(variables, {"a": (module, x)})
    assert outputs["a"].shape == (2, *target)
    assert jnp.all(outputs["a"] >= 0)
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, state, variables["state"]))


def test_a_regressor_that_enlarges_is_the_adjoint_of_one_that_shrinks():
    """PyTorch's ConvTranspose2d(4, 2, 1) is that of Conv2d(4, 2, 1): the same places meet."""
    up = taps.Regressor(target=(8, 8, 1), relu=False)
    variables = taps.init_adapters(jax.random.key(0), {"a": (up, jnp.zeros((1, 4, 4, 1)))})
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
    outputs, _ = taps.apply_adapters(variables, {"a": (up, x)})
    np.testing.assert_allclose(outputs["a"], expected, atol=1e-4)


def test_a_regressor_between_sizes_that_cross_is_refused():
    with pytest.raises(UserError, match=r"no regressor from \(4, 8\) to \(8, 4\) pixels"):
        taps.init_adapters(
            jax.random.key(0), {"a": (taps.Regressor(target=(8, 4, 1)), jnp.zeros((1, 4, 8, 1)))}
        )


def test_channels_are_adapted_only_where_they_differ():
    context = _context(_outputs(a=(4, 4, 3), b=(4, 4, 6)), _outputs(a=(4, 4, 5), b=(4, 4, 6)))
    pairs = taps.maps("x", context, ("a", "b"))
    adapters = taps.equal_channels(pairs, context)
    variables = taps.init_adapters(jax.random.key(0), adapters)
    assert list(variables["params"]) == ["a"]
    outputs, _ = taps.apply_adapters(variables, adapters)
    assert {name: x.shape[-1] for name, x in outputs.items()} == {"a": 5, "b": 6}


def test_adapters_compute_in_their_inputs_type_with_parameters_in_float32():
    x = jnp.ones((2, 4, 4, 3), jnp.bfloat16)
    context = _context(_outputs(a=(4, 4, 3)), _outputs(a=(4, 4, 3)))
    module = taps.Regressor.for_input(x, context, target=(4, 4, 5))
    variables = taps.init_adapters(jax.random.key(0), {"a": (module, x)})
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    outputs, _ = taps.apply_adapters(variables, {"a": (module, x)})
    assert outputs["a"].dtype == jnp.bfloat16


def test_taps_of_real_networks_have_the_embedding_that_feeds_the_classifier():
    network = Network(models.create("vgg8", num_classes=3), (0.5,) * 3, (0.5,) * 3)
    outputs, variables = abstract_outputs(network, (32, 32, 3))
    student, _ = taps.embeddings("x", _context(outputs, outputs))
    assert student.shape[-1] == variables["params"]["classifier"]["kernel"].shape[0]
