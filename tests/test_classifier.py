"""Trained networks as functions of images."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from small_run import execute, small_config

import kdjax
from experiments import data
from experiments.evaluation import Evaluator
from kdjax import Network, UserError, models, networks, parallel, torch_import

RGB = {"num_classes": 10, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A phase whose network sees the central 6x6 pixels of digits resized to 8x8."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    config = small_config(ema_decay=0.5)
    config.data.update(resize=8, image_size=6)
    config.train.augment.update(padding=0)
    for name in ("scratch", "kd"):
        del config.phases[name]
    execute(config, workdir)
    return workdir / "teacher"


@pytest.fixture(scope="module")
def classifier(folder):
    return kdjax.load(folder)


def colour(**changes):
    """An untrained classifier of 16x16 colour images."""
    network = Network(models.create("wrn_10_1", num_classes=10), RGB["mean"], RGB["std"])
    variables = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    given = dict(network=network, variables=variables, model="wrn_10_1", image_size=16)
    return kdjax.Classifier(**(given | changes))


def test_logits_are_those_of_the_run(folder, classifier):
    images = data.read("digits", resize=8, image_size=6).splits["test"]
    trained = networks.load(str(folder))
    devices = parallel.Devices.dividing(len(images))
    evaluator = Evaluator(trained.network, 6, devices)
    expected = evaluator.logits(devices.replicate(trained.variables), images)
    logits = classifier(images.split.images)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, atol=1e-6 * np.abs(expected).max())
    accuracy = json.loads((folder / "result.json").read_text())["summary"]["test"]["accuracy"]
    assert (np.argmax(logits, 1) == images.labels).sum() == round(accuracy * len(images))


def test_it_is_a_function_that_jax_can_trace(classifier):
    images = jax.random.randint(jax.random.key(0), (5, 8, 8, 1), 0, 256).astype(jnp.uint8)
    np.testing.assert_allclose(jax.jit(classifier)(images), classifier(images), atol=1e-6)
    # Only the central square counts, and every image for itself.
    border = images.at[:, 0].set(255)
    np.testing.assert_array_equal(classifier(border), classifier(images))
    np.testing.assert_allclose(classifier(images[2:3]), classifier(images)[2:3], atol=1e-6)


def test_probabilities_are_those_of_the_logits(classifier):
    images = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8, 1)
    p = np.asarray(classifier.probabilities(images))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    expected = np.exp(classifier(images))
    np.testing.assert_allclose(p, expected / expected.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "given"),
    [
        (np.zeros((1, 8, 8, 1), np.float32), "float32 (1, 8, 8, 1)"),
        (np.zeros((8, 8, 1), np.uint8), "uint8 (8, 8, 1)"),
        (np.zeros((1, 8, 8, 3), np.uint8), "uint8 (1, 8, 8, 3)"),
        (np.zeros((1, 8, 5, 1), np.uint8), "uint8 (1, 8, 5, 1)"),
        ([[1]], "list (1, 1)"),
    ],
)
def test_other_images_are_refused(classifier, images, given):
    with pytest.raises(UserError) as error:
        classifier(images)
    assert str(error.value) == (
        f"images are {given}: small_run:Tiny takes uint8 [b, 6, 6, 1], or larger images, of "
        "which it sees the center"
    )


def test_files_are_read_as_the_data_of_the_run(classifier, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = classifier.read(tmp_path / "a.png")
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(image, grey[:, 2:10, None])
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert colour().read(str(tmp_path / "grey.png")).shape == (16, 16, 3)
    assert colour(resize=20).read(tmp_path / "grey.png").shape == (20, 20, 3)


def test_files_that_cannot_be_read_are_named(classifier, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(
        UserError, match=r"cannot read '.*text\.png' as PNG, .*: cannot identify image file"
    ):
        classifier.read(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"cannot read '.*absent\.png' as PNG.*No such file"):
        classifier.read(tmp_path / "absent.png")
    module = models.create("wrn_10_1", num_classes=10, in_channels=2)
    two = colour(network=Network(module, (0.5, 0.5), (0.2, 0.2)))
    with pytest.raises(UserError, match="takes 2 channels: image files have 1 or 3"):
        two.read(tmp_path / "text.png")


def test_class_names_may_be_unknown(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "named")
    described = json.loads((folder / "network.json").read_text())
    for names in ([], [f"digit {i}" for i in range(10)]):
        changed = described | {"class_names": names}
        (tmp_path / "named/network.json").write_text(json.dumps(changed))
        loaded = kdjax.load(str(tmp_path / "named"))
        assert loaded.class_names == tuple(names)
        assert loaded.class_name(3) == ("digit 3" if names else "3")
    without = {key: value for key, value in described.items() if key != "class_names"}
    (tmp_path / "named/network.json").write_text(json.dumps(without))
    assert kdjax.load(tmp_path / "named").class_names == ()


def test_pytorch_files_are_loaded_too(tmp_path):
    expected = colour()
    state_dict = torch_import.export("wrn_10_1", expected.variables, num_classes=10)
    safetensors.numpy.save_file(state_dict, tmp_path / "model.safetensors")
    reference = f"wrn_10_1={tmp_path / 'model.safetensors'}"
    loaded = kdjax.load(reference, **RGB, image_size=16)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(loaded(images), expected(images))
    with pytest.raises(UserError, match=r"mean is \(\); the images have 3 channels"):
        kdjax.load(reference, num_classes=10)
    with pytest.raises(UserError, match="no such phase folder or file of weights: 'runs/none'"):
        kdjax.load("runs/none")


def test_a_network_at_its_own_resolution():
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    at_32 = dataclasses.replace(colour(), resolution=32)
    pixels = jax.image.resize(images / np.float32(255), (2, 32, 32, 3), "linear")
    expected = at_32.network.evaluate(at_32.variables, pixels).logits
    np.testing.assert_allclose(at_32(images), expected, atol=1e-5)
