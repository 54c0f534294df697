"""Exported files compute what the network computes."""

import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from small_run import execute, small_config

import kdjax
from experiments import formats
from kdjax import Network, UserError, models

NESTED = """
import flax.linen as nn
from kdjax import Outputs
from kdjax.models import Model

class Part(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(4, (3, 3))(x))

class Nested(Model):
    @nn.compact
    def __call__(self, images, train=False):
        x = self.check_images(images)
        x = Part()(x).mean((1, 2))
        return Outputs(self.classifier(x, name="fc"), {"pre_logits": x})
"""


def images(classifier, count):
    side, channels = classifier.image_size, classifier.channels
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def check(classifier, function):
    for count in (1, 7):
        batch = images(classifier, count)
        expected = np.asarray(classifier(batch))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(function(batch), expected, atol=1e-5 * scale)


def untrained(model, side=16, **options):
    network = Network(models.create(model, num_classes=10, **options), (0.5,) * 3, (0.2,) * 3)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, side, side, 3)))
    return kdjax.Classifier(
        network=network, variables=jax.device_get(variables), model=model, image_size=side,
        options=options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """A student and its teacher's figures, in all formats that can be written here."""
    out = tmp_path_factory.mktemp("export") / "kd"
    lines = formats.export(finished / "kd", out, [])
    # A line for each file, the card's and the config's among them.
    assert {line.partition(":")[0] for line in lines} == {str(path) for path in out.iterdir()}
    return out


def test_stablehlo(finished, exported):
    pytest.importorskip("flatbuffers")
    program = jax.export.deserialize(bytearray((exported / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda")
    check(kdjax.load(finished / "kd"), program.call)


def test_onnx(finished, exported):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        exported / "model.onnx", providers=["CPUExecutionProvider"]
    )
    check(kdjax.load(finished / "kd"), lambda x: session.run(None, {"images": x})[0])


def test_safetensors(finished, exported):
    classifier = kdjax.load(finished / "kd")
    network = classifier.network
    again = kdjax.load(
        f"small_run:Tiny={exported / 'model.safetensors'}", num_classes=10, in_channels=1,
        mean=network.mean, std=network.std, image_size=8,
    )  # fmt: skip
    batch = images(classifier, 5)
    np.testing.assert_array_equal(again(batch), classifier(batch))


def test_the_card_has_the_figures_and_the_settings(finished, exported):
    card = (exported / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["library_name"] == "kdjax"
    assert "knowledge-distillation" in matter["tags"]
    assert "license" not in matter
    phases = json.loads((finished / "summary.json").read_text())["phases"]
    test = phases["kd"]["test"]
    (metric,) = matter["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == pytest.approx(test["accuracy"], abs=1e-6)
    row = f"| test | {test['accuracy']:.2%} | {test['top5']:.2%} | {test['nll']:.4f} |"
    assert row in body
    assert f"| {test['agreement']:.2%} | {test['kl']:.4f} |" in body
    assert (
        f"was distilled from `teacher`, a `small_run:Tiny` with a test accuracy of {phases['teacher']['test']['accuracy']:.2%}"
        in body
    )
    for text in (
        "| kd | kd | 0.9 | temperature 4 |", "| `steps` | `6` |", "8x8 grey images", "10 classes",
        "`name` digits", f"jax {jax.__version__}", "on cpu x2",
    ):  # fmt: skip
        assert text in body
    # Only of what is there.
    assert sorted(re.findall(r"^`(.*)`:$", body, re.M)) == sorted(
        path.name for path in exported.glob("model.*")
    )
    recorded = json.loads((exported / "config.json").read_text())
    assert recorded["phases"]["kd"]["steps"] == 6


def test_the_code_on_the_card_runs(finished, exported, monkeypatch):
    monkeypatch.chdir(exported)
    classifier = kdjax.load(finished / "kd")
    blocks = dict(
        re.findall(
            r"`(model\.\w+)`:\n\n```python\n(.*?)```", (exported / "README.md").read_text(), re.S
        )
    )
    expected = np.asarray(classifier(np.zeros((1, 8, 8, 1), np.uint8)))
    for name in ("model.onnx", "model.stablehlo"):
        if name in blocks:
            names = {}
            exec(blocks[name], names)
            np.testing.assert_allclose(names["logits"], expected, atol=1e-5)
    line = blocks["model.safetensors"].splitlines()[-1]
    names = {"kdjax": kdjax}
    exec(line, names)
    np.testing.assert_array_equal(names["classifier"](np.zeros((1, 8, 8, 1), np.uint8)), expected)


def test_a_wrong_file_is_not_left_behind(finished, tmp_path, monkeypatch):
    def read(classifier, path):
        return lambda batch: classifier(batch) + 1e-3

    form = formats.FORMATS["safetensors"]._replace(read=read)
    monkeypatch.setitem(formats.FORMATS, "safetensors", form)
    with pytest.raises(UserError, match=r"safetensors: logits deviate by .* more than 1e-05"):
        formats.export(finished / "kd", tmp_path / "out", ["safetensors"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tflite"], "no format 'tflite': choose from pytorch, safetensors, stablehlo, onnx"),
        (["onnx"], r"format onnx needs onnx and onnxruntime, .*'kdjax\[export\]'"),
        (["pytorch"], r"format pytorch needs torch, .*; safetensors has the same arrays"),
    ],
)
def test_formats_that_cannot_be_written(names, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=message) as error:
        formats.choose(names)
    assert "\n" not in str(error.value)
    assert list(formats.choose([])) == ["safetensors"]


def test_mistakes(finished, tmp_path):
    with pytest.raises(UserError, match="name one of its phases, kd, scratch, teacher"):
        formats.export(finished, tmp_path / "out", ["safetensors"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file' is not a folder"):
        formats.export(finished / "kd", tmp_path / "file", ["safetensors"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_model_with_submodules_has_no_state_dict(tmp_path, monkeypatch):
    (tmp_path / "nested_model.py").write_text(NESTED)
    monkeypatch.syspath_prepend(tmp_path)
    classifier = untrained("nested_model:Nested")
    form = formats.FORMATS["safetensors"]
    with pytest.raises(UserError, match="nested_model:Nested has no PyTorch state dict: "):
        form.write(classifier, tmp_path / form.file)
    form = formats.FORMATS["stablehlo"]
    if not form.missing:
        form.write(classifier, tmp_path / form.file)
        assert formats.deviation(classifier, form, tmp_path / form.file) < 1e-6


def test_a_network_without_a_teacher_and_kept_ones_have_cards(tmp_path):
    config = small_config(keep=(0,))
    for name in ("scratch", "kd"):
        del config.phases[name]
    execute(config, tmp_path / "run")
    formats.export(tmp_path / "run/teacher@0", tmp_path / "out", ["safetensors"])
    card = (tmp_path / "out/README.md").read_text()
    assert "trained on digits" in card
    assert "These weights have not been evaluated on their own" in card
    assert "model-index" not in card
    # A second export replaces the first one.
    formats.export(tmp_path / "run/teacher", tmp_path / "out", ["safetensors"])
    assert "| test |" in (tmp_path / "out/README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


def test_a_student_that_did_not_listen_is_not_distilled(finished, tmp_path):
    formats.export(finished / "scratch", tmp_path / "out", ["safetensors"])
    card = (tmp_path / "out/README.md").read_text()
    assert "small_run:Tiny trained on digits" in card
    assert "It learned on its own, beside `teacher`" in card
    assert "knowledge-distillation" not in card


def test_options_of_a_model_are_kept(tmp_path):
    classifier = untrained("resnet18", 32, stem="imagenet")
    form = formats.FORMATS["safetensors"]
    form.write(classifier, tmp_path / form.file)
    assert formats.deviation(classifier, form, tmp_path / form.file) == 0


def test_pytorch_computes_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            if inputs != outputs:
                self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

        def forward(self, x):
            y = torch.relu(self.bn1(x))
            shortcut = self.convShortcut(y) if hasattr(self, "convShortcut") else x
            return shortcut + self.conv2(torch.relu(self.bn2(self.conv1(y))))

    class Stage(nn.Module):
        def __init__(self, *arguments):
            super().__init__()
            self.layer = nn.Sequential(Block(*arguments))

        def forward(self, x):
            return self.layer(x)

    class WideResNet(nn.Module):
        """WRN-10-1 with RepDistiller's names."""

        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.block1, self.block2 = Stage(16, 16, 1), Stage(16, 32, 2)
            self.block3, self.bn1 = Stage(32, 64, 2), nn.BatchNorm2d(64)
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            x = self.block3(self.block2(self.block1(self.conv1(x))))
            return self.fc(torch.relu(self.bn1(x)).mean((2, 3)))

    classifier = untrained("wrn_10_1")
    form = formats.FORMATS["pytorch"]
    form.write(classifier, tmp_path / form.file)
    assert formats.deviation(classifier, form, tmp_path / form.file) == 0
    model = WideResNet().eval()
    model.load_state_dict(torch.load(tmp_path / form.file, weights_only=True))

    def function(batch):
        pixels = torch.from_numpy(batch.transpose(0, 3, 1, 2) / np.float32(255))
        with torch.no_grad():
            return model((pixels - 0.5) / 0.2).numpy()

    check(classifier, function)
