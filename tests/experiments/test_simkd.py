"""A run whose student predicts with its teacher's classifier (Chen et al. 2022)."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run
from ml_collections import ConfigDict

import kdjax
from configs import common, methods
from experiments import data, formats, stored
from kdjax import losses, networks
from kdjax.types import UserError

TITLE = "small_run:Tiny with its teacher's classifier"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the summary of a run: a teacher, its student, and what that teaches."""
    config = small_run.small_config()
    config.phases = ConfigDict(sort_keys=False)
    config.teacher.model = "tiny_network:Tiny"
    config.phases.teacher = common.inherit(config.teacher, steps=1)
    methods.add_methods(config, ["simkd"], ema_decay=0.5)
    config.phases.taught = common.inherit(
        config.student, teachers=("simkd",), ensemble=("teacher", "simkd")
    )
    workdir = tmp_path_factory.mktemp("simkd") / "run"
    return workdir, small_run.execute(config, workdir)[0]["phases"]


@pytest.fixture(scope="module")
def loaded(finished):
    """The classifiers of student and teacher, read from their folders."""
    return tuple(kdjax.load(finished[0] / name) for name in ("simkd", "teacher"))


def test_the_classifier_stays_the_teachers(finished, loaded):
    """In spite of weight decay to the bit, in the moving average up to rounding."""
    student, teacher = (one.variables["params"] for one in loaded)
    assert "fc" not in student["backbone"]
    saved = networks.read_arrays(finished[0] / "simkd")
    for name in ("kernel", "bias"):
        ours, expected = student["teacher_classifier"][name], teacher["fc"][name]
        assert np.any(expected != 0)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        np.testing.assert_array_equal(saved[f".params['teacher_classifier']['{name}']"], expected)


def test_logits_are_those_of_backbone_projector_and_classifier(loaded):
    student, teacher = loaded
    images = np.random.default_rng(0).random((3, 8, 8, 1)).astype(np.float32)
    params, stats = student.variables["params"], student.variables["batch_stats"]
    backbone = small_run.Tiny(num_classes=10, in_channels=1)
    own = {"fc": backbone.init(jax.random.key(0), images)["params"]["fc"]}
    variables = {"params": params["backbone"] | own, "batch_stats": stats["backbone"]}
    head = teacher.variables["params"]["fc"]

    @jax.jit
    def by_hand(images):
        # The teacher's only convolution has stride 2.
        stage = backbone.apply(variables, student.network.normalize(images)).taps["stage1"]
        x = losses.adaptive_average_pool(stage, (4, 4))
        for i in (1, 2, 3):
            x = jax.lax.conv_general_dilated(
                x, params[f"projector_conv{i}"]["kernel"], (1, 1), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            scale, bias, mean, var = (
                tree[f"projector_bn{i}"][name][None, None, None]
                for tree, name in (
                    (params, "scale"), (params, "bias"), (stats, "mean"), (stats, "var")
                )
            )  # fmt: skip
            x = jnp.maximum((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, 0)
        return x.mean((1, 2)) @ head["kernel"] + head["bias"][None]

    actual = jax.jit(student.network.evaluate)(student.variables, images).logits
    np.testing.assert_allclose(actual, by_hand(images), rtol=1e-4, atol=1e-5)


def test_parameters_and_accuracy_are_those_of_that_network(finished, loaded):
    workdir, phases = finished
    # A stem and a block of 3x3 convolutions with 16 channels, a projector from 16 by 2 and 2 to
    # the teacher's 4, and its classifier.
    backbone = 9 * 16 + 2 * 9 * 16 * 16 + 3 * 2 * 16
    projector = 16 * 2 + 9 * 2 * 2 + 2 * 4 + 2 * (2 + 2 + 4)
    assert phases["simkd"]["parameters"] == backbone + projector + 4 * 10 + 10
    assert phases["simkd"]["model"] == TITLE == loaded[0].title
    logged = (workdir / "simkd" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(logged[-1])["test/accuracy"] == phases["simkd"]["test"]["accuracy"]
    images, labels = _test_split(workdir)
    for name, classifier in zip(("simkd", "teacher"), loaded, strict=True):
        right = np.mean(np.asarray(classifier(images)).argmax(-1) == labels)
        assert right == pytest.approx(phases[name]["test"]["accuracy"])
    # As another phase's teacher it is the same network.
    assert phases["taught"]["test"]["teacher_accuracy"] == phases["simkd"]["test"]["accuracy"]


def _test_split(workdir):
    config = stored.config(workdir)
    test = data.read_run(config["data"], config["evaluation"]).data.splits["test"]
    return np.asarray(test.split.images), test.labels


def test_it_is_exported_as_it_predicts_and_the_card_says_what_it_is(finished, tmp_path):
    folder = finished[0] / "simkd"
    names = [name for name in ("stablehlo", "onnx") if not formats.FORMATS[name].missing]
    formats.export(folder, tmp_path / "out", names)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"# {TITLE} distilled on digits" in card
    assert "followed by a projector and the classifier of its teacher in place of its own" in card
    with pytest.raises(UserError, match=f"^{TITLE} has no PyTorch state dict, [^\n]*$"):
        formats.export(folder, tmp_path / "refused", ["safetensors"])
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("damage", [{"factor": 0}, {"size": [4]}, {"typo": 1}])
def test_a_damaged_description_is_one_line(finished, tmp_path, damage):
    described = json.loads((finished[0] / "simkd" / "network.json").read_text())
    described["reused_classifier"] |= damage
    (tmp_path / "network.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="is damaged: reused_classifier has features, size and"):
        networks.read_description(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": ()}, "needs one teacher, whose classifier is reused: there are 0"),
        ({"teachers": ("teacher", "other")}, "needs one teacher, .* there are 2"),
        ({"factor": 0}, "factor of simkd is 0: it must be positive"),
        ({"teacher": "small_run:Tiny"}, "the teacher has no tap 'pre_pool': choose a network that"),
    ],
)
def test_what_cannot_be_reused_is_one_line(tmp_path, changes, message):
    config = small_run.small_config()
    config.phases = ConfigDict(sort_keys=False)
    config.teacher.model = changes.pop("teacher", "tiny_network:Tiny")
    factor = changes.pop("factor", 2)
    for name in ("teacher", "other"):
        config.phases[name] = common.inherit(config.teacher)
    objective = {"simkd": {"factor": factor}}
    config.phases.simkd = common.inherit(
        config.student, objective=objective, **{"teachers": ("teacher",)} | changes
    )
    assert re.search(message, small_run.refusal(config, tmp_path / "run"))
