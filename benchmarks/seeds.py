"""Several seeds in one program beside one run a seed, taken in turns.

    python -m benchmarks.seeds --teacher=wrn_16_2 --student=wrn_16_1 --seeds=3

Images a second of all seeds together (`benchmarks.throughput`): of one run, of which three
would follow each other; of `--config.seeds=0,1,2`; and of that with `--config.share_views`.
The last line is one JSON object.
"""

import json
import statistics
import sys

from absl import flags

from benchmarks import vs_pytorch
from experiments import cli

_SEEDS = flags.DEFINE_integer("seeds", 3, "How many.")


def main() -> None:
    """Takes turns and prints the table."""
    same = ["benchmarks.throughput", "--repeats=1"]
    same += [f"--{flag.name}={flag.value}" for flag in vs_pytorch.SAME]
    together = [*same, f"--seeds={_SEEDS.value}"]
    forms = {
        "one after another": same,
        "together": together,
        "together, shared views": [*together, "--share_views"],
    }
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in forms}
    for _ in range(vs_pytorch.TURNS.value):
        for name, command in forms.items():
            measured[name].append(json.loads(vs_pytorch.measure(command)))
    for name, runs in measured.items():
        speeds = [run["images_per_second"] for run in runs]
        print(
            f"{name:<24} {statistics.median(speeds):>7,.0f} images/s   "
            f"({', '.join(f'{speed:,.0f}' for speed in speeds)}), compiled in "
            f"{statistics.median(run['compile_seconds'] for run in runs):.1f} s, "
            f"{runs[0]['step_temporary_bytes'] / 1e6:,.0f} MB of temporaries a device"
        )
    print(json.dumps(measured))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
