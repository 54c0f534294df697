"""kdjax beside PyTorch: the same KD step on the same cores, taken in turns.

    python -m benchmarks.vs_pytorch --teacher=wrn_16_2 --student=wrn_16_1

The opponent does the same work: the same networks (Wide ResNets), data resident in
memory, random crop and flip, KD and cross-entropy, SGD with momentum and weight decay.
It is run as it comes (`eager`) and with channels last (`channels_last`), on as many
threads as there are cores, and, with `--allocator`, with the allocator settings that
kdjax uses. Each is a process of its own, and they take turns, because a shared machine
drifts. Needs the extra `torch`. The last line is one JSON object.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time

from absl import flags

from experiments import cli
from kdjax.types import UserError

TEACHER = flags.DEFINE_string("teacher", "wrn_16_2", "A wrn_{depth}_{width}.")
STUDENT = flags.DEFINE_string("student", "wrn_16_1", "A wrn_{depth}_{width}.")
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images a step.")
_STEPS = flags.DEFINE_integer("steps", 10, "Steps a repetition.")
TURNS = flags.DEFINE_integer("turns", 3, "How often each takes its turn; the median counts.")
_ALLOCATOR = flags.DEFINE_bool("allocator", False, "Give PyTorch kdjax's allocator settings too.")
_OPPONENT = flags.DEFINE_string("opponent", "", "For the script's own use.")

_OPPONENTS = ("eager", "channels_last")
_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


def wide_resnet(name: str):
    """The network of kdjax.models.wide_resnet, in PyTorch."""
    import torch.nn.functional as F
    from torch import nn

    match = re.fullmatch(r"wrn_(\d+)_(\d+)", name)
    if not match:
        raise UserError(f"the opponent knows wrn_{{depth}}_{{width}} only, not {name!r}")
    blocks, width = (int(match[1]) - 4) // 6, int(match[2])

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.shortcut = None
            if inputs != outputs or stride > 1:
                self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

        def forward(self, x):
            y = F.relu(self.norm1(x), inplace=True)
            x = x if self.shortcut is None else self.shortcut(y)
            return x + self.conv2(F.relu(self.norm2(self.conv1(y)), inplace=True))

    widths = [16, 16 * width, 32 * width, 64 * width]
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    for stage in range(3):
        for block in range(blocks):
            first = block == 0
            inputs = widths[stage] if first else widths[stage + 1]
            layers.append(Block(inputs, widths[stage + 1], 2 if stage and first else 1))
    layers += [nn.BatchNorm2d(widths[3]), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[3], 10))


def _run_opponent(kind: str) -> None:
    """Times PyTorch and prints images a second."""
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    layout = torch.channels_last if kind == "channels_last" else torch.contiguous_format
    teacher = wide_resnet(TEACHER.value).eval().to(memory_format=layout)
    student = wide_resnet(STUDENT.value).train().to(memory_format=layout)
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    b, temperature = _BATCH.value, 4.0
    images = torch.randint(0, 256, (10_000, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (10_000,))
    mean, std = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.25)

    def batch():
        index = torch.randint(0, len(images), (b,))
        padded = F.pad(images[index].float() / 255, (4, 4, 4, 4))
        rows = torch.randint(0, 9, (b, 1)) + torch.arange(32)
        columns = torch.randint(0, 9, (b, 1)) + torch.arange(32)
        columns = torch.where(torch.rand(b, 1) < 0.5, columns, columns.flip(1))
        every = torch.arange(b)[:, None, None]
        x = padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None]].permute(
            0, 3, 1, 2
        )
        return ((x - mean) / std).contiguous(memory_format=layout), labels[index]

    def step():
        x, y = batch()
        with torch.no_grad():
            target = F.softmax(teacher(x) / temperature, 1)
        logits = student(x)
        soft = F.log_softmax(logits / temperature, 1)
        kl = F.kl_div(soft, target, reduction="batchmean") * temperature**2
        loss = 0.1 * F.cross_entropy(logits, y) + 0.9 * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for _ in range(2):
        step()
    start = time.perf_counter()
    for _ in range(_STEPS.value):
        step()
    print(_STEPS.value * b / (time.perf_counter() - start))


def measure(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], env=os.environ | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Takes turns and prints the table."""
    if _OPPONENT.value:
        _run_opponent(_OPPONENT.value)
        return
    same = [f"--{flag.name}={flag.value}" for flag in (TEACHER, STUDENT, _BATCH, _STEPS)]
    # The child decides about its host itself, as a user's run would.
    clean = {"XLA_FLAGS": ""}
    speeds: dict[str, list[float]] = {name: [] for name in ("kdjax", *_OPPONENTS)}
    for _ in range(TURNS.value):
        line = measure(["benchmarks.throughput", *same, "--repeats=1"], clean)
        speeds["kdjax"].append(json.loads(line)["images_per_second"])
        for kind in _OPPONENTS:
            line = measure(
                ["benchmarks.vs_pytorch", *same, f"--opponent={kind}"],
                clean | (_MALLOC if _ALLOCATOR.value else {}),
            )
            speeds[kind].append(float(line))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        turns = ", ".join(f"{value:,.0f}" for value in values)
        print(f"{name:<14} {medians[name]:>8,.0f} images/s   ({turns})")
    ratios = {f"kdjax_over_{kind}": medians["kdjax"] / medians[kind] for kind in _OPPONENTS}
    print(json.dumps({"images_per_second": medians, **ratios, "allocator": _ALLOCATOR.value}))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
