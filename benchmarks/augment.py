"""Cost of augmentation policies and of their operators beside crop and flip.

    python -m benchmarks.augment [--batch_size=128] [--image_size=32] [--rounds=40]

Milliseconds per batch of noise on one device (on a CPU, of processor time, which other programs
disturb less): the views of a batch without augmentation, with crop and flip, and with crop, flip
and each policy (`kdjax.data.views.make_views`), and every operator on all images of the batch, as
a policy applies it (`nothing` is a policy without one). `at once` is the form for accelerators,
which runs every operator on every image. All programs take turns. The last line of the output is
one JSON object.
"""

import json
import statistics
import sys
import time

from absl import flags

from experiments import cli

_BATCH = flags.DEFINE_integer("batch_size", 128, "Images per batch.", lower_bound=1)
_SIZE = flags.DEFINE_integer("image_size", 32, "Side of the images.", lower_bound=8)
_ROUNDS = flags.DEFINE_integer("rounds", 40, "Turns of every program.", lower_bound=2)

# Values with which no operator returns the image.
_VALUES = {"posterize": 4.0, "solarize": 128.0, "solarize_add": 40.0, "rotate": 15.0, "cutout": 8.0,
           "cutout_abs": 8.0, "translate_x": 5.0, "translate_y": 5.0}  # fmt: skip
_VALUE = 0.3


def main() -> None:
    """Measures and prints line by line."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from kdjax import parallel
    from kdjax.data import policies, policy, views
    from kdjax.data.policy import Action, Policy

    b, size = _BATCH.value, _SIZE.value
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (b, size, size, 3)), jnp.uint8)
    fill = (0.5, 0.5, 0.5)

    def views_of(**augment):
        make = views.make_views(num_classes=10, image_size=size, fill=fill, **augment)
        return jax.jit(lambda key: make(key, images, jnp.zeros(b, int)).student)

    def operator(name, bicubic=False):
        action = Action(name, 1.0, (_VALUES.get(name, _VALUE),))
        one = Policy(((action,),), 1, (), bicubic=(name,) if bicubic else ())
        return jax.jit(lambda key: applied(one, key))

    def applied(chosen, key):
        pixels = views.as_pixels(images)
        return policy.apply(chosen, jax.random.split(key, b), pixels, jnp.array(fill))

    def at_once(program):
        with parallel.built_for("gpu"):
            return program.lower(jax.random.key(0)).compile()

    nothing = Policy(((Action("invert", 0.0),),), 1, ())
    programs = {
        "no augmentation": views_of(crop="none", flip=False),
        "crop and flip": views_of(),
        **{f"crop, flip, {name}": views_of(policy=name) for name in policies.POLICIES},
        "crop, flip, autoaugment_cifar10 at once": at_once(views_of(policy="autoaugment_cifar10")),
        "nothing": jax.jit(lambda key: applied(nothing, key)),
        **{name: operator(name) for name in policy.OPERATORS},
        "shear_x, bicubic": operator("shear_x", bicubic=True),
    }
    clock = time.process_time if parallel.on_cpu() else time.perf_counter
    seconds = {name: [] for name in programs}
    for turn in range(_ROUNDS.value + 1):
        key = jax.random.key(turn)
        for name, program in programs.items():
            start = clock()
            jax.block_until_ready(program(key))
            # The first turn compiles.
            if turn:
                seconds[name].append(clock() - start)
    results = {}
    for name, times in seconds.items():
        low, median, high = (1000 * q for q in statistics.quantiles(times, n=4))
        results[name] = median
        print(f"{name:<40} {median:8.2f} ms   (quartiles {low:.2f} and {high:.2f})")
    setting = dict(batch_size=b, image_size=size, device=jax.devices()[0].device_kind)
    print(json.dumps({"milliseconds": results, **setting}))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
