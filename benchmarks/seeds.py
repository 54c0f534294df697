"""Throughput of several seeds trained in one program and in consecutive runs.

    python -m benchmarks.seeds --teacher=wrn_16_2 --student=wrn_16_1 --seeds=3

Images per second of all seeds (`benchmarks.throughput`), measured in turns: with
`--config.seeds=0,1,2` (`together`); in a run of a single seed, which is what one run per seed
reaches (`in_turn`); and with `--config.seeds=0,1,2 --config.share_views` (`shared_views`). The
last line of the output is one JSON object.
"""

import json
import sys

from absl import flags

from benchmarks import turns, vs_pytorch
from experiments import cli

_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.")


def main() -> None:
    """Measures in turns and prints the table."""
    one_run = ["benchmarks.throughput"]
    one_run += [f"--{flag.name}={flag.value}" for flag in vs_pytorch.SAME]
    together = [*one_run, f"--seeds={_SEEDS.value}"]
    forms = {
        "together": together,
        "in_turn": one_run,
        "shared_views": [*together, "--share_views"],
    }
    numbers, last = turns.take(forms)
    ratios = turns.report(numbers, "images/s")
    ends = {name: json.loads(line) for name, line in last.items()}
    for name, end in ends.items():
        print(
            f"{name:<22} compiled in {end['compile_seconds']:.1f} s, "
            f"{end['step_temporary_bytes'] / 1e6:,.0f} MB of temporaries per device"
        )
    print(json.dumps({"images_per_second": numbers, **ratios, **ends}))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
