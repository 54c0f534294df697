"""A method, a model and a data set outside the package, from the command line.

The method is CONTRIBUTING.md's example.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

MODEL_AND_DATA = """
import flax.linen as nn
import numpy as np

from kdjax import Outputs
from kdjax.data.sources import from_arrays
from kdjax.models import Model


class Linear(Model):
    features: int = 4

    @nn.compact
    def __call__(self, images, train=False):
        x = self.check_images(images)
        x = nn.relu(self.conv(self.features, 3, name="conv")(x))
        x = x.mean((1, 2))
        return Outputs(self.classifier(x, name="fc"), {"pre_logits": x})


def read(argument, options):
    random = np.random.default_rng(0)
    labels = np.arange(96) % 2
    images = random.integers(0, 100, (96, 8, 8, 1)) + 100 * labels[:, None, None, None]
    images = images.astype(np.uint8)
    return from_arrays(images[:64], labels[:64], images[64:], labels[64:], options)
"""
CONFIG = """
import os
import signal

from configs import common
from experiments import log
from ml_collections import ConfigDict


def get_config(arg=None):
    config = common.base()
    config.data.name = "parts:read"
    config.train.update(model="parts:Linear", batch_size=16, steps=6)
    config.teacher.model_options = ConfigDict({"features": 8})
    config.eval_every = 1.0
    config.phases.teacher = common.inherit(config.teacher)
    config.phases.mine = common.inherit(
        config.student,
        teachers=("teacher",),
        objective={
            "labels": {"method": "cross_entropy"},
            "near": {"method": "mine:mine", "weight": 2.0},
            "far": {"method": "mine:mine", "weight": 1.0, "temperature": 8.0},
        },
    )
    if "INTERRUPT" in os.environ:
        advance = log.Bar.advance

        def interrupt(self, step):
            if self.name == "mine" and step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            advance(self, step)

        log.Bar.advance = interrupt
    return config
"""


def blocks():
    """The Python files in CONTRIBUTING.md, by name."""
    text = Path("CONTRIBUTING.md").read_text()
    found = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL)
    return dict(found)


def command(module, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False,
        env=os.environ | environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder outside the repository with a config and modules beside it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "config_of_mine.py").write_text(CONFIG)
    (folder / "parts.py").write_text(MODEL_AND_DATA)
    for name, text in blocks().items():
        (folder / name).write_text(text)
    return folder


def test_parts_of_ones_own_are_run_resumed_and_evaluated(folder):
    run = folder / "run"
    main = ("experiments.main", f"--config={folder / 'config_of_mine.py'}", f"--workdir={run}")
    stopped = command(*main, INTERRUPT="1")
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert not (run / "summary.json").exists()
    resumed = command(*main)
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads((run / "summary.json").read_text())["phases"]["mine"]
    assert result["model"] == "parts:Linear"
    assert result["parameters"] == 9 * 4 + 4 * 2 + 2
    row = json.loads((run / "mine/metrics.jsonl").read_text().splitlines()[-1])
    assert {"train/labels", "train/near", "train/far"} <= set(row)
    assert row["train/near"] != row["train/far"]
    assert json.loads((run / "mine/network.json").read_text())["model"] == "parts:Linear"
    evaluate = (
        "experiments.evaluate", f"--a={run / 'mine'}", f"--b={run / 'teacher'}",
        f"--import_from={folder}",
    )  # fmt: skip
    refused = command(*evaluate)
    assert refused.returncode == 2
    assert "'parts:read' is code, and a file names it: if you trust both, give --trust=parts" in (
        refused.stderr
    )
    evaluated = command(*evaluate, "--trust=parts")
    assert evaluated.returncode == 0, evaluated.stderr
    printed = json.loads(evaluated.stdout)
    assert printed["a"]["accuracy"] == result["test"]["accuracy"]
    assert printed["agreement"] == result["test"]["agreement"]
    before = (folder / "mine.py").read_text()
    (folder / "mine.py").write_text(before + "\n# Another loss.\n")
    changed = command(*main)
    (folder / "mine.py").write_text(before)
    assert changed.returncode == 2
    assert "belongs to another config: code.mine (" in changed.stderr
    assert "nothing was changed" in command(*main).stdout
    lost = command("experiments.evaluate", f"--a={run / 'mine'}", "--trust=parts")
    assert lost.returncode == 2
    (line,) = lost.stderr.strip().splitlines()
    assert line.startswith("error: cannot import 'parts' for data set 'parts:read'")


def test_the_example_of_contributing_runs(folder):
    done = command(
        "experiments.main", f"--config={folder / 'my_config.py'}", f"--workdir={folder / 'example'}",
        "--config.debug=True", "--config.teacher.model=small_run:Tiny",
        "--config.student.model=small_run:Tiny",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = json.loads((folder / "example/mine/metrics.jsonl").read_text().splitlines()[-1])
    assert row["train/mine"] >= 0
