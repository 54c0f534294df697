"""The table of models against the papers that give such figures."""

import re

import jax
import jax.numpy as jnp
import pytest

from experiments.models import count_flops, describe, main
from kdjax import models

# Table 1 of "Understanding Teacher-Student Architectural Choices": millions of parameters
# and of multiply-adds on 32x32 images of 100 classes. Its 1.61 for V3-small leaves out the
# 2 x 6056 parameters of batch norm; its 17.6 is with stride 1 in the first two layers.
TABLE_1 = [
    ("resnet44", {}, 0.67, 97.44),
    ("vgg11_bn", {}, 9.80, 153.34),
    ("mobilenetv2_x0_75", {}, 1.48, 59.43),
    ("mobilenetv3_small", {"stem": "cifar"}, 1.61, 17.6),
]


@pytest.mark.parametrize(("name", "options", "parameters", "madds"), TABLE_1)
def test_architectural_choices(name, options, parameters, madds):
    row = describe(name, **options)
    left_out = 2 * 6056 if name == "mobilenetv3_small" else 0
    assert round((row.parameters - left_out) / 1e6, 2) == parameters
    assert round(row.multiply_adds / 1e6, 2) == madds


# Billions of multiply-adds on ImageNet's images: from torchvision's documentation, of MobileNet V1
# Table 4 of its paper, and of BiT-R50x1 as of the ResNet-50, whose convolutions it has.
@pytest.mark.parametrize(
    ("name", "options", "resolution", "madds"),
    [
        ("resnet18", {"stem": "imagenet"}, 224, 1.81),
        ("resnet34", {"stem": "imagenet"}, 224, 3.66),
        ("resnet50", {"stem": "imagenet"}, 224, 4.09),
        ("bit_r50x1", {}, 224, 4.09),
        ("mobilenetv1", {}, 224, 0.57),
    ],
)
def test_imagenet(name, options, resolution, madds):
    row = describe(name, resolution=resolution, num_classes=1000, **options)
    assert round(row.multiply_adds / 1e9, 2) == madds


# Table 2 of the CIFAR-10 survey, 10 classes.
TABLE_2 = {
    "distiller_resnet8": 89_322,
    "distiller_resnet20": 283_754,
    "distiller_resnet26": 380_970,
    "distiller_resnet18": 11_173_962,
    "wrn_10_1": 77_850,
    "wrn_16_4": 2_748_890,
}


# Stanton et al.'s networks by their blocks per stage; those with bottlenecks have nine layers each.
@pytest.mark.parametrize("depth", [20, 56, 110])
def test_the_multiply_adds_of_pre_activation_networks_are_those_of_their_layers(depth):
    bottleneck = depth > 44
    blocks = (depth - 2) // (9 if bottleneck else 6)
    total, before = 32 * 32 * 9 * 3 * 16, 16
    for width, side in [(16, 32), (32, 16), (64, 8)]:
        after = 4 * width if bottleneck else width
        for block in range(blocks):
            pixels = side * side
            before = before if block == 0 else after
            if bottleneck:
                # The first 1x1 convolution has the resolution of the block's input.
                first = 4 * pixels if block == 0 and width > 16 else pixels
                total += first * before * width + pixels * (9 * width * width + width * after)
            else:
                total += pixels * 9 * (before * width + width * width)
            if before != after:
                total += pixels * before * after
    assert describe(f"preresnet{depth}").multiply_adds == total + after * 100


@pytest.mark.parametrize("name", TABLE_2)
def test_survey(name):
    assert describe(name, num_classes=10).parameters == TABLE_2[name]


def test_multiply_adds_and_outputs():
    def function(x, kernel, grouped, matrix):
        # 4x4x8 outputs of 3x3x6 inputs each; 2x2x8 of 3x3x2; 8 of 128.
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = jax.lax.conv_general_dilated(
            x, grouped, (2, 2), "SAME", feature_group_count=4,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return jax.jit(jnp.dot)(x.reshape(1, -1), matrix), y + y

    shapes = [(1, 4, 4, 6), (3, 3, 6, 8), (3, 3, 2, 8), (128, 8)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    expected = 16 * 8 * 54 + 4 * 8 * 18 + 8 * 128
    assert count_flops(function, *arguments) == (expected, 16 * 8 + 4 * 8 + 8)


def test_taps_in_order_of_computation():
    assert describe("resnet8", resolution=64).taps == {
        "stem": (64, 64, 16),
        "stage1": (64, 64, 16),
        "stage2": (32, 32, 32),
        "stage3": (16, 16, 64),
        "pre_pool": (16, 16, 64),
        "pre_logits": (64,),
    }
    assert list(describe("lenet").taps) == ["stem", "stage1", "stage2", "pre_logits"]
    assert describe("generator", resolution=28).taps == {"images": (28, 28, 3)}


def test_markdown(capsys):
    assert main(["lenet", "generator", "vgg16_bn", "--markdown", "--resolution=28"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| model | parameters | multiply-adds | taps |",
        "|---|---:|---:|---|",
        "| `lenet` | 52,376 | 0.46 M | stem 24x24x6, stage1 24x24x6, stage2 8x8x16, "
        "pre_logits 84 |",
        "| `generator` | 857,225 | 88.69 M | images 28x28x3 |",
        "| `vgg16_bn` |  |  | images are 28x28; the model takes 32x32 and larger |",
    ]


def test_all_models_in_natural_order(capsys, monkeypatch):
    chosen = ["wrn_16_2", "resnet110", "resnet14", "resnet8", "resnet8x4", "wrn_16_10"]
    monkeypatch.setattr(models, "names", lambda: chosen)
    assert main(["--markdown"]) == 0
    names = re.findall(r"^\| `(\w+)`", capsys.readouterr().out, re.MULTILINE)
    assert names == ["resnet8", "resnet8x4", "resnet14", "resnet110", "wrn_16_2", "wrn_16_10"]


def test_plain_table(capsys):
    assert main(["resnet8", "--num_classes=10"]) == 0
    assert "78,042" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("resnet9", "unknown model 'resnet9': did you mean"),
        ("--resolution=0", "--resolution=0 is not a positive integer"),
        ("--num_classes=-1", "--num_classes=-1 is not a positive integer"),
        ("--resolution=big", "invalid int value: 'big'"),
        ("--more", "unrecognized arguments: --more"),
    ],
)
def test_errors(capsys, argument, message):
    assert main([argument]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
