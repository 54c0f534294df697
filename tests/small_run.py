"""A run small enough for a test: networks of four layers on digits of 8x8 pixels."""

import io

import pytest
from ml_collections import ConfigDict
from rich.console import Console

from configs import common, methods
from experiments import report, run
from kdjax.models.layers import flatten
from kdjax.models.resnet import ResNet
from kdjax.types import UserError


class Tiny(ResNet):
    """A residual network of one block that learns something in six steps.

    Tracing takes most of the time of a small run, so the network is as small as can be.
    """

    blocks: tuple[int, ...] = (1,)
    widths: tuple[int, ...] = (16, 16)

    def _pool(self, x):
        # The average over all positions would take more steps to tell digits apart.
        return {"pre_logits": flatten(x)}


def small_config(**changes) -> ConfigDict:
    """A config with teacher, scratch and kd, a few steps each; `changes` apply to all phases."""
    config = common.base()
    config.log_every = 4
    # As many as are evaluated at once; an evaluation every second step of 32.
    config.data.train_examples = 500
    config.eval_every = 0.13
    config.train.update(steps=6, batch_size=32, **changes)
    config.train.optimizer.learning_rate = 0.03
    config.train.augment.update(flip=False, padding=1)
    # Subprocesses find it, too: `conftest.py` puts the tests on their path.
    config.teacher.model = config.student.model = "small_run:Tiny"
    methods.teacher_scratch_kd(config)
    return config


def declared(table, prefix=()):
    """The keys of a table of `experiments.keys` that have a rule: paths, and the rules."""
    for name, key in table.items():
        if isinstance(key, dict):
            yield from declared(key, (*prefix, name))
        elif key.rule is not None:
            yield (*prefix, name), key.rule


def refusal(config, workdir) -> str:
    """The one line with which a config is refused, before anything is written."""
    with pytest.raises(UserError) as error:
        execute(config, workdir)
    assert "\n" not in str(error.value), error.value
    assert not workdir.exists()
    return str(error.value)


def execute(config, workdir, *, curves=False):
    """Runs a config and returns the summary and what was printed.

    Curves are drawn only on demand; drawing them takes as long as a phase.
    """
    console = Console(file=io.StringIO(), width=160)
    with pytest.MonkeyPatch.context() as patch:
        if not curves:
            patch.setattr(report, "draw_curves", lambda *_: None)
        summary = run.run(run.resolve(config), workdir, console)
    return summary, console.file.getvalue()
