"""Memory and disk of a run over many evaluations.

    python -m benchmarks.growth [--evaluations=300]

A small network is trained on a few digits and evaluated after each step. What the process and its
folder hold is printed after every tenth of the evaluations: it should not grow with them, but for
the log.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

_EVALUATIONS = flags.DEFINE_integer("evaluations", 300, "How many there are.")


def _size(folder: Path) -> int:
    sizes = []
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except FileNotFoundError:
            # A checkpoint was superseded meanwhile.
            continue
    return sum(sizes)


def _status(process: int) -> dict[str, int]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {key: int(values[key].split()[0]) for key in ("RssAnon", "Threads")}


def main(_: Sequence[str]) -> None:
    """Prints the table."""
    count = _EVALUATIONS.value
    print("| evaluations | memory, MB | handles | threads | log, kB | other files, kB |")
    print("|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "run")
        log = folder / "teacher" / "metrics.jsonl"
        process = subprocess.Popen(
            [
                sys.executable, "-m", "experiments.main",
                "--config=configs/train.py:digits,model=resnet8", "--config.train.batch_size=16",
                "--config.data.train_examples=16", "--config.log_every=1", "--config.eval_every=1",
                f"--config.train.steps={count}", f"--workdir={folder}",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        shown = 0
        while process.poll() is None and shown < count:
            time.sleep(0.02)
            rows = log.read_bytes().count(b"\n") if log.exists() else 0
            if rows < min(shown + max(1, count // 10), count):
                continue
            shown = rows
            try:
                status = _status(process.pid)
                handles = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            except (FileNotFoundError, KeyError):
                break
            logs = sum(path.stat().st_size for path in folder.rglob("metrics.jsonl"))
            logs += sum(path.stat().st_size for path in folder.rglob("*tfevents*"))
            print(
                f"| {rows} | {status['RssAnon'] / 1e3:.1f} | {handles} | {status['Threads']} "
                f"| {logs / 1e3:.0f} | {(_size(folder) - logs) / 1e3:.0f} |",
                flush=True,
            )  # fmt: skip
        sys.exit(process.wait())


if __name__ == "__main__":
    app.run(main)
