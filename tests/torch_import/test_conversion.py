"""Conversion of variables from and to state dicts, bit for bit."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from kdjax import UserError, models, torch_import

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "models.json").read_text())


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for key, value in expected.items():
        assert actual[key].dtype == value.dtype
        np.testing.assert_array_equal(actual[key], value)


def random_state_dict(name, **attributes):
    model = models.create(name, **attributes)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), model.example())
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype("f4"), shapes)
    return variables, torch_import.export(name, variables, **attributes)


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("resnet8", {"num_classes": 7}),
        ("resnet18", {"num_classes": 7}),
        ("resnet18", {"num_classes": 7, "stem": "imagenet"}),
        ("distiller_resnet8", {"num_classes": 7}),
        ("wrn_10_1", {"num_classes": 7, "in_channels": 1}),
        ("wrn_10_1", {"num_classes": 7, "raw_shortcut": True}),
        ("preresnet20", {"num_classes": 7, "norm": "layer"}),
        ("vgg8", {"num_classes": 7}),
        ("vgg11_bn", {"num_classes": 7}),
        ("vgg11_plain", {"num_classes": 7}),
        ("mobilenetv2_half", {"num_classes": 7}),
        ("mobilenetv2_x0_5", {"num_classes": 7}),
        ("mobilenetv3_small", {"num_classes": 7, "stem": "cifar"}),
        ("shufflenetv1", {"num_classes": 7}),
        ("shufflenetv2_x0_5", {"num_classes": 7}),
        ("lenet", {"num_classes": 7}),
        ("mnist_cnn", {"num_classes": 7}),
        ("generator", {"image_shape": (28, 28, 1), "latent_dim": 10}),
    ],
)
def test_conversion_inverts_export(name, attributes):
    variables, state_dict = random_state_dict(name, **attributes)
    again = torch_import.convert(name, state_dict, **attributes)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


@pytest.mark.parametrize("entry", REFERENCE["models"], ids=lambda entry: entry["model"])
def test_export_matches_the_original_state_dict(entry):
    """Keys, shapes, types, order and bits are those of the original's state dict."""
    attributes = {"num_classes": entry["num_classes"]} if "num_classes" in entry else {}
    random = np.random.default_rng(0)
    original = {
        key: np.array(0) if key.endswith("tracked") else random.normal(size=shape).astype("f4")
        for key, shape in entry["state_dict"]
    }
    variables = torch_import.convert(entry["kdjax"], original, **attributes)
    exported = torch_import.export(entry["kdjax"], variables, **attributes)
    if entry["model"] == "distiller.WRN10_1":  # Exported under the names of RepDistiller.
        renamed = {re.sub(r"^layer(\d)", r"block\1", key): x for key, x in original.items()}
        original = {re.sub(r"^linear", "fc", key): value for key, value in renamed.items()}
    assert_same(exported, original)


def test_an_exported_student_has_the_same_outputs_in_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    variables, state_dict = random_state_dict("lenet", num_classes=10)
    layers = [
        torch.nn.Conv2d(3, 6, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(400, 120), torch.nn.ReLU(), torch.nn.Linear(120, 84), torch.nn.ReLU(),
        torch.nn.Linear(84, 10),
    ]  # fmt: skip
    network = torch.nn.ModuleDict({"layers": torch.nn.Sequential(*layers)})
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()}, strict=True)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype("f4")
    with torch.no_grad():
        expected = network["layers"](torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    logits = models.create("lenet", num_classes=10).apply(variables, images).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())

    torch.save(network.state_dict(), tmp_path / "student.pth")
    loaded = torch_import.load(tmp_path / "student.pth")
    again = torch_import.convert("lenet", loaded, num_classes=10)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


def test_counters_are_exported_with_the_given_value():
    variables, _ = random_state_dict("resnet8", num_classes=10)
    state_dict = torch_import.export("resnet8", variables, num_classes=10, num_batches_tracked=9)
    counters = [value for key, value in state_dict.items() if key.endswith("tracked")]
    assert len(counters) == 9
    assert {(value.shape, value.dtype.name, int(value)) for value in counters} == {((), "int64", 9)}


def test_weights_can_depend_on_the_resolution():
    """The size of LeNet's first linear layer depends on that of the images."""
    model = models.create("lenet", num_classes=10, in_channels=1)
    images = jax.ShapeDtypeStruct((1, 28, 28, 1), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    attributes = {"num_classes": 10, "in_channels": 1}
    with pytest.raises(UserError, match=r"layers\.7\.weight \[256, 120\] instead of \[400, 120\]"):
        torch_import.export("lenet", variables, **attributes)
    state_dict = torch_import.export("lenet", variables, **attributes, resolution=28)
    assert state_dict["layers.7.weight"].shape == (120, 256)
    again = torch_import.convert("lenet", state_dict, **attributes, resolution=28)
    assert jax.tree.structure(again) == jax.tree.structure(variables)


def mismatch(name, state_dict, **attributes):
    with pytest.raises(UserError) as error:
        torch_import.convert(name, state_dict, **attributes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_one_error_lists_every_mismatch():
    _, state_dict = random_state_dict("resnet8", num_classes=10)
    del state_dict["layer1.0.conv2.weight"], state_dict["bn1.running_var"]
    state_dict |= {"more.weight": np.zeros(3), "fc.more": np.zeros(())}
    state_dict["conv1.weight"] = np.zeros((16, 3, 5, 5))
    state_dict["layer2.0.bn1.bias"] = np.zeros(31)
    assert mismatch("resnet8", state_dict, num_classes=10) == (
        "state dict does not fit resnet8: "
        "missing: bn1.running_var, layer1.0.conv2.weight; "
        "unexpected: more.weight, fc.more; "
        "mismatched shapes: conv1.weight [16, 3, 5, 5] instead of [16, 3, 3, 3], "
        "layer2.0.bn1.bias [31] instead of [32]"
    )


def test_another_number_of_classes_or_channels_is_explained():
    _, state_dict = random_state_dict("wrn_10_1", num_classes=100, in_channels=1)
    assert mismatch("wrn_10_1", state_dict, num_classes=10) == (
        "state dict does not fit wrn_10_1: "
        "it takes 1 channels, not in_channels=3; it has 100 classes, not num_classes=10; "
        "mismatched shapes: conv1.weight [16, 1, 3, 3] instead of [16, 3, 3, 3], "
        "fc.weight [100, 64] instead of [10, 64], fc.bias [100] instead of [10]"
    )


def test_a_state_dict_of_another_model_is_rejected():
    _, state_dict = random_state_dict("resnet8", num_classes=10)
    message = mismatch("vgg8", state_dict, num_classes=10)
    assert message.startswith("state dict does not fit vgg8: missing: block0.0.weight, block0.0.b")
    assert "unexpected: conv1.weight, bn1.weight, bn1.bias, bn1.running_mean" in message
    assert message.endswith("fc.weight, fc.bias")


def test_a_key_in_two_spellings_is_rejected():
    _, state_dict = random_state_dict("resnet18", num_classes=10)
    state_dict["fc.bias"] = state_dict["linear.bias"]
    assert mismatch("resnet18", state_dict, num_classes=10).endswith(
        "resnet18: unexpected: fc.bias"
    )


def test_attributes_are_checked_as_by_create():
    assert mismatch("resnet8", {}) == "model resnet8 needs num_classes"
    assert "no attribute stem" in mismatch("resnet8", {}, num_classes=10, stem="imagenet")
    assert "unknown model 'resnet9'" in mismatch("resnet9", {}, num_classes=10)


def test_variables_of_another_model_are_rejected():
    variables, _ = random_state_dict("resnet8", num_classes=10)
    with pytest.raises(UserError, match=r"fit resnet14: missing: layer1\.1\.conv1"):
        torch_import.export("resnet14", variables, num_classes=10)


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "student.encoder."])
def test_the_name_of_an_outer_module_is_no_obstacle(prefix):
    variables, state_dict = random_state_dict("resnet8", num_classes=7)
    outer = {prefix + key: value for key, value in state_dict.items()}
    again = torch_import.convert("resnet8", outer, num_classes=7)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


@pytest.mark.parametrize("name", ["lenet", "vgg8", "wrn_10_1", "mobilenetv2_half"])
def test_classes_are_counted_where_the_logits_are_made(name):
    _, state_dict = random_state_dict(name, num_classes=7)
    assert torch_import.count_classes(name, state_dict) == 7
    inside = {f"net.{key}": value for key, value in state_dict.items()}
    assert torch_import.count_classes(name, inside) == 7


def test_a_state_dict_without_its_last_layer_has_no_classes():
    _, state_dict = random_state_dict("resnet8", num_classes=7)
    body = {key: value for key, value in state_dict.items() if not key.startswith("fc.")}
    with pytest.raises(UserError, match=r"missing: fc\.weight, fc\.bias"):
        torch_import.count_classes("resnet8", body)
