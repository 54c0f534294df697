"""Properties that all networks share: parameter counts, taps, dtypes, image sizes, errors.

Every network of kdjax.models is tested. Parameter counts are in the tables below, or in the
test file of the network's own module.
"""

import functools
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import UserError, models
from kdjax.models.layers import Model

# Parameters at 100 classes: from the code of RepDistiller, torchvision and gnosis; the others
# from Table 1 of "Understanding Teacher-Student Architectural Choices" (9.80 M, 1.48 M; its
# 1.61 M for V3-small excludes batch norm) and pytorch-cifar-models. Those of vgg*_plain are those of
# torchvision's VGG less its classifier (123,642,856), and 2 x 262,656 + 51,300 of the linear
# layers.
COUNTS_100 = {
    # Of BiT and MobileNet V1: 25,549,352, 44,541,480, 236,335,208 and 4,231,976 at 1000 classes.
    "bit_r50x1": 25_549_352 - 900 * 2049,
    "bit_r101x1": 44_541_480 - 900 * 2049,
    "bit_r152x2": 236_335_208 - 900 * 4097,
    "mobilenetv1": 4_231_976 - 900 * 1025,
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet50": 23_705_252,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "vgg11_bn": 9_802_596,
    "mobilenetv2_half": 812_836,
    "mobilenetv2_x0_75": 1_483_524,
    "mobilenetv3_small": 1_620_356,
    "shufflenetv1": 949_258,
    "shufflenetv2": 1_355_528,
    "preresnet20": 278_132,
    "preresnet56": 613_556,
    "preresnet110": 1_169_972,
    "vgg11_plain": 9_220_480 + 576_612,
    "vgg13_plain": 9_404_992 + 576_612,
    "vgg16_plain": 14_714_688 + 576_612,
    "vgg19_plain": 20_024_384 + 576_612,
}
# Parameters at 10 classes: from Table 2 of the CIFAR-10 survey, comments in its repository,
# RepDistiller, and papers on adversarial training (WRN-34-10).
COUNTS_10 = {
    "distiller_resnet8": 89_322,
    "distiller_resnet14": 186_538,
    "distiller_resnet20": 283_754,
    "distiller_resnet26": 380_970,
    "distiller_resnet32": 478_186,
    "distiller_resnet44": 672_618,
    "distiller_resnet56": 867_050,
    "distiller_resnet10": 4_903_242,
    "distiller_resnet18": 11_173_962,
    "distiller_resnet34": 21_282_122,
    "distiller_resnet50": 23_520_842,
    "wrn_10_1": 77_850,
    "wrn_16_4": 2_748_890,
    "wrn_34_10": 46_160_474,
    "resnet8": 78_042,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "lenet": 62_006,
}
# Millions of parameters at 100 classes, from pytorch-cifar-models' table for CIFAR-100.
MILLIONS_100 = {
    "vgg13_bn": 9.99,
    "vgg16_bn": 15.30,
    "vgg19_bn": 20.61,
    "mobilenetv2_x0_5": 0.82,
    "mobilenetv2_x1_0": 2.35,
    "mobilenetv2_x1_4": 4.50,
    "shufflenetv2_x0_5": 0.44,
    "shufflenetv2_x1_0": 1.36,
    "shufflenetv2_x1_5": 2.58,
    "shufflenetv2_x2_0": 5.55,
}
# Parameters for 28x28 images of one channel and 10 classes: LeNet-5's, and those that summaries
# of PyTorch's MNIST example print.
COUNTS_MNIST = {"lenet5": 61_706, "mnist_cnn": 1_199_882}

COUNTED = COUNTS_100.keys() | COUNTS_10.keys() | MILLIONS_100.keys() | COUNTS_MNIST.keys()


def is_classifier(name):
    try:
        return isinstance(models.create(name, num_classes=10), Model)
    except UserError:
        return False


# Of the WRNs, which differ only in depth and width, a few.
CLASSIFIERS = [
    name
    for name in models.names()
    if is_classifier(name) and (not name.startswith("wrn") or name in COUNTED)
]


@functools.cache
def traced(name, resolution=32, **attributes):
    """Abstract outputs and variables for one image, and the taps in order of computation."""
    model = models.create(name, **({"num_classes": 100} | attributes))
    order = []

    def run(images):
        outputs, variables = model.init_with_output(jax.random.key(0), images)
        order.extend(outputs.taps)
        return outputs, variables

    return *jax.eval_shape(run, model.example(resolution)), order


def count(variables):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("name", COUNTS_100)
def test_parameter_count_with_100_classes(name):
    assert count(traced(name)[1]) == COUNTS_100[name]


@pytest.mark.parametrize("name", COUNTS_10)
def test_parameter_count_with_10_classes(name):
    # The traced networks have 100 classes: 90 more rows in the last layer.
    outputs, variables, _ = traced(name)
    assert count(variables) - 90 * (outputs.taps["pre_logits"].shape[1] + 1) == COUNTS_10[name]


@pytest.mark.parametrize("name", MILLIONS_100)
def test_parameter_count_in_millions(name):
    assert count(traced(name)[1]) / 1e6 == pytest.approx(MILLIONS_100[name], abs=0.00501)


@pytest.mark.parametrize("name", COUNTS_MNIST)
def test_parameter_count_for_mnist(name):
    assert count(traced(name, 28, num_classes=10, in_channels=1)[1]) == COUNTS_MNIST[name]


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("preresnet20", {"norm": "layer"}),
        ("vgg16_plain", {}),
        ("lenet", {}),
        ("lenet5", {}),
        ("mnist_cnn", {}),
    ],
)
def test_networks_without_batch_norm_have_no_batch_statistics(name, attributes):
    assert traced(name, **attributes)[1].keys() == {"params"}


def test_parameter_count_with_an_imagenet_stem():
    # From torchvision's documentation, at 1000 classes.
    counts = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}
    for name, expected in counts.items():
        assert count(traced(name, num_classes=1000, stem="imagenet")[1]) == expected


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_model_is_counted_or_its_module_has_a_test_file(name):
    module = type(models.create(name, num_classes=10)).__module__.rpartition(".")[2]
    assert name in COUNTED or (Path(__file__).parent / f"test_{module}.py").exists()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_taps_and_variables(name):
    outputs, variables, order = traced(name)
    taps = outputs.taps
    further = {"stem_conv", "stem_pre"} & set(taps)
    assert bool(further) == name.startswith("distiller_")
    not_pooled = ("distiller_", "lenet", "mnist_cnn", "mobilenetv3"), ("_bn", "_plain")
    pooled = not (name.startswith(not_pooled[0]) or name.endswith(not_pooled[1]))
    assert ("pre_pool" in taps) == pooled
    order = [tap for tap in order if tap not in further | {"pre_pool"}]
    stages = len(order) // 2 - 1
    names = [f"stage{k}{end}" for k in range(1, stages + 1) for end in ("", "_pre")]
    assert sorted(order) == sorted(["stem", *names, "pre_logits"])
    assert (order[0], order[-1]) == ("stem", "pre_logits") or name in ("lenet", *COUNTS_MNIST)
    assert sorted(n for n in order if n[-1].isdigit()) == [n for n in order if n[-1].isdigit()]
    sizes = []
    for k in range(1, stages + 1):
        assert taps[f"stage{k}"].shape == taps[f"stage{k}_pre"].shape
        _, height, width, _ = taps[f"stage{k}"].shape
        assert height == width
        sizes.append(height)
    assert sizes == sorted(sizes, reverse=True)
    assert len(taps["pre_logits"].shape) == 2
    assert outputs.logits.shape == (1, 100)
    assert outputs.logits.dtype == jnp.float32
    assert variables.keys() <= {"params", "batch_stats"}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


# The first network of each class: the shallowest or narrowest.
FAMILIES = list(
    {
        type(models.create(name, num_classes=10)): name
        for name in sorted(CLASSIFIERS, key=lambda name: (len(name), name), reverse=True)
    }.values()
)


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_with_other_image_sizes_and_channels(name):
    model = models.create(name, num_classes=7, in_channels=1, dtype=jnp.bfloat16)
    shape = jax.ShapeDtypeStruct((2, 45, 36, 1), jnp.float32)
    outputs, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x), shape
    )
    assert outputs.logits.shape == (2, 7)
    assert outputs.logits.dtype == jnp.float32
    assert {tap.dtype for tap in outputs.taps.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def trace_training(name):
    """The variables, and a traced training step that has a key for dropout."""
    model = models.create(name, num_classes=100)
    variables = traced(name)[1]

    def train(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[1]

    return variables, jax.jit(train).trace(variables, model.example())


@pytest.mark.parametrize("name", FAMILIES)
def test_training_updates_the_batch_statistics_and_nothing_else(name):
    variables, step = trace_training(name)
    statistics = {k: v for k, v in variables.items() if k == "batch_stats"}
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), statistics)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), step.out_info) == shapes


@pytest.mark.parametrize(
    ("name", "dropout"),
    [
        ("resnet8", False),
        ("wrn_10_1", False),
        ("preresnet20", False),
        ("vgg8", False),
        ("vgg11_bn", True),
        ("vgg11_plain", True),
        ("bit_r50x1", False),
        ("mobilenetv1", False),
        ("mobilenetv2_half", False),
        ("mobilenetv2_x0_5", True),
        ("mobilenetv3_small", True),
        ("shufflenetv1", False),
        ("shufflenetv2", False),
        ("lenet", False),
        ("mnist_cnn", True),
    ],
)
def test_dropout_is_used_where_the_original_uses_it(name, dropout):
    assert ("random_bits" in str(trace_training(name)[1].jaxpr)) == dropout


@pytest.mark.parametrize(
    ("name", "height", "smallest"),
    [
        ("vgg8", 7, 8),
        ("vgg16_bn", 31, 32),
        ("vgg16_plain", 31, 32),
        ("lenet", 15, 16),
        ("lenet5", 11, 12),
        ("mnist_cnn", 5, 6),
        ("distiller_resnet8", 12, 13),
    ],
)
def test_images_that_are_too_small_are_refused(name, height, smallest):
    model = models.create(name, num_classes=10)

    def shape(size):
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], images)

    with pytest.raises(UserError, match=rf"{height}x{height}; .* {smallest}x{smallest} and larger"):
        shape(height)
    assert 0 not in shape(smallest).taps["pre_logits"].shape


def test_images_with_the_wrong_channels_are_refused():
    model = models.create("resnet8", num_classes=10)
    with pytest.raises(UserError, match=r"\(1, 32, 32, 1\); .*\[batch, height, width, 3\]"):
        jax.eval_shape(
            lambda x: model.init(jax.random.key(0), x), jax.ShapeDtypeStruct((1, 32, 32, 1), "f4")
        )


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("resnet21", {"num_classes": 10}, "unknown model 'resnet21': did you mean .*resnet20"),
        ("resnet20", {}, "resnet20 needs num_classes"),
        ("resnet20", {"num_classes": 0}, "num_classes=0 is not a positive integer"),
        ("resnet20", {"num_classes": 10, "in_channels": "3"}, "in_channels='3' is not"),
        ("resnet20", {"num_classes": 10, "stem": "imagenet"}, "no attribute stem: choose from"),
        (
            "resnet20",
            {"num_classes": 10, "blocks": [3, 3]},
            "is not a sequence of 3 positive integers",
        ),
        ("resnet20", {"num_classes": 10, "bottleneck": 1}, "bottleneck=1 is not a bool"),
        ("resnet18", {"num_classes": 10, "stem": 3}, "stem=3 is not a str"),
        ("wrn_16_1", {"num_classes": True}, "num_classes=True is not a positive integer"),
        (
            "mobilenetv2_half",
            {"num_classes": 10, "factor": -1},
            "factor=-1 is not a positive number",
        ),
        ("shufflenetv2", {"num_classes": 10, "names": "fc"}, "names='fc' is not a LayerNames"),
        ("generator", {"num_classes": 10}, "generator has no attribute num_classes: choose from"),
        ("generator", {"image_shape": (32, 32)}, "is not a sequence of 3 positive integers"),
    ],
)
def test_mistakes_in_create_are_one_line_errors(name, attributes, message):
    with pytest.raises(UserError, match=message) as error:
        models.create(name, **attributes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small"])
def test_an_unknown_stem_is_refused(name):
    with pytest.raises(UserError, match=r"unknown stem='large': choose"):
        traced(name, stem="large")


@pytest.mark.parametrize(
    ("name", "attribute", "allowed"),
    [("lenet5", "pool", "max, average"), ("preresnet20", "norm", "batch, layer")],
)
def test_an_unknown_pool_or_norm_is_refused(name, attribute, allowed):
    with pytest.raises(UserError, match=f"^unknown {attribute} 'large': choose from {allowed}"):
        traced(name, **{attribute: "large"})


def test_jit_equals_eager(compiled, random_variables):
    model = models.create("lenet", num_classes=10)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = random_variables(model)
    eager = model.apply(variables, images).logits
    np.testing.assert_allclose(compiled(model.apply, variables, images).logits, eager, rtol=1e-4)


def test_batch_norm_is_synchronised_over_a_mapped_axis(compiled, random_variables):
    """Over a mapped axis, the statistics are those of the whole batch."""
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    alone = models.create("resnet8", num_classes=10)
    together = models.create("resnet8", num_classes=10, axis_name="devices")
    variables = random_variables(alone)

    def train(model, images):
        outputs, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return outputs.logits, updates

    logits, updates = compiled(functools.partial(train, alone), images)
    halves = images.reshape(2, 2, 8, 8, 3)
    mapped = jax.vmap(functools.partial(train, together), axis_name="devices")
    shard_logits, shard_updates = compiled(mapped, halves)
    np.testing.assert_allclose(shard_logits.reshape(4, 10), logits, rtol=1e-3, atol=1e-4)
    jax.tree.map(
        lambda shards, whole: np.testing.assert_allclose(shards[1], whole, rtol=1e-3, atol=1e-5),
        shard_updates,
        updates,
    )


class Dropping(Model):
    @nn.compact
    def __call__(self, images, train=False):
        return self.drop(images, 0.5, train)


def test_the_surveys_stem_before_batch_norm_and_relu(compiled):
    """With initial statistics, batch norm divides by sqrt(1 + 1e-5) alone."""
    module = models.create("distiller_resnet8", num_classes=10)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    taps = compiled(lambda x: module.init_with_output(jax.random.key(1), x)[0], images).taps
    np.testing.assert_allclose(taps["stem_pre"], taps["stem_conv"] / np.sqrt(1 + 1e-5), atol=1e-6)
    np.testing.assert_array_equal(taps["stem"], np.maximum(taps["stem_pre"], 0))
    assert np.any(taps["stem_pre"] < 0)


def test_dropout_needs_training_mode_and_a_key():
    model, images = Dropping(num_classes=1), jnp.ones((2, 4, 4, 3))
    rngs = {"dropout": jax.random.key(0)}
    dropped = model.apply({}, images, train=True, rngs=rngs)
    assert set(np.unique(dropped)) == {0, 2}
    np.testing.assert_array_equal(model.apply({}, images, train=True), images)
    np.testing.assert_array_equal(model.apply({}, images, train=False, rngs=rngs), images)


def test_initial_scale_of_the_weights(compiled):
    """He's normal by fan-out in RepDistiller's networks, PyTorch's default in the survey's."""

    def params(name):
        model = models.create(name, num_classes=10)
        return compiled(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]

    kernel = params("resnet8")["layer3_0_conv2"]["kernel"]
    assert np.std(kernel) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    uniform = params("distiller_resnet8")
    kernel = uniform["layer3_0_conv2"]["kernel"]
    assert np.abs(kernel).max() == pytest.approx(1 / math.sqrt(9 * 64), rel=0.01)
    kernel = uniform["linear"]["kernel"]
    assert np.abs(kernel).max() == pytest.approx(1 / math.sqrt(kernel.shape[0]), rel=0.02)
