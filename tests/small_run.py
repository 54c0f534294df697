"""A run small enough for a test: networks of eight layers on digits of 8x8 pixels."""

import io

import pytest
from ml_collections import ConfigDict
from rich.console import Console

from configs import common, methods
from experiments import run
from kdjax.types import UserError


def small_config(**changes) -> ConfigDict:
    """A config with teacher, scratch and kd, a few steps each; `changes` apply to all phases."""
    config = common.base()
    config.log_every = 4
    # As many as are evaluated at once; an evaluation every second step of 32.
    config.data.train_examples = 500
    config.eval_every = 0.13
    config.train.update(steps=6, batch_size=32, **changes)
    config.train.augment.update(flip=False, padding=1)
    config.teacher.model = config.student.model = "resnet8"
    # The last stage is narrow, as XLA's CPU backend is slow at 3x3 convolutions of 2x2 images.
    config.teacher.model_options.widths = config.student.model_options.widths = (16, 16, 32, 24)
    methods.teacher_scratch_kd(config)
    return config


def refusal(config, workdir) -> str:
    """The one line with which a config is refused, before anything is written."""
    with pytest.raises(UserError) as error:
        execute(config, workdir)
    assert "\n" not in str(error.value), error.value
    assert not workdir.exists()
    return str(error.value)


def execute(config, workdir):
    """Runs a config and returns the summary and what was printed."""
    console = Console(file=io.StringIO(), width=160)
    summary = run.run(run.resolve(config), workdir, console)
    return summary, console.file.getvalue()
