"""kdjax against PyTorch: the same KD step on the same cores, measured in turns.

    python -m benchmarks.vs_pytorch --teacher=wrn_16_2 --student=wrn_16_1

The PyTorch baselines do the same work: the same networks (`wrn_*`, three-stage `resnet*`), data
resident on the device, random crop and flip, KD and cross-entropy, SGD with momentum and weight
decay. `--opponents` selects them: PyTorch's defaults (`eager`), channels last
(`channels_last`), channels last with bfloat16 autocast (`bfloat16`), and channels last compiled
(`compile`; `graphs` uses CUDA graphs on a GPU). On a CPU they use one thread per core and, with
`--allocator`, kdjax's allocator settings. `--before` adds kdjax as another checkout has it. Each
runs in a process of its own, in turns, because the speed of a shared machine drifts. Requires
the extra `torch`. The last line of the output is one JSON object.
"""

import json
import sys
import time
from pathlib import Path

from absl import flags

from benchmarks import turns
from experiments import cli
from kdjax.types import UserError

TEACHER = flags.DEFINE_string("teacher", "wrn_16_2", "A Wide ResNet or ResNet.")
STUDENT = flags.DEFINE_string("student", "wrn_16_1", "A Wide ResNet or ResNet.")
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images per step.")
_STEPS = flags.DEFINE_integer("steps", 5, "Steps per turn.")
_ALLOCATOR = flags.DEFINE_bool("allocator", False, "Give PyTorch kdjax's allocator settings.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Type of kdjax: float32 or bfloat16.")
CHOSEN = flags.DEFINE_list("opponents", ["eager", "channels_last"], "Baselines to compare with.")
_BEFORE = flags.DEFINE_string("before", "", "A checkout of another commit, as an opponent.")
_OPPONENT = flags.DEFINE_string("opponent", "", "Internal: the baseline to measure.")

# Flags that all processes of a comparison share.
SAME = (TEACHER, STUDENT, _BATCH, _STEPS)
_OPPONENTS = ("eager", "channels_last", "bfloat16", "compile", "graphs")
_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


def _run_opponent(kind: str) -> None:
    """Measures PyTorch and prints images per second."""
    import torch
    import torch.nn.functional as F

    from benchmarks import pytorch

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    layout = torch.contiguous_format if kind == "eager" else torch.channels_last
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(device)
    teacher = pytorch.network(TEACHER.value).eval().to(memory_format=layout)
    student = pytorch.network(STUDENT.value).train().to(memory_format=layout)
    autocast = torch.autocast(device, torch.bfloat16, enabled=kind == "bfloat16")
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

    def objective(x, y):
        with torch.no_grad(), autocast:
            target = F.softmax(teacher(x).float() / temperature, 1)
        with autocast:
            logits = student(x)
        logits = logits.float()
        soft = F.log_softmax(logits / temperature, 1)
        kl = F.kl_div(soft, target, reduction="batchmean") * temperature**2
        return 0.1 * F.cross_entropy(logits, y) + 0.9 * kl

    if kind in ("compile", "graphs"):
        mode = "reduce-overhead" if kind == "graphs" else "default"
        objective = torch.compile(objective, mode=mode)

    def step():
        loss = objective(*batch())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    for counts in turns.repetitions(1):
        start = time.perf_counter()
        for _ in range(_STEPS.value):
            loss = step()
        loss.item()  # Waits for the device.
        if counts:
            speed = _STEPS.value * b / (time.perf_counter() - start)
            print(f"{speed:,.1f} images/s", flush=True)


def main() -> None:
    """Measures in turns and prints the table."""
    if _OPPONENT.value:
        _run_opponent(_OPPONENT.value)
        return
    for kind in CHOSEN.value:
        if kind not in _OPPONENTS:
            raise UserError(f"unknown opponent {kind!r}: choose from {', '.join(_OPPONENTS)}")
    same = [f"--{flag.name}={flag.value}" for flag in SAME]
    commands = {"kdjax": ["benchmarks.throughput", *same, f"--dtype={_DTYPE.value}"]}
    commands |= {k: ["benchmarks.vs_pytorch", *same, f"--opponent={k}"] for k in CHOSEN.value}
    environments = dict.fromkeys(CHOSEN.value, _MALLOC if _ALLOCATOR.value else {})
    if _BEFORE.value:
        if not (Path(_BEFORE.value) / "benchmarks" / "throughput.py").exists():
            # An installed kdjax, which may be this one, would be measured in its place.
            raise UserError(f"--before: there is no checkout of kdjax at {_BEFORE.value!r}")
        commands["before"] = commands["kdjax"]
        # The working directory, which is this checkout, is not on the path then.
        environments["before"] = {"PYTHONPATH": _BEFORE.value, "PYTHONSAFEPATH": "1"}
    numbers, last = turns.take(commands, environments)
    ratios = turns.report(numbers, "images/s")
    measured = {"images_per_second": numbers, **ratios, "allocator": _ALLOCATOR.value}
    print(json.dumps(measured | {"kdjax": json.loads(last["kdjax"])}))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
