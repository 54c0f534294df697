"""Throughput and memory of data that is decoded while a network trains.

    python -m benchmarks.streaming [--sizes=64,160] [--workers=0,1,2] [--steps=2000]

Makes JPEGs of `--stored` pixels, from noise of several scales or from the images of `--data`
enlarged, as a folder and as ArrayRecord files. For each image size, three things follow.

- The loader alone: batches of inception crops of the whole images (`data.whole`), decoded by
  threads (0) or worker processes, without a network.
- A run of `experiments.main` that takes its batches from there, with the most workers, beside two
  runs whose images were resized and are on the device. `data` is the share of the time of steps
  in which they waited for a batch (`seconds_of` in summary.json).
- What the first run's processes hold together (proportional set size, which counts shared pages
  once), in the first and in the last quarter of its steps, and at most. Linux only.

The last line of the output is one JSON object.
"""

import gc
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from experiments import cli
from kdjax.data import batches, sources, whole
from kdjax.types import UserError

_SIZES = flags.DEFINE_list("sizes", ["64", "160"], "Sides of what the networks see, in pixels.")
_WORKERS = flags.DEFINE_list("workers", ["0", "1", "2"], "Processes that decode.")
_STEPS = flags.DEFINE_integer("steps", 2000, "Steps of the run that streams.", lower_bound=40)
_RESIDENT = flags.DEFINE_integer("resident_steps", 200, "Steps of the other runs.", lower_bound=2)
_BATCHES = flags.DEFINE_integer("batches", 60, "Batches of the loader alone.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 32, "Images per step.")
_MODEL = flags.DEFINE_string("model", "resnet8", "The network.")
_IMAGES = flags.DEFINE_integer("images", 1024, "JPEGs in the training split.", lower_bound=80)
_STORED = flags.DEFINE_list("stored", ["500", "375"], "Width and height of the JPEGs.")
_DATA = flags.DEFINE_string("data", "", "Data set whose images are enlarged; empty for noise.")
_DIR = flags.DEFINE_string("dir", "", "Folder of that data set.")

_CLASSES = 8
_QUALITY = 90
_SCALE = (0.08, 1.0)
# Side of resized images over that of what networks see, as 256 and 224.
_MARGIN = 8 / 7


def _pictures(count: int) -> Iterator[np.ndarray]:
    """Images uint8 [h, w, 3] to be stored."""
    width, height = map(int, _STORED.value)
    bicubic, rng = Image.Resampling.BICUBIC, np.random.default_rng(0)

    def enlarged(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).convert("RGB").resize((width, height), bicubic))

    if _DATA.value:
        split = sources.load(_DATA.value, dir=_DIR.value).train
        for i in range(count):
            yield enlarged(split.images[np.array([i % len(split)])][0].squeeze())
        return
    for _ in range(count):
        sides = ((max(2, height >> k), max(2, width >> k), 3) for k in (7, 5, 3, 1))
        parts = (enlarged(rng.integers(0, 256, side, np.uint8)) for side in sides)
        shares = (0.4, 0.3, 0.2, 0.1)
        mixed = sum(share * part for share, part in zip(shares, parts, strict=True))
        yield np.asarray(mixed).astype(np.uint8)


def _store(folder: Path) -> float:
    """Writes the JPEGs as a folder `files` and as ArrayRecords `records`; mean bytes of a JPEG."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    pictures, sizes = _pictures(_IMAGES.value + _CLASSES), []
    (folder / "records").mkdir()
    for part, count in (("test", _CLASSES), ("train", _IMAGES.value)):
        writer = ArrayRecordWriter(str(folder / "records" / f"{part}.array_record"), "group_size:1")
        for i, picture in enumerate(itertools.islice(pictures, count)):
            file = folder / "files" / part / f"class{i % _CLASSES}" / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file, quality=_QUALITY)
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(file.read_bytes())
            example.features.feature["label"].int64_list.value.append(i % _CLASSES)
            writer.write(example.SerializeToString())
            sizes.append(file.stat().st_size)
        writer.close()
    return statistics.mean(sizes)


def _loader(name: str, size: int, workers: int) -> float:
    """Images per second of the loader alone."""
    split = sources.load(name, resize=round(size * _MARGIN), whole=True, memory=0).train
    first = 4 * (workers + 1)
    stream = batches.stream(
        split, batch_size=_BATCH.value, seed=0, start=0, stop=first + _BATCHES.value + 1,
        workers=workers, crops=whole.Crops(_SCALE, size),
    )  # fmt: skip
    # Workers start, and buffers fill, during the first of them.
    for _ in itertools.islice(stream, first):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(stream, _BATCHES.value):
        pass
    seconds = time.perf_counter() - start
    for _ in stream:
        pass
    del stream
    # Grain's iterators are parts of cycles, which keep the last batch and the workers' queues.
    gc.collect()
    return _BATCHES.value * _BATCH.value / seconds


def held_by(process: int) -> int:
    """Bytes that a process and its descendants hold together."""
    parents, total = {}, 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
    for one in parents:
        ancestor = one
        while ancestor not in (process, 0):
            ancestor = parents.get(ancestor, 0)
        if ancestor == process:
            try:
                rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
            except OSError:  # It has ended.
                continue
            total += sum(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Pss:"))
    return 1024 * total


def last_step(log: Path) -> int:
    """The step of the last complete row of a run's log; 0 before the first."""
    if not log.exists():
        return 0
    complete = log.read_text().rpartition("\n")[0].splitlines()
    return int(json.loads(complete[-1])["step"]) if complete else 0


def _run(
    folder: Path, data: Mapping[str, Any], steps: int
) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """Trains the network.

    Returns:
      The phase in summary.json, and (step, bytes) as long as there were steps to be made.
    """
    command = [
        sys.executable, "-m", "experiments.main", f"--workdir={folder}",
        f"--config=configs/train.py:{_MODEL.value}",
        *(f"--config.data.{key}={value}" for key, value in data.items()),
        f"--config.train.batch_size={_BATCH.value}",
        "--config.train.augment.crop=inception", f"--config.train.augment.scale={_SCALE}",
        f"--config.teacher.steps={steps}", f"--config.log_every={max(1, steps // 40)}",
        "--config.eval_every=0",
    ]  # fmt: skip
    samples = []
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        while process.poll() is None:
            time.sleep(0.5)
            if 0 < (step := last_step(folder / "teacher" / "metrics.jsonl")) < steps:
                samples.append((step, held_by(process.pid)))
        if process.returncode:
            errors.seek(0)
            lines = errors.read().strip().splitlines() or ["no message"]
            raise UserError(f"a run failed with status {process.returncode}: {lines[-1]}")
    summary = json.loads((folder / "summary.json").read_text())
    return {**summary["phases"]["teacher"], "device": summary["device"]}, samples


def quarters(samples: list[tuple[int, int]], steps: int) -> dict[str, float]:
    """MB held in the first and the last quarter of the steps (medians), and at most."""
    first = [held for step, held in samples if step <= steps / 4]
    last = [held for step, held in samples if step >= steps * 3 / 4]
    figures = {
        "first": first,
        "last": last,
        "most": [max((held for _, held in samples), default=0)],
    }
    return {
        key: statistics.median(values) / 1e6 if values else float("nan")
        for key, values in figures.items()
    }


def _share_waited(phase: Mapping[str, Any]) -> float:
    parts = phase["seconds_of"]
    return float(parts["data"] / (parts["data"] + parts["steps"]))


def _table(*titles: str) -> None:
    print("\n| " + " | ".join(titles) + " |\n|---|" + "---:|" * (len(titles) - 1), flush=True)


def _row(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    """Measures and prints table by table."""
    sizes, workers = [[int(x) for x in flag.value] for flag in (_SIZES, _WORKERS)]
    result: dict[str, Any] = {"loader": {}, "runs": {}, "memory": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        result["jpeg_bytes"] = _store(folder)
        names = {
            "folder": f"folder:{folder}/files",
            "array_record": f"array_record:{folder}/records",
        }
        print(
            f"{_IMAGES.value} JPEGs of {'x'.join(_STORED.value)} pixels, "
            f"{result['jpeg_bytes'] / 1e3:.0f} kB on average; batches of {_BATCH.value}"
        )
        _table("loader alone, images/s", *(f"{n} workers" for n in workers))
        for size, (kind, name) in itertools.product(sizes, names.items()):
            speeds = [_loader(name, size, n) for n in workers]
            result["loader"][f"{kind}, {size}"] = dict(zip(workers, speeds, strict=True))
            _row(f"{kind}, {size} pixels", *(f"{speed:.0f}" for speed in speeds))
        _table(f"{_MODEL.value}", "images/s", "data")
        for size in sizes:
            given = {"name": names["folder"], "resize": round(size * _MARGIN), "image_size": size}
            streamed = {**given, "whole": True, "memory": 0, "workers": max(workers)}
            for i, (what, data, steps) in enumerate(
                [
                    ("on the device", given, _RESIDENT.value),
                    (f"streamed by {max(workers)} workers", streamed, _STEPS.value),
                    ("on the device again", given, _RESIDENT.value),
                ]
            ):
                phase, samples = _run(folder / f"run{size}_{i}", data, steps)
                speed, waited = phase["images_per_second"], _share_waited(phase)
                result["runs"][f"{what}, {size}"] = {"images_per_second": speed, "data": waited}
                result["device"] = phase["device"]
                _row(f"{what}, {size} pixels", f"{speed:.1f}", f"{waited:.1%}")
                if data is streamed:
                    result["memory"][str(size)] = quarters(samples, steps)
        _table(f"MB over {_STEPS.value} steps", "first quarter", "last quarter", "at most")
        for size, figures in result["memory"].items():
            _row(f"streamed, {size} pixels", *(f"{figure:.0f}" for figure in figures.values()))
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
