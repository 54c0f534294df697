"""Runs on images of several sizes, with teachers at another resolution and averaged ones."""

import json
import shutil

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from small_run import execute, small_config

from configs import common
from experiments import plan, run
from experiments.log import read_metrics
from experiments.tasks import Supervised
from kdjax.models import Model
from kdjax.types import Distiller, MethodLoss, Outputs, UserError

STEPS = 4


class Linear(Model):
    """A model that is compiled in no time."""

    @nn.compact
    def __call__(self, images, train=False):
        x = self.check_images(images)
        x = jnp.concatenate([x.mean((1, 2)), x.std((1, 2))], axis=-1)
        return Outputs(self.classifier(x, name="fc"), {"pre_logits": x})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Sixteen training and eight test images of two classes, dark and bright, as files."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, n in (("train", 16), ("test", 8)):
        for i in range(n):
            h, w = rng.integers(20, 60, 2)
            pixels = rng.integers(0, 128, (h, w)) + 127 * (i % 2)
            path = root / part / ("dark", "bright")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return f"folder:{root}"


def _config(images, **data):
    config = small_config()
    config.data.update(name=images, train_examples=0, resize=12, image_size=8, whole=True, **data)
    config.train.update(steps=STEPS, batch_size=8)
    config.eval_every = 1.0  # Two steps.
    config.train.augment.crop = "inception"
    for layer in (config.teacher, config.student, *config.phases.values()):
        layer.model, layer.model_options = f"{__name__}:Linear", ConfigDict()
    del config.phases.scratch, config.phases.kd
    config.phases.matching = common.inherit(
        config.student,
        teachers=("teacher",),
        objective={"kd": {"weight": 1.0}},
        augment={"teacher_view": "function_matching", "mixup": 1.0, "teacher_size": (16,)},
    )
    config.phases.averaged = common.inherit(
        config.student,
        teachers=("teacher",),
        objective={"kd": {"weight": 1.0}},
        augment={"teacher_view": "fixed", "teacher_crops": 3},
    )
    return config


def gap(*, teacher):
    """Mean distance of the logits of student and one teacher."""

    def loss(variables, context):
        value = jnp.abs(context.student.logits - context.teachers[teacher].logits).mean(-1)
        return MethodLoss(value, {}, {})

    return Distiller(lambda rng, context: {"params": {}, "state": {}}, loss)


def test_teachers_at_two_resolutions_see_the_same_crops(images, tmp_path):
    """Two copies of the student: one sees its view, and has its logits, the other a finer one."""
    config = _config(images)
    del config.phases.matching, config.phases.averaged
    config.student.optimizer.learning_rate = 0.0
    config.phases.copy = common.inherit(config.student, init_from="teacher", steps=1)
    config.phases.two = common.inherit(
        config.student, init_from="teacher", teachers=("teacher", "copy"), steps=1,
        objective={
            name: {"method": f"{__name__}:gap", "teacher": i}
            for i, name in enumerate(("finer", "same"))
        },
        augment={"teacher_view": "function_matching", "teacher_size": (16, 0)},
    )  # fmt: skip
    execute(config, tmp_path / "run")
    (row,) = read_metrics(tmp_path / "run/two/metrics.jsonl")
    assert row["train/same"] == pytest.approx(0, abs=1e-6)
    assert row["train/finer"] > 1e-3


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, execute(_config(images), folder)[0]


def test_a_resumed_run_on_whole_images_is_the_same_to_the_bit(images, finished, tmp_path):
    folder, summary = finished
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    for name in ("matching", "averaged"):
        (tmp_path / "run" / name / "result.json").unlink()
        shutil.rmtree(tmp_path / f"run/{name}/checkpoints/{STEPS}")
        assert (tmp_path / f"run/{name}/checkpoints/{STEPS // 2}").exists()
    again, _ = execute(_config(images), tmp_path / "run")
    for name, phase in summary["phases"].items():
        for split in ("train", "test"):
            assert again["phases"][name][split] == phase[split], (name, split)


def test_the_teacher_is_evaluated_at_its_own_resolution(finished):
    phases = json.loads((finished[0] / "summary.json").read_text())["phases"]
    assert phases["averaged"]["test"]["teacher_accuracy"] == phases["teacher"]["test"]["accuracy"]
    assert phases["matching"]["test"]["kl"] != phases["averaged"]["test"]["kl"]


def test_other_crops_are_taken_from_the_resized_squares(images):
    config = _config(images)
    config.phases.matching.augment.crop = "padded"
    plans, _ = plan.plan_all(run.resolve(config))
    tasks = {one.name: one.action.task for one in plans}
    assert all(isinstance(task, Supervised) for task in tasks.values())
    assert tasks["matching"].whole_crops() is None
    crops = tasks["averaged"].whole_crops()
    assert (crops.size, crops.teacher_view, crops.scale) == (8, "fixed", (0.05, 1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_crops": -1}, "augment.teacher_crops is -1"),
        ({"teacher_view": "consistent"}, "teacher_crops is 3, teacher_view 'consistent'.*'fixed'"),
        ({"teacher_size": (-4,)}, r"teacher_size is \(-4\)"),
        ({"teacher_size": (4, 8)}, "teacher_size is 4, 8 for 1 teachers: it is one side"),
    ],
)
def test_options_that_do_not_fit_are_named(images, change, message):
    config = _config(images)
    config.phases.averaged.augment.update(**change)
    with pytest.raises(UserError, match=message):
        plan.plan_all(run.resolve(config))


def test_averages_need_the_running_statistics(images):
    config = _config(images)
    config.phases.averaged.teacher_batch_norm = "batch"
    with pytest.raises(UserError, match="and teacher_batch_norm 'batch'"):
        plan.plan_all(run.resolve(config))
