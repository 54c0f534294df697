"""Throughput of data-free transfer in kdjax and in PyTorch, in pseudo-batches per second.

    python -m benchmarks.zero_shot --teacher=wrn_16_2 --student=wrn_16_1

A pseudo-batch is one update of the generator and `--student_steps` updates of the student, with
attention transfer, on images of `--image_size`. The PyTorch baselines use the same networks,
generator, losses, Adam and clipping on one thread per core, with PyTorch's defaults (`eager`)
and with channels last (`channels_last`). Each runs in a process of its own, in turns. Requires
the extra `torch`; `--opponents=` measures kdjax alone. The last line of the output is one JSON
object.
"""

import json
import sys
import time

from absl import flags

from benchmarks import turns, vs_pytorch
from experiments import cli
from kdjax.types import UserError

_BATCH = flags.DEFINE_integer("latents", 128, "Latents per pseudo-batch.")
_SIZE = flags.DEFINE_integer("image_size", 32, "Side of the images, a multiple of 4.")
_STUDENT_STEPS = flags.DEFINE_integer("student_steps", 10, "Student updates per pseudo-batch, n_S.")
_REPETITIONS = flags.DEFINE_integer("pseudo_batches", 1, "Pseudo-batches per turn.")
_WHO = flags.DEFINE_string("who", "", "Internal: what to measure.")

_OPPONENTS = ("eager", "channels_last")


def _run_kdjax() -> None:
    import jax

    from configs import common
    from experiments.data import PhaseData
    from experiments.length import Length, StepLimit
    from experiments.tasks import DataFree, Setup, StepInputs
    from kdjax import networks, parallel

    b, side = _BATCH.value, _SIZE.value
    devices = parallel.Devices.dividing(b)
    what = dict(num_classes=10, in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    student = networks.create(vs_pytorch.STUDENT.value, **what, axis_name=parallel.AXIS)
    teacher = networks.create(vs_pytorch.TEACHER.value, **what)
    config = common.inherit(
        common.base().student,
        batch_size=b,
        objective={"at": {"weight": 250.0}},
        adversarial={"student_steps": (_STUDENT_STEPS.value,)},
        optimizer={
            "name": "adam",
            "learning_rate": 2e-3,
            "weight_decay": 0.0,
            "grad_clip_norm": 5.0,
        },
    )
    data = PhaseData(splits={}, num_classes=10, channels=3, image_size=side)
    setup = Setup("zero_shot", config, student, [teacher], data, devices)
    # More pseudo-batches than a comparison makes.
    task = DataFree.create(setup, Length(StepLimit(100_000), 1.0))
    image = jax.ShapeDtypeStruct((1, side, side, 3), "float32")
    variables = jax.jit(lambda key: teacher.init(key, jax.numpy.zeros(image.shape)))(
        jax.random.key(1)
    )
    state = jax.jit(task.init)(jax.random.key(0), (variables,), None)
    inputs = StepInputs(
        teacher_variables=[(devices.replicate(variables),)],
        teacher_logits=[],
        keys=[devices.replicate(jax.random.key(2))],
        data_seeds=[0],
    )
    run_steps = task.make_step(inputs, 0)
    states = (devices.replicate(jax.device_get(state)),)
    step = 0
    for counts in turns.repetitions(1):
        start = time.perf_counter()
        for _ in range(_REPETITIONS.value):
            states, metrics = run_steps(states, step, 1)
            jax.block_until_ready((states, metrics))
            step += 1
        if counts:
            print(_REPETITIONS.value / (time.perf_counter() - start), flush=True)


def _run_opponent(kind: str) -> None:
    import torch
    import torch.nn.functional as F
    from torch import nn

    from benchmarks import pytorch

    torch.manual_seed(0)
    layout = torch.channels_last if kind == "channels_last" else torch.contiguous_format
    teacher = pytorch.network(vs_pytorch.TEACHER.value).eval()
    student = pytorch.network(vs_pytorch.STUDENT.value).train()
    teacher.requires_grad_(False)
    low = _SIZE.value // 4
    generator = nn.Sequential(
        nn.Linear(100, 128 * low * low),
        nn.Unflatten(1, (128, low, low)),
        nn.BatchNorm2d(128),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(128, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(64, 3, 3, padding=1),
        nn.BatchNorm2d(3),
    )
    for network in (teacher, student, generator):
        network.to(memory_format=layout)
    student_adam = torch.optim.Adam(student.parameters(), 2e-3)
    generator_adam = torch.optim.Adam(generator.parameters(), 1e-3)

    def outputs(network, x):
        """Logits and the outputs of the three stages before their activations."""
        taps = []
        for i, layer in enumerate(network):
            x = layer(x)
            if 0 < i < len(network) - 5 and i % ((len(network) - 6) // 3) == 0:
                taps.append(x)
        return x, taps

    def kl(s, t):
        return F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1), reduction="batchmean")

    def attention(x):
        return F.normalize(x.pow(2).mean(1).flatten(1))

    def update(loss, optimizer, network):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5)
        optimizer.step()

    def pseudo_batch():
        z = torch.randn(_BATCH.value, 100)
        x = generator(z).contiguous(memory_format=layout)
        update(-kl(student(x), teacher(x)), generator_adam, generator)
        with torch.no_grad():
            x = generator(z).contiguous(memory_format=layout)
            t, t_taps = outputs(teacher, x)
        for _ in range(_STUDENT_STEPS.value):
            s, s_taps = outputs(student, x)
            pairs = zip(s_taps, t_taps, strict=True)
            at = sum((attention(a) - attention(b)).pow(2).mean() for a, b in pairs)
            update(kl(s, t) + 250 * at, student_adam, student)

    for counts in turns.repetitions(1):
        start = time.perf_counter()
        for _ in range(_REPETITIONS.value):
            pseudo_batch()
        if counts:
            print(_REPETITIONS.value / (time.perf_counter() - start), flush=True)


def main() -> None:
    """Measures in turns and prints the table."""
    if _WHO.value == "kdjax":
        _run_kdjax()
    elif _WHO.value:
        _run_opponent(_WHO.value)
    if _WHO.value:
        return
    for kind in vs_pytorch.CHOSEN.value:
        if kind not in _OPPONENTS:
            raise UserError(f"unknown opponent {kind!r}: choose from {', '.join(_OPPONENTS)}")
    shared = (
        _BATCH,
        _SIZE,
        _STUDENT_STEPS,
        _REPETITIONS,
        vs_pytorch.TEACHER,
        vs_pytorch.STUDENT,
    )
    same = [f"--{flag.name}={flag.value}" for flag in shared]
    contenders = ("kdjax", *vs_pytorch.CHOSEN.value)
    commands = {who: ["benchmarks.zero_shot", *same, f"--who={who}"] for who in contenders}
    numbers, _ = turns.take(commands)
    ratios = turns.report(numbers, "pseudo-batches/s", digits=3)
    print(json.dumps({"pseudo_batches_per_second": numbers, **ratios}))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
