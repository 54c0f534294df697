"""Forward passes of several teachers of one architecture, one after another and stacked.

    python -m benchmarks.teachers [--model=distiller_resnet26] [--teachers=3] [--batch_size=128]

Milliseconds per batch of noise on all devices (on a CPU, of processor time, which other programs
disturb less) for the logits of all teachers in evaluation mode: in one program that calls one
teacher after another, as the train step does (`in_sequence`), and in one that maps the network
over variables stacked beforehand (`stacked`, by `jax.vmap`). The programs take turns. The last
line of the output is one JSON object.
"""

import json
import sys
import time

from absl import flags

from benchmarks import turns
from experiments import cli

_MODEL = flags.DEFINE_string("model", "distiller_resnet26", "Model.")
_TEACHERS = flags.DEFINE_integer("teachers", 3, "Teachers.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images per batch.", lower_bound=1)
_SIZE = flags.DEFINE_integer("image_size", 32, "Side of the images.", lower_bound=8)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of every program.", lower_bound=2)


def main() -> None:
    """Measures and prints the table."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from kdjax import networks, parallel

    b, size = _BATCH.value, _SIZE.value
    devices = parallel.Devices.dividing(b)
    network = networks.create(
        _MODEL.value, num_classes=10, in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    images = np.random.default_rng(0).random((b, size, size, 3), np.float32)
    init = jax.jit(network.init)
    teachers = [init(jax.random.key(i), images[:1]) for i in range(_TEACHERS.value)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *teachers)
    teachers, stacked = devices.replicate((teachers, stacked))
    images = devices.shard(images)

    def in_sequence(teachers, images):
        return jnp.stack([network.evaluate(teacher, images).logits for teacher in teachers])

    def mapped(stacked, images):
        return jax.vmap(lambda teacher: network.evaluate(teacher, images).logits)(stacked)

    programs = {}
    for name, function, variables in (
        ("in_sequence", in_sequence, teachers),
        ("stacked", mapped, stacked),
    ):
        lowered = devices.map(function, in_axes=(None, 0), out_axes=0).lower(variables, images)
        start = time.perf_counter()
        programs[name] = (lowered.compile(), variables)
        print(f"{name:<22} compiled in {time.perf_counter() - start:.1f} s")
    clock = time.process_time if parallel.on_cpu() else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in programs}
    logits = {}
    for turn in range(_ROUNDS.value + 1):
        for name, (program, variables) in programs.items():
            start = clock()
            logits[name] = jax.block_until_ready(program(variables, images))
            # The first turn allocates memory.
            if turn:
                times[name].append(1000 * (clock() - start))
    np.testing.assert_allclose(*logits.values(), rtol=1e-2, atol=1e-3)
    ratios = turns.report(times, "ms", digits=1)
    setting = dict(
        model=_MODEL.value, teachers=_TEACHERS.value, batch_size=b, image_size=size,
        device=devices.description,
    )  # fmt: skip
    print(json.dumps({"milliseconds": times, **ratios, **setting}))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
