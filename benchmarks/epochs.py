"""Throughput of whole runs, including evaluation, logging and checkpoints.

    python -m benchmarks.epochs --teacher=wrn_16_2 --student=wrn_16_1 --methods=kd

Executes the runner itself (`experiments.main` with the CIFAR-10 protocol of
`configs/distill.py`) on noise of CIFAR-10's size: a teacher trained for one step, then the
student for `--epochs`. `steps`, `data`, `logging`, `evaluation` and `checkpoints` are the seconds
that the student's phase spends on each (`seconds_of` in summary.json). Evaluation includes the
compilation of its programs; steps do not. The last line of the output is one JSON object.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import turns
from experiments import cli

_TEACHER = flags.DEFINE_string("teacher", "wrn_16_2", "Model.")
_STUDENT = flags.DEFINE_string("student", "wrn_16_1", "Model.")
_METHODS = flags.DEFINE_string("methods", "kd", "Methods joined by +.")
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images per step.")
_EPOCHS = flags.DEFINE_integer("epochs", 2, "Epochs of the student.")
_TRAIN = flags.DEFINE_integer("train_images", 50_000, "Training images.")
_EVERY = flags.DEFINE_float("eval_every", 1.0, "Epochs between evaluations.")
_TEST = flags.DEFINE_integer("test_images", 10_000, "Test images.")


def _noise(file: Path) -> None:
    source = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", _TRAIN.value), ("test", _TEST.value)):
        arrays[f"{split}_images"] = source.integers(0, 256, (n, 32, 32, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(n) % 10
    np.savez(file, **arrays)


def main() -> None:
    """Runs and prints how the time was spent."""
    with tempfile.TemporaryDirectory() as folder:
        _noise(Path(folder) / "noise.npz")
        pair = f"teacher={_TEACHER.value},student={_STUDENT.value},methods={_METHODS.value}"
        turns.last_line(
            [
                "experiments.main",
                f"--config=configs/distill.py:{pair},data=cifar10,scratch=0",
                f"--config.data.name=npz:{folder}/noise.npz",
                f"--config.train.batch_size={_BATCH.value}",
                f"--config.student.epochs={_EPOCHS.value}",
                "--config.teacher.steps=1",
                f"--config.eval_every={_EVERY.value}",
                f"--workdir={folder}/run",
            ]
        )
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    *_, phase = summary["phases"].values()
    parts = phase["seconds_of"]
    images = phase["steps"] * _BATCH.value
    result = {
        "images_per_second_of_steps": images / parts["steps"],
        "images_per_second": images / sum(parts.values()),
        "share_beside_steps": (sum(parts.values()) - parts["steps"]) / parts["steps"],
        "seconds_of": parts,
        "device": summary["device"],
    }
    for name, seconds in parts.items():
        print(f"{name:<12} {seconds:8.2f} s")
    print(
        f"{result['images_per_second_of_steps']:,.0f} images/s of the steps alone, "
        f"{result['images_per_second']:,.0f} with everything else, which adds "
        f"{result['share_beside_steps']:.1%} to their time"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
