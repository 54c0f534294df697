"""Logits and taps against the original PyTorch code.

`reference/models.json`, `reference/models.npz` and the literals in this file were computed with
the original code. Its weights are random numbers seeded by the keys of the state dict.
"""

import functools
import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from kdjax import models, torch_import

REFERENCE = Path(__file__).parents[1] / "reference"
CONTENT = json.loads((REFERENCE / "models.json").read_text())
SEED = CONTENT["seed"]
ENTRIES = {entry["model"]: entry for entry in CONTENT["models"]}
# The reference allows 1e-3; the rounding of two backends in float32 causes errors of 3e-6.
TOLERANCE = 1e-5


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState((zlib.crc32(key.encode()) ^ SEED) & 0x7FFFFFFF)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_mean"):
        value = 0.1 * random.randn(*shape)
    elif key.endswith("running_var"):
        value = 1 + 0.2 * random.rand(*shape)
    elif len(shape) == 4:
        value = random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif len(shape) == 2:
        value = random.randn(*shape) * np.sqrt(1 / shape[1])
    elif key.endswith("weight"):
        value = 1 + 0.1 * random.randn(*shape)
    else:
        value = 0.1 * random.randn(*shape)
    return value.astype(np.float32)


def images(resolution: int = 32) -> np.ndarray:
    nchw = np.random.RandomState(SEED).randn(4, 3, resolution, resolution)
    return nchw.astype(np.float32).transpose(0, 2, 3, 1)


def assert_close(actual, expected) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("entry", [e for e in ENTRIES if ENTRIES[e]["kdjax"] != "generator"])
def test_logits_and_taps_equal_the_original(entry, compiled):
    content = ENTRIES[entry]
    name, classes = content["kdjax"], content["num_classes"]
    state_dict = {key: weight(key, tuple(shape)) for key, shape in content["state_dict"]}
    variables = torch_import.convert(name, state_dict, num_classes=classes)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == content["params"]

    outputs = compiled(models.create(name, num_classes=classes).apply, variables, images())
    with np.load(REFERENCE / "models.npz") as arrays:
        assert_close(outputs.logits, arrays[f"{entry}/logits"])
        for tap in content["taps"]:
            kind, number = tap[:-1], int(tap[-1])
            ours = f"stage{number}{'_pre' if kind == 'pre' else ''}"
            if kind == "post" and number in (0, 4):
                ours = "pre_logits" if number else "stem"
            value = np.asarray(outputs.taps[ours])
            value = value.mean((1, 2)) if value.ndim == 4 else value
            assert_close(value, arrays[f"{entry}/tap/{tap}"])


def test_generated_images_equal_the_original(compiled):
    content = ENTRIES["zskt.generator"]
    state_dict = {key: weight(key, tuple(shape)) for key, shape in content["state_dict"]}
    variables = torch_import.convert("generator", state_dict)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == content["params"]

    latents = np.random.RandomState(SEED).randn(6, content["z_dim"]).astype(np.float32)
    generator = models.create("generator", image_shape=(32, 32, 3), latent_dim=100)
    train = functools.partial(generator.apply, train=True, mutable=["batch_stats"])
    made, _ = compiled(train, variables, latents)
    with np.load(REFERENCE / "models.npz") as arrays:
        assert_close(made, arrays["zskt.generator/images"])


# The first four logits of the first image, ten classes, by the code of RepDistiller,
# pytorch-cifar-models, torchvision, ZeroShotKnowledgeTransfer, gnosis (with layer norm: at its
# last commit that has it, bdf0eb0^) and PyTorch's examples.
MORE = [
    ("shufflenetv2", {}, 32, [-2.95556, 3.4513, -18.0411, -1.328]),
    ("resnet18", {}, 32, [8.67184, 10.467, 6.35846, 0.662968]),
    ("shufflenetv2_x0_5", {}, 32, [0.910022, -2.62155, -0.103054, 2.74862]),
    ("vgg11_bn", {}, 32, [-0.220932, -0.193478, -1.55196, 0.683957]),
    ("mobilenetv3_small", {}, 65, [-0.12773, 0.0852108, -0.16742, -0.373115]),
    ("resnet18", {"stem": "imagenet"}, 64, [2.0781, -6.00065, -2.25635, -6.66811]),
    ("resnet50", {}, 32, [116.483, -24.9263, -5.96484, -143.024]),
    ("vgg8", {}, 64, [-2.4287, 3.7664, -0.967819, 0.38722]),
    ("lenet", {}, 32, [0.353475, -0.124494, 1.48467, -0.0910783]),
    ("lenet5", {"in_channels": 1}, 28, [-0.0241367, 0.0806585, 0.248712, 0.106991]),
    ("mnist_cnn", {"in_channels": 1}, 28, [0.188507, 0.234203, 0.269405, -0.27998]),
    ("vgg16_plain", {}, 32, [0.461757, 0.330131, -0.124531, -0.425412]),
    ("preresnet20", {"blocks": 2}, 32, [-1.15969, -7.30103, 9.52897, 2.07074]),
    ("preresnet56", {"blocks": 2, "norm": "layer"}, 32, [-0.034926, 0.518439, -0.401138, 0.679047]),
]


@pytest.mark.parametrize(
    ("name", "kwargs", "resolution", "expected"), MORE, ids=[f"{m[0]}-{m[2]}" for m in MORE]
)
def test_logits_equal_literals_of_the_original(name, kwargs, resolution, expected, compiled):
    kwargs = {"num_classes": 10, **kwargs}
    model = models.create(name, **kwargs)
    example = model.example(resolution)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), example)
    empty = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.float32), shapes)
    keys = torch_import.export(name, empty, resolution=resolution, **kwargs)
    state_dict = {key: weight(key, value.shape) for key, value in keys.items()}
    variables = torch_import.convert(name, state_dict, resolution=resolution, **kwargs)
    logits = compiled(model.apply, variables, images(resolution)[..., : example.shape[-1]]).logits
    error = np.abs(np.asarray(logits[0, :4]) - expected).max()
    assert error <= TOLERANCE * np.abs(logits).max()
