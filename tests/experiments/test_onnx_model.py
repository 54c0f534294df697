"""ONNX models compute what JAX computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import Classifier, Network, UserError, models

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from experiments import onnx_model

# [b, h, w, c]
IMAGES = jax.ShapeDtypeStruct((1, 6, 4, 3), jnp.float32)


def run(model, images):
    """The output of an ONNX model."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": np.asarray(images)})[0]


def part(x, size, axis):
    return jax.lax.slice_in_dim(x, 0, size, axis=axis)


def window(operator, start, size, **kwargs):
    def pool(x):
        return jax.lax.reduce_window(x, start, operator, (1, *size, 1), **kwargs)

    return pool


def convolution(kernel, strides, padding, **kwargs):
    def convolve(x):
        weights = jnp.arange(np.prod(kernel), dtype=jnp.float32).reshape(kernel) / 100
        return jax.lax.conv_general_dilated(
            x, weights, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **kwargs
        )

    return convolve


FUNCTIONS = {
    "arithmetic": lambda x: (2 * x - x / 3) ** 3 + jnp.square(x) * jnp.abs(-x),
    "roots": lambda x: jax.lax.rsqrt(x + 3) + jnp.sqrt(x + 2) + jnp.exp(x) * jnp.tanh(x),
    "activations": lambda x: jax.nn.silu(x) + jax.nn.hard_swish(x) + jax.nn.gelu(x) + jax.nn.elu(x) + jax.nn.softplus(x),
    "clip": lambda x: jnp.clip(x, -0.5, 0.5) + jax.nn.relu6(4 * x),
    "relu": lambda x: jnp.where(x <= 0, 0, x) + jnp.where(x < 0, x, 1.0),
    "softmax": lambda x: jax.nn.softmax(x.mean((1, 2))),
    "reductions": lambda x: x.sum(1).max(1) - x.min((1, 2)) + x.mean((1, 2)),
    "reshape": lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1),
    "rows": lambda x: x.reshape(-1, 3) @ jnp.ones((3, 2)),
    "slices": lambda x: jax.lax.slice_in_dim(x, 1, 5, 2, axis=1) + part(part(x, 2, 1), 2, 1),
    "split": lambda x: jnp.concatenate(jnp.split(x, [1, 3], axis=1)[::-1], 1),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=2.0),
    "broadcast": lambda x: jnp.concatenate([x, jnp.broadcast_to(jnp.arange(3.0), x.shape)], 1),
    "gate": lambda x: x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True)),
    "einsum": lambda x: jnp.einsum("bhwc,bijc->bhi", x, part(x, 2, 1)),
    "contraction": lambda x: jnp.einsum("bhwc,dc->bhwd", x, jnp.ones((5, 3))),
    "maximum": window(jax.lax.max, -jnp.inf, (3, 2), window_strides=(1, 2, 1, 1), padding="SAME"),
    "average": window(jax.lax.add, 0.0, (2, 3), window_strides=(1, 2, 2, 1),
                      padding=((0, 0), (1, 1), (1, 0), (0, 0))),
    "convolution": convolution((3, 3, 3, 4), (2, 1), ((1, 0), (0, 2))),
    "dilated": convolution((2, 2, 3, 4), (1, 1), "VALID", rhs_dilation=(2, 1)),
    "depthwise": convolution((3, 3, 1, 6), (1, 1), "SAME", feature_group_count=3),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    function = FUNCTIONS[name]
    model = onnx_model.convert(function, IMAGES)
    for size in (1, 3):
        images = jax.random.normal(jax.random.key(size), (size, *IMAGES.shape[1:]))
        np.testing.assert_allclose(run(model, images), function(images), rtol=1e-5, atol=1e-5)


def test_relu_is_an_operator_of_its_own():
    model = onnx_model.convert(lambda x: jnp.where(x <= 0, 0, x), IMAGES)
    assert [node.op_type for node in model.graph.node] == ["Relu", "Identity"]
    other = onnx_model.convert(lambda x: jnp.where(x <= 0, 0, 2 * x), IMAGES)
    assert "Where" in [node.op_type for node in other.graph.node]


def test_what_depends_on_no_image_is_computed_beforehand():
    def function(x):
        return x * jnp.sqrt(jnp.ones((4, 3)) + jnp.arange(12.0).reshape(4, 3))[None, None]

    model = onnx_model.convert(function, IMAGES)
    assert [node.op_type for node in model.graph.node] == ["Mul", "Identity"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.sort(x, axis=1), "has an operation 'sort', which cannot be exported"),
        (
            window(jax.lax.max, -jnp.inf, (2, 2), window_strides=(1, 1, 1, 2), padding="VALID"),
            "reduce_window_max cannot be exported to ONNX except over height and width",
        ),
        (
            convolution((2, 2, 3, 4), (1, 1), ((0, 0), (0, 0)), lhs_dilation=(2, 2)),
            "conv_general_dilated cannot be exported to ONNX if it is transposed",
        ),
    ],
)
def test_other_operations_are_named(function, message):
    with pytest.raises(UserError, match=message) as error:
        onnx_model.convert(function, IMAGES)
    assert "\n" not in str(error.value)


FAMILIES = (
    "wrn_16_2", "resnet20", "resnet8x4", "resnet50", "preresnet20", "distiller_resnet8",
    "distiller_resnet10", "vgg8", "vgg11_bn", "vgg11_plain", "mobilenetv2_half",
    "mobilenetv2_x0_5", "mobilenetv3_small", "shufflenetv1", "shufflenetv2", "shufflenetv2_x0_5",
    "lenet", "lenet5", "mnist_cnn",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("resnet18", {"stem": "imagenet"}), ("preresnet20", {"norm": "layer"})]
)
def test_variants(name, options):
    check(name, **options)


def check(name, **options):
    module = models.create(name, num_classes=10, **options)
    network = Network(module, (0.5, 0.4, 0.3), (0.2, 0.3, 0.2))
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.jit(network.init)(jax.random.key(0), images)
    leaves, structure = jax.tree.flatten(variables.get("batch_stats", {}))
    # Batch norm that does something: means about 0, variances about 1.
    keys = jax.random.split(jax.random.key(1), max(len(leaves), 1))
    leaves = [x + 0.2 * jax.random.uniform(k, x.shape) for k, x in zip(keys, leaves, strict=False)]
    variables["batch_stats"] = jax.tree.unflatten(structure, leaves)
    classifier = Classifier(network=network, variables=variables, model=name, image_size=32)
    model = onnx_model.convert(classifier, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8))
    batch = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    expected = np.asarray(classifier(batch))
    np.testing.assert_allclose(run(model, batch), expected, atol=1e-5 * np.abs(expected).max())
