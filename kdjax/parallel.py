"""All that knows how many devices there are. The only file that names pmap.

A batch of b images is spread over the devices in equal, contiguous shards; state,
teachers and resident data are copied to each. Means over shards are averaged with
`pmean`, so a run does not depend on the number of devices beyond the order of a sum.
"""

import contextlib
import ctypes
import glob
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdjax.types import Array, PyTree, UserError

AXIS = "batch"

_MALLOPT = {
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
    "M_TOP_PAD": (-2, 256 << 20),
    "M_MMAP_MAX": (-4, 0),
}


def set_up_host() -> None:
    """Makes the CPU backend fast; call it before JAX is first used. Harmless beside a GPU.

    One single-threaded virtual device a core is two to three times as fast on
    convolutions as one device with all threads; for a device of one thread, an order of
    operations that lets many of them run at once only takes memory out of the cache (up to a
    third of the time and half of the temporary memory). Keeping freed memory, and asking for
    it in blocks that can be kept, spares XLA's temporary buffers their page faults in every
    step (a fifth of the time where a device has more than 64 MB of them); it is given back
    only when the process ends. Settings that the environment makes already
    (`XLA_FLAGS`, `MALLOC_*`) are left alone.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        flags += f" --xla_force_host_platform_device_count={cores}"
        if "xla_cpu_multi_thread_eigen" not in flags:
            flags += " --xla_cpu_multi_thread_eigen=false"
        if "xla_cpu_scheduler_type" not in flags:
            flags += " --xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
        if "xla_backend_extra_options" not in flags:
            # Unrolled, a loop over 16 or 32 channels is no longer computed as vectors.
            flags += " --xla_backend_extra_options=xla_cpu_disable_loop_unrolling"
        if "xla_multiheap_size" not in flags and not _has_gpu():
            # Blocks of more than 64 MB the C library gives back, to ask for them anew in every
            # step. The flag is every backend's, and a GPU's memory is not the C library's.
            flags += f" --xla_multiheap_size_constraint_per_heap={56 << 20}"
        if "xla_cpu_collective_call_terminate" not in flags:
            # By default a machine that sleeps or starves for 40 s ends the process.
            flags += " --xla_cpu_collective_call_terminate_timeout_seconds=3600"
        os.environ["XLA_FLAGS"] = flags.strip()
    if not any(key.startswith("MALLOC_") for key in os.environ):
        # Not glibc (macOS, musl): nothing to set.
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            for option, value in _MALLOPT.values():
                libc.mallopt(option, value)


def _has_gpu() -> bool:
    """Whether there seems to be one, as long as JAX may not be asked."""
    return bool(glob.glob("/dev/nvidia[0-9]*"))


def set_up_cache(folder: str) -> None:
    """Keeps compiled programs in `folder`, so that starting or resuming again is quick.

    On the CPU not those with more temporary memory than one block of `set_up_host`, which
    compile again each time.
    """
    # JAX would warn of each of them: XLA can write none whose memory is in several blocks.
    reason = "Multiple temp buffer allocations found"
    warnings.filterwarnings("ignore", f"(?s)Error writing persistent .*{reason}")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def on_cpu() -> bool:
    """Whether JAX computes on the CPU, where loops inside a program are slow."""
    return jax.default_backend() == "cpu"


def run_once() -> dict[str, Any]:
    """`compiler_options` of `jax.jit` for a program that runs once: fewer passes over it.

    Random initialisation makes long programs of little work, which take the CPU backend
    longer to compile than a train step.
    """
    return {"xla_backend_optimization_level": 1} if on_cpu() else {}


def settle(outputs: PyTree) -> None:
    """Waits for a call's outputs on the CPU; returns at once elsewhere.

    With several calls in flight, virtual devices share one pool of threads, and an
    all-reduce of one call has been seen waiting forever for a device whose thread another
    held. On an accelerator, calls in flight are what hides the host's work.
    """
    if on_cpu():
        jax.block_until_ready(outputs)


def default_steps_per_call() -> int:
    """Steps worth putting into one compiled call: 1 on CPU, where scans are slow, else 32."""
    return 1 if on_cpu() else 32


def loop(body: Callable[..., Any], carry: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    """`lax.scan`, written out on the CPU.

    XLA's CPU backend runs convolutions ten times slower inside a loop, even one of a
    single turn, which is what `lax.scan(..., unroll=True)` compiles to.
    """
    if not on_cpu():
        return jax.lax.scan(body, carry, xs)
    ys = []
    for i in range(jax.tree.leaves(xs)[0].shape[0]):
        carry, y = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
        ys.append(y)
    return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)


def own(given: Sequence[Any], seed: int) -> Any:
    """What belongs to one of several seeds, where there is one for each or one for all."""
    return given[seed if len(given) > 1 else 0]


class Devices:
    """The devices that share a batch, and what is done across them."""

    def __init__(self, devices: Sequence[jax.Device]):
        """Takes the devices to use, in order."""
        self.devices = list(devices)
        self.mesh = Mesh(np.array(self.devices), (AXIS,))
        self._replicated = NamedSharding(self.mesh, PartitionSpec())

    @classmethod
    def dividing(cls, size: int, at_most: int = 0) -> "Devices":
        """The most devices among which a batch of `size` images can be split evenly.

        Args:
          size: of the batch.
          at_most: the most to use; 0 for all there are.

        Raises:
          UserError: if `at_most` is more than there are, or negative.
        """
        available = jax.local_devices()
        if not 0 <= at_most <= len(available):
            raise UserError(f"devices is {at_most}: there are {len(available)}, 0 for all")
        limit = at_most or len(available)
        count = max(n for n in range(1, limit + 1) if size % n == 0)
        return cls(available[:count])

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def description(self) -> str:
        """For people: `cpu x4`, `NVIDIA H100 80GB HBM3`."""
        kind = self.devices[0].device_kind
        return kind if len(self) == 1 else f"{kind} x{len(self)}"

    def replicate(self, tree: PyTree) -> PyTree:
        """Copies a tree to every device.

        Placed under pmap's own axis name, so that the first call is traced once
        and not a second time for its own output's sharding.
        """
        return jax.device_put(tree, self._replicated)

    def shard(self, array: np.ndarray, axis: int = 0) -> np.ndarray:
        """[..., b, ...] -> [devices, ..., b / devices, ...], splitting `axis`."""
        return np.stack(np.split(array, len(self), axis))

    def map(
        self,
        fn: Callable[..., Any],
        in_axes: tuple[int | None, ...],
        out_axes: Any = None,
        **kwargs: Any,
    ) -> Callable[..., Any]:
        """`fn` compiled for all devices. Axis 0 is a sharded argument, None a replicated one.

        Replicated outputs (`out_axes` None) must have been averaged: this is not checked.
        """
        return jax.pmap(
            fn, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes, devices=self.devices, **kwargs
        )


def spread(tree: PyTree) -> PyTree:
    """Arrays split along axis 0 over as many devices as divide it, for programs of `jax.jit`.

    They are split without a program knowing it, so this is for work without sums over axis 0.
    """
    devices = Devices.dividing(len(jax.tree.leaves(tree)[0]))
    return jax.device_put(tree, NamedSharding(devices.mesh, PartitionSpec(AXIS)))


def index(axis_name: str | None) -> Array | int:
    """This device's place among those that share the batch."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name)


def places(b: int, axis_name: str | None) -> Array:
    """int [b]: where in the whole batch the examples of this device's shard are."""
    return index(axis_name) * b + jnp.arange(b)


def pmean(tree: PyTree, axis_name: str | None) -> PyTree:
    """Mean over the devices of a tree of floats.

    On the CPU the arrays travel as one: virtual devices meet, and wait for one another,
    once for every array of an all-reduce.
    """
    if axis_name is None:
        return tree
    if not on_cpu():
        return jax.lax.pmean(tree, axis_name)
    flat, unflatten = ravel_pytree(tree)
    return unflatten(jax.lax.pmean(flat, axis_name))


def all_gather(tree: PyTree, axis_name: str | None) -> PyTree:
    """The whole batch, in order, on every device: [b, ...] -> [devices * b, ...].

    The gradient of the mean over devices of a loss on it is that loss's gradient: each
    device gets back the sum of what all of them send to its examples.
    """
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), tree)


def roll(x: Array, axis_name: str | None) -> Array:
    """`jnp.roll(batch, 1, axis=0)` of the whole batch, for this device's shard of it.

    Only one example a device crosses to the next.
    """
    last = x[-1:]
    if axis_name is not None:
        n = jax.lax.axis_size(axis_name)
        last = jax.lax.ppermute(last, axis_name, [(i, (i + 1) % n) for i in range(n)])
    return jnp.concatenate([last, x[:-1]])
