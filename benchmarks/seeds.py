"""Several seeds in one program beside one run a seed, taken in turns.

    python -m benchmarks.seeds --teacher=wrn_16_2 --student=wrn_16_1 --seeds=3

Images a second of all seeds together (`benchmarks.throughput`): of `--config.seeds=0,1,2`
(`together`); of one run, of which three would follow each other (`in_turn`); and of
`--config.seeds=0,1,2` with `--config.share_views`.
The last line is one JSON object.
"""

import json
import sys

from absl import flags

from benchmarks import turns, vs_pytorch
from experiments import cli

_SEEDS = flags.DEFINE_integer("seeds", 3, "How many.")


def main() -> None:
    """Takes turns and prints the table."""
    same = ["benchmarks.throughput"]
    same += [f"--{flag.name}={flag.value}" for flag in vs_pytorch.SAME]
    together = [*same, f"--seeds={_SEEDS.value}"]
    forms = {
        "together": together,
        "in_turn": same,
        "shared_views": [*together, "--share_views"],
    }
    numbers, last = turns.take(forms)
    ratios = turns.report(numbers, "images/s")
    ends = {name: json.loads(line) for name, line in last.items()}
    for name, end in ends.items():
        print(
            f"{name:<22} compiled in {end['compile_seconds']:.1f} s, "
            f"{end['step_temporary_bytes'] / 1e6:,.0f} MB of temporaries a device"
        )
    print(json.dumps({"images_per_second": numbers, **ratios, **ends}))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
