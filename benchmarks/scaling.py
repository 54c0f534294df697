"""Throughput and memory against batch size, number of devices, depth and width.

    python -m benchmarks.scaling [--what=batch_size,devices,depth,width] [--markdown]

KD from `wrn_16_2` to `wrn_16_1` in batches of 128 unless varied; for depth and width, KD from
each network to itself. Each line is `benchmarks.throughput` in a process of its own. If one
fails, for example because there are not enough devices, its error is printed and the line is
omitted. The last line of the output is one JSON object.
"""

import json
import sys

from absl import flags

from benchmarks import turns
from experiments import cli
from kdjax.types import UserError

_WHAT = flags.DEFINE_list("what", ["batch_size", "devices", "depth", "width"], "What to vary.")
_STEPS = flags.DEFINE_integer("scaling_steps", 5, "Steps per repetition; there are three.")
_MARKDOWN = flags.DEFINE_bool("markdown", False, "Print a Markdown table.")

_BATCH_SIZES = (32, 64, 128, 256, 512, 1024)
_DEVICES = (1, 2, 4)
_DEPTHS = ("wrn_10_1", "wrn_16_1", "wrn_28_1", "wrn_40_1")
_WIDTHS = ("wrn_16_1", "wrn_16_2", "wrn_16_4")


def _lines(what: str) -> list[tuple[str, list[str]]]:
    """Labels of the lines and their flags of `benchmarks.throughput`."""
    if what == "batch_size":
        return [(f"batch {b}", [f"--batch_size={b}"]) for b in _BATCH_SIZES]
    if what == "devices":
        return [(f"devices {n}", [f"--devices={n}"]) for n in _DEVICES]
    if what in ("depth", "width"):
        models = _DEPTHS if what == "depth" else _WIDTHS
        return [(model, [f"--teacher={model}", f"--student={model}"]) for model in models]
    raise UserError(f"unknown what {what!r}: choose from batch_size, devices, depth, width")


def main() -> None:
    """Measures and prints line by line."""
    lines = [line for what in _WHAT.value for line in _lines(what)]
    titles = ("", "images/s", "share of matmul", "host peak MB", "device temporary MB")
    if _MARKDOWN.value:
        print("| " + " | ".join(titles) + " |\n|---|" + "---:|" * 4)
    else:
        print("{:<12} {:>9} {:>16} {:>13} {:>20}".format(*titles))
    results = {}
    for name, arguments in lines:
        command = ["benchmarks.throughput", f"--steps={_STEPS.value}", *arguments]
        try:
            result = results[name] = json.loads(turns.last_line(command))
        except UserError as error:
            print(error, file=sys.stderr)
            continue
        cells = (
            f"{result['images_per_second']:.0f}",
            f"{result['share_of_matmul']:.2f}",
            f"{result['host_peak_bytes'] / 1e6:.0f}",
            f"{result['step_temporary_bytes'] / 1e6:.0f}",
        )
        if _MARKDOWN.value:
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        else:
            print("{:<12} {:>9} {:>16} {:>13} {:>20}".format(name, *cells), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
