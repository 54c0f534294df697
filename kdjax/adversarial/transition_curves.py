"""How alike the decision boundaries of two networks are (Micaelli & Storkey 2019)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses, parallel
from kdjax.types import Array

# Trajectories per device at a time: on the CPU what fits into its caches, on accelerators
# enough to use them fully.
_TRAJECTORIES_ON_CPU, _TRAJECTORIES_ELSEWHERE = 32, 1024


def transition_curves(
    apply_a: Callable[[Array], Array],
    apply_b: Callable[[Array], Array],
    images: Array,
    labels: Array,
    *,
    steps: int,
    step_size: float,
    num_classes: int,
) -> tuple[Array, Array]:
    """Class probabilities along paths across network a's decision boundaries (Algorithm 2).

    Each image is moved towards each class other than its own, by gradient descent on a's
    cross-entropy with that class. All images and classes are processed together, on the CPU
    with one call of a compiled program per step, elsewhere in a single scan.

    Args:
      apply_a: from images [m, h, w, c] to logits [m, k], for the network whose gradient is
        followed. Images are in the space of its inputs, in which the steps are made.
      apply_b: the same for the network that is compared with it.
      images: [n, h, w, c]. The paper uses images to which a and b assign the same class.
      labels: int [n], the classes from which the paths start. The targets of image i are
        (labels[i] + 1) % k, (labels[i] + 2) % k, ... (labels[i] + k - 1) % k.
      steps: K, the number of points of each curve.
      step_size: xi, the factor of the gradient. Images are not clipped.
      num_classes: k.

    Returns:
      (p_a, p_b), each float32 [n, k - 1, steps]: the probability of the target class before
      each step.
    """
    n, others = len(images), num_classes - 1
    trajectories = n * others
    per_device = _TRAJECTORIES_ON_CPU if parallel.on_cpu() else _TRAJECTORIES_ELSEWHERE
    chunk_size = jax.local_device_count() * per_device
    # The last chunk is padded with trajectories that are dropped.
    num_chunks = -(-trajectories // chunk_size)
    index = np.arange(num_chunks * min(trajectories, chunk_size)) % trajectories
    offsets = np.arange(1, num_classes, dtype=np.int32)
    targets = ((np.asarray(labels, np.int32)[:, None] + offsets) % num_classes).reshape(-1)[index]
    start = np.asarray(images, np.float32)

    step = make_step(apply_a, apply_b, step_size)
    if parallel.on_cpu():
        # A loop inside a program is slow on the CPU.
        one_step = jax.jit(step, donate_argnums=0)

        def follow(x: Array, targets: Array) -> tuple[Any, Any]:
            curves = []
            for _ in range(steps):
                x, p = one_step(x, targets)
                parallel.wait_on_cpu(p)
                curves.append(p)
            p_a, p_b = zip(*jax.device_get(curves), strict=True)
            return np.stack(p_a), np.stack(p_b)
    else:
        follow = jax.jit(functools.partial(follow_all, step, steps))
    parts = []
    for chunk in np.split(index, max(1, len(index) // chunk_size)):
        x, t = parallel.spread((start[chunk // others], targets[chunk]))
        parts.append(jax.device_get(follow(x, t)))
    p_a, p_b = (np.concatenate(p, axis=1)[:, :trajectories] for p in zip(*parts, strict=True))
    return tuple(jnp.asarray(p).T.reshape(n, others, steps) for p in (p_a, p_b))  # type: ignore


def make_step(
    apply_a: Callable[[Array], Array], apply_b: Callable[[Array], Array], step_size: float
) -> Callable[[Array, Array], tuple[Array, tuple[Array, Array]]]:
    """A step towards the targets: `step(x, targets) -> (next x, (p_a, p_b))`."""

    def step(x: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
        def objective(x: Array) -> tuple[Array, Array]:
            logits = apply_a(x)
            return jnp.sum(losses.cross_entropy(logits, targets)), logits

        grad, logits_a = jax.grad(objective, has_aux=True)(x)
        p_a, p_b = (
            jnp.take_along_axis(jax.nn.softmax(logits), targets[:, None], axis=-1)[:, 0]
            for logits in (logits_a, apply_b(x))
        )
        return x - step_size * grad, (p_a, p_b)

    return step


def follow_all(
    step: Callable[..., Any], steps: int, x: Array, targets: Array
) -> tuple[Array, Array]:
    """All steps from `x` in one program, as on accelerators; (p_a, p_b), each [steps, m]."""
    curves: tuple[Array, Array] = jax.lax.scan(lambda x, _: step(x, targets), x, length=steps)[1]
    return curves


def mean_transition_error(p_a: Array, p_b: Array) -> Array:
    """Mean transition error (MTE): `|p_b - p_a|` averaged over images, classes and steps.

    Args:
      p_a: [n, k - 1, steps], from `transition_curves`.
      p_b: [n, k - 1, steps], from `transition_curves`.

    Returns:
      float32 [], in [0, 1].
    """
    return jnp.mean(jnp.abs(jnp.asarray(p_b) - jnp.asarray(p_a)))
