"""Where the log goes besides metrics.jsonl."""

import numpy as np
import pytest
from PIL import Image
from small_run import execute, refusal, small_config

from experiments import trackers
from experiments.log import read_metrics

LOGGED = []
PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


class Recorder:
    """A tracker of one's own."""

    def __init__(self, folder, step, config):
        LOGGED.append(("open", folder.name, step, config["model"]))
        self.name = folder.name

    def log(self, row, step):
        LOGGED.append((self.name, step, dict(row)))

    def picture(self, image, step):
        LOGGED.append((self.name, step, image.shape))

    def close(self):
        LOGGED.append(("close", self.name))


def test_a_tracker_of_ones_own_gets_every_row_that_is_logged(tmp_path):
    LOGGED.clear()
    config = small_config()
    del config.phases["scratch"], config.phases["kd"]
    trackers.TRACKERS["recorder"] = Recorder
    try:
        config.trackers = ("recorder",)
        execute(config, tmp_path / "run")
    finally:
        del trackers.TRACKERS["recorder"]
    rows = read_metrics(tmp_path / "run/teacher/metrics.jsonl")
    assert [entry[1:] for entry in LOGGED if entry[0] == "teacher"] == [
        (row.pop("step"), row) for row in rows
    ]
    assert LOGGED[0] == ("open", "teacher", 0, "small_run:Tiny")
    assert LOGGED[-1] == ("close", "teacher")
    # Nothing else was opened.
    assert not (tmp_path / "run/teacher/tensorboard").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "unknown tracker 'tensorbord': choose from tensorboard, wandb, or module:f"),
        ("small_run:nothing", "tracker 'small_run:nothing': module 'small_run' has no 'nothing'"),
    ],
)
def test_unknown_trackers_are_refused_before_anything_is_written(tmp_path, name, message):
    config = small_config()
    config.trackers = (name,)
    assert message in refusal(config, tmp_path / "run")


def test_a_tracker_is_no_part_of_what_a_run_is(finished):
    config = small_config()
    config.trackers = ()
    _, printed = execute(config, finished)
    assert "nothing was changed" in printed


def test_wandb_keeps_rows_and_pictures_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("kd_seed0", "kd_seed1"):
        (tmp_path / name).mkdir()
    opened = [
        trackers.start(("wandb",), tmp_path / name, 0, {"model": "wrn_10_1"})[0]
        for name in ("kd_seed0", "kd_seed1")
    ]
    for one in opened:
        one.log({"train/loss": 0.5}, 10)
        # A resumed run logs a step again.
        one.log({"train/loss": 0.25}, 10)
        one.picture(PICTURE, 10)
    for one in opened:
        one.close()
    for name in ("kd_seed0", "kd_seed1"):
        (folder,) = (tmp_path / name / "wandb").glob("offline-run-*")
        (file,) = folder.glob("*.wandb")
        # The file has each value as text.
        content = file.read_bytes()
        for text in (name, tmp_path.name, "train/loss", "0.5", "0.25", "wrn_10_1"):
            assert text.encode() in content
        (picture,) = folder.glob("files/media/images/*.png")
        np.testing.assert_array_equal(np.asarray(Image.open(picture)), PICTURE)
