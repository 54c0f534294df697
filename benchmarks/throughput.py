"""Throughput of the train step on the available devices.

    python -m benchmarks.throughput --teacher=wrn_16_2 --student=wrn_16_1 \\
        --batch_size=128 --steps=20

Measures steps only: data resident on the device, crop and flip inside the step, SGD,
synchronised batch norm; no evaluation and no checkpoints. Methods have their usual weights and
arguments. `--seeds=3` trains three students in one program and counts the images of all. The
last line of the output is one JSON object, in which

- `step_temporary_bytes` is the memory that XLA allocates for a step on one device, in addition
  to its inputs and outputs;
- `step_flop` counts the multiplications and additions by which the networks are defined: the
  teacher's forward pass (once if seeds share it) and three times each student's, since the
  gradients with respect to activations and to weights cost as much each;
- `matmul_flop_per_second` is the speed of all devices together on float32 (or bfloat16) products
  of 2048 x 2048 matrices in this process, and `share_of_matmul` the fraction of it that the step
  reaches. At 1 the step would be limited by arithmetic alone; fast convolution algorithms, which
  need fewer multiplications than the definition, can exceed it;
- `fewest_bytes` is the least memory traffic of a step, if every convolution's output is written
  and read once in the forward pass, the student's is read once more and its gradient written
  and read once in the backward pass, and everything else stays on the chip.
"""

import json
import resource
import statistics
import sys
import time
from typing import Any

import numpy as np
from absl import flags

from benchmarks import turns
from experiments import cli

_TEACHER = flags.DEFINE_string("teacher", "wrn_16_2", "Model, or empty for none.")
_STUDENT = flags.DEFINE_string("student", "wrn_16_1", "Model.")
_METHODS = flags.DEFINE_string("methods", "kd", "Methods joined by +.")
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images per step.")
_STEPS = flags.DEFINE_integer("steps", 20, "Steps per repetition.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Repetitions after a warm-up; their median counts.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "float32 or bfloat16.")
_SIZE = flags.DEFINE_integer("image_size", 32, "Side of the images.")
_CLASSES = flags.DEFINE_integer("num_classes", 10, "Classes.")
_PER_CALL = flags.DEFINE_integer("steps_per_call", 0, "0: the platform's default.")
_DEVICES = flags.DEFINE_integer("devices", 0, "Devices to use at most; 0 for all.")
_SYNC = flags.DEFINE_bool("sync_batch_norm", True, "Synchronise batch norm over devices.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Students trained in one program.")
_SHARE = flags.DEFINE_bool("share_views", False, "Show all seeds the same views.")


def _matmul_flop_per_second(devices: Any, dtype: str) -> float:
    """The best of five products of 2048 x 2048 matrices on all devices at once."""
    import jax
    import jax.numpy as jnp

    n = 2048
    product = devices.map(lambda x: x @ x, in_axes=(0,), out_axes=0)
    x = jnp.ones((len(devices), n, n), dtype)
    jax.block_until_ready(product(x))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(x))
        times.append(time.perf_counter() - start)
    return len(devices) * 2 * n**3 / min(times)


def main() -> None:
    """Measures what the flags describe."""
    import jax

    from configs.methods import objective
    from experiments import models
    from experiments.length import Length, StepLimit
    from experiments.objective import make_objective
    from kdjax import networks, optimizers, parallel, train
    from kdjax.data import batches, views
    from kdjax.types import TeacherInputs

    size, k, b = _SIZE.value, _CLASSES.value, _BATCH.value
    devices = parallel.Devices.dividing(b, _DEVICES.value)
    what = dict(num_classes=k, in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, dtype=_DTYPE.value)
    student = networks.create(
        _STUDENT.value, **what, axis_name=parallel.AXIS if _SYNC.value else None
    )
    teachers = [networks.create(_TEACHER.value, **what)] if _TEACHER.value else []
    names = _METHODS.value.split("+") if teachers else ["cross_entropy"]
    terms = objective(names, _TEACHER.value, _STUDENT.value)
    distiller = make_objective(terms, Length(StepLimit(1000), 100.0))
    shape = (size, size, 3)
    student = distiller.network(student, [train.abstract_outputs(t, shape)[0] for t in teachers])
    optimizer = optimizers.create("sgd", 0.05, weight_decay=5e-4)
    step = devices.map(
        train.make_train_step(
            student=student,
            distiller=distiller,
            optimizer=optimizer,
            views=views.make_views(num_classes=k, image_size=size),
            teachers=teachers,
            axis_name=parallel.AXIS,
            elementwise=True,
            several_seeds=True,
        ),
        in_axes=(None, None, None, 0, None),
        donate_argnums=0,
    )
    source = np.random.default_rng(0)
    n = 10_000
    data = {
        "images": source.integers(0, 256, (n, size, size, 3), np.uint8),
        "labels": source.integers(0, k, n, np.int32),
    }
    variables = tuple(
        jax.jit(t.init)(jax.random.key(1), np.zeros((1, *shape), np.float32)) for t in teachers
    )
    init = jax.jit(
        lambda rng, variables: train.init_state(
            rng, student=student, distiller=distiller, optimizer=optimizer, image_shape=shape,
            num_classes=k, batch_size=b, teachers=teachers, teacher_variables=variables,
            train_labels=data["labels"],
        )
    )  # fmt: skip
    seeds = range(_SEEDS.value)
    streams = range(1) if _SHARE.value else seeds
    states = tuple(init(jax.random.key(seed), variables) for seed in seeds)
    keys = tuple(jax.random.key(100 + seed) for seed in streams)
    teacher_inputs = (TeacherInputs(variables),)
    states, teacher_inputs, data, keys = devices.replicate((states, teacher_inputs, data, keys))
    per_call = _PER_CALL.value or parallel.default_steps_per_call(devices)
    calls = max(1, _STEPS.value // per_call)

    def batch(call: int) -> tuple[dict[str, np.ndarray], ...]:
        steps = range(call * per_call, (call + 1) * per_call)
        indices = [np.stack([batches.positions(n, b, seed, i) for i in steps]) for seed in streams]
        return tuple({"index": devices.shard(index, axis=1)} for index in indices)

    start = time.perf_counter()
    step = step.lower(states, teacher_inputs, data, batch(0), keys).compile()
    compile_seconds = time.perf_counter() - start
    memory = step.memory_analysis()
    speeds = []
    # The first repetition does not count: for dozens of steps, until the process has all the
    # memory that it needs, pages are still being allocated.
    for counts in turns.repetitions(_REPEATS.value):
        start = time.perf_counter()
        for call in range(calls):
            states, metrics = step(states, teacher_inputs, data, batch(call), keys)
            parallel.wait_on_cpu(metrics)
        jax.block_until_ready(metrics)
        images = calls * per_call * b * len(seeds)
        if counts:
            speeds.append(images / (time.perf_counter() - start))
            print(f"{speeds[-1]:,.1f} images/s", flush=True)
    speed = statistics.median(speeds)
    shape_of = dict(resolution=size, num_classes=k, in_channels=3)
    trained = models.describe(_STUDENT.value, **shape_of)
    step_flop = len(seeds) * 2 * b * 3 * trained.multiply_adds
    width = np.dtype(networks.DTYPES[_DTYPE.value]).itemsize
    fewest = len(seeds) * width * b * 5 * trained.activations
    if teachers:
        taught = models.describe(_TEACHER.value, **shape_of)
        step_flop += len(streams) * 2 * b * taught.multiply_adds
        fewest += len(streams) * width * b * 2 * taught.activations
    peak = _matmul_flop_per_second(devices, _DTYPE.value)
    print(
        json.dumps(
            {
                "images_per_second": speed,
                "step_flop": step_flop,
                "matmul_flop_per_second": peak,
                "share_of_matmul": speed / b / len(seeds) * step_flop / peak,
                "fewest_bytes": fewest,
                "compile_seconds": compile_seconds,
                "device": devices.devices[0].device_kind,
                "devices": len(devices),
                "dtype": _DTYPE.value,
                "teacher": _TEACHER.value,
                "student": _STUDENT.value,
                "methods": _METHODS.value,
                "batch_size": b,
                "steps_per_call": per_call,
                "seeds": len(seeds),
                "share_views": _SHARE.value,
                "sync_batch_norm": _SYNC.value,
                "step_temporary_bytes": memory and memory.temp_size_in_bytes,
                "host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
