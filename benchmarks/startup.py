"""Time from the command to the first step, with a cold and a warm compilation cache.

    python -m benchmarks.startup [--config_file=configs/function_matching.py]
    python -m benchmarks.startup --config_file=configs/train.py:wrn_40_2

Starts the command in an empty folder, waits for its first logged step and kills it, then
repeats this with the cache that the first run has filled. Times are in seconds. The last line
of the output is one JSON object.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from experiments import cli
from kdjax.types import UserError

_CONFIG = flags.DEFINE_string("config_file", "configs/function_matching.py", "The config to start.")


def _seconds(command: list[str], cache: Path, until: str) -> float:
    """Seconds until a command prints a line that contains `until`."""
    start = time.perf_counter()
    # The command configures its host itself.
    environment = os.environ | {
        "XLA_FLAGS": "", "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, *command], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout
        last = ""
        for line in process.stdout:
            if until in line:
                process.kill()
                return time.perf_counter() - start
            last = line
    raise UserError(f"{' '.join(command)} ended before its first step: {last.strip()}")


def main() -> None:
    """Measures the import, a cold start and a warm start."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        results = {
            "import": _seconds(["-c", "import experiments.run; print('done')"], cache, "done")
        }
        for name in ("cold", "warm"):
            command = ["-m", "experiments.main", f"--config={_CONFIG.value}"]
            command += [f"--workdir={folder}/{name}", "--config.log_every=1"]
            results[name] = _seconds(command, cache, " 1/")
    for name, seconds in results.items():
        print(f"{name:<7} {seconds:5.1f} s")
    print(json.dumps(results))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
