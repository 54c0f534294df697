"""Device parallelism. The only module that names `pmap` or knows the number of devices.

A batch of b images is split over the devices in equal, contiguous shards; state,
teachers and resident data are replicated. Means over shards are averaged with
`pmean`, so a run depends on the number of devices only through the order of a sum.
The devices may be those of several processes (`kdjax.processes`), each of which has the
rows of the batch that its own devices take.
"""

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdjax import host, processes
from kdjax.types import Array, PyTree, UserError

AXIS = "batch"

T = TypeVar("T")


_platform: contextvars.ContextVar[str] = contextvars.ContextVar("platform", default="")


@contextlib.contextmanager
def built_for(platform: str) -> Iterator[None]:
    """Context in which programs are traced for a platform (`cpu`, `gpu`), here or elsewhere."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def on_cpu() -> bool:
    """Whether the program that is traced is for the CPU, where loops inside it are slow.

    `Devices.map` says what a program is for. Outside of it, it is for JAX's default device.
    """
    return (_platform.get() or jax.default_backend()) == "cpu"


def fast_compile_options() -> dict[str, Any]:
    """`compiler_options` of `jax.jit` for programs that run once: compile faster, run slower.

    Random initialisation makes long programs that do little work, which the CPU backend
    would take longer to compile than a train step. Its older emitters, where jaxlib has them,
    take less time than the newer ones.
    """
    if not on_cpu():
        return {}
    older = {"xla_cpu_use_fusion_emitters": False} if host.HAS_TWO_EMITTERS else {}
    return {"xla_backend_optimization_level": 1, **older}


def wait_on_cpu(outputs: PyTree) -> None:
    """Blocks until `outputs` are computed on the CPU; returns immediately on other devices.

    Virtual devices share one pool of threads. With several calls in flight, an all-reduce of
    one call can wait forever for a device whose thread another call holds. On accelerators,
    calls in flight are what hides the host's work.
    """
    if on_cpu():
        jax.block_until_ready(outputs)


def default_steps_per_call(devices: "Devices") -> int:
    """Train steps per compiled call: 1 on the CPU, where scans are slow, otherwise 32."""
    return 1 if devices.on_cpu else 32


def loop(body: Callable[..., Any], carry: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    """`lax.scan`, unrolled in Python on the CPU.

    XLA's CPU backend runs convolutions ten times slower inside a loop, even one of a single
    iteration, which is what `lax.scan(..., unroll=True)` compiles to.
    """
    if not on_cpu():
        return jax.lax.scan(body, carry, xs)
    ys = []
    for i in range(jax.tree.leaves(xs)[0].shape[0]):
        carry, y = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
        ys.append(y)
    return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)


def for_member(values: Sequence[T], i: int) -> T:
    """The value for the i-th of several seeds, from one value per seed or one shared by all."""
    return values[i if len(values) > 1 else 0]


class Devices:
    """The devices that share a batch, and the operations across them.

    Attributes:
      devices: all of them, in order.
      mesh: of all of them.
      of_process: those of this process.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        """Takes the devices to use, in order."""
        self.devices = list(devices)
        self.mesh = Mesh(np.array(self.devices), (AXIS,))
        self._processes = sorted({device.process_index for device in self.devices})
        # Programs take and return arrays on the devices of their own process.
        self.of_process = [one for one in self.devices if one.process_index == processes.index()]
        own = Mesh(np.array(self.of_process), (AXIS,))
        self._replicated = NamedSharding(own, PartitionSpec())

    @classmethod
    def dividing(cls, size: int, at_most: int = 0) -> "Devices":
        """As many devices as possible such that their number divides the batch size.

        Every process has the same number of them.

        Args:
          size: batch size, in examples.
          at_most: the most devices to use; 0 for all available.

        Raises:
          UserError: if `at_most` is negative or exceeds the number available, or the processes
            have different numbers of devices or cannot share a batch.
        """
        available = jax.devices()
        of_process: dict[int, list[jax.Device]] = {}
        for device in available:
            of_process.setdefault(device.process_index, []).append(device)
        numbers = [len(of_process[i]) for i in sorted(of_process)]
        if len(set(numbers)) > 1:
            raise UserError(
                f"processes have {', '.join(map(str, numbers))} devices: give all the same number"
            )
        if not 0 <= at_most <= len(available):
            raise UserError(f"devices is {at_most}: there are {len(available)}, and 0 uses all")
        limit, several = at_most or len(available), len(of_process)
        counts = [n for n in range(1, limit // several + 1) if size % (n * several) == 0]
        if not counts:
            raise UserError(
                f"{several} processes with at most {limit} devices cannot share batches "
                f"of {size}: the batch must be a multiple of the processes, each with a device"
            )
        return cls([one for i in sorted(of_process) for one in of_process[i][: max(counts)]])

    @classmethod
    def local(cls) -> "Devices":
        """All devices of this process, which computes by itself with them."""
        return cls(jax.local_devices())

    def __len__(self) -> int:
        return len(self.devices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Devices) and self.devices == other.devices

    def __hash__(self) -> int:
        return hash(tuple(self.devices))

    @property
    def on_cpu(self) -> bool:
        """Whether they are CPUs."""
        return bool(self.devices[0].platform == "cpu")

    @property
    def description(self) -> str:
        """A human-readable description: `cpu x4`, `NVIDIA H100 80GB HBM3 x8, 2 processes`."""
        kind = self.devices[0].device_kind
        number = f" x{len(self)}" if len(self) > 1 else ""
        of = f", {len(self._processes)} processes" if len(self._processes) > 1 else ""
        return f"{kind}{number}{of}"

    @property
    def memory(self) -> int:
        """Bytes that all of them have together; of virtual devices, those of the machine."""
        stats = self.of_process[0].memory_stats()
        if stats and "bytes_limit" in stats:
            return int(stats["bytes_limit"]) * len(self)
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def replicate(self, tree: PyTree) -> PyTree:
        """Copies a tree to every device.

        The sharding is the one `map` gives its outputs, so that a mapped step is traced once
        and not a second time for its own output's sharding.
        """
        return jax.device_put(tree, self._replicated)

    def abstract(self, tree: PyTree) -> PyTree:
        """What a program is compiled for before the arrays that will be replicated are there."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._replicated), tree
        )

    @property
    def share(self) -> tuple[int, int]:
        """Which part of a batch is this process's, and of how many parts."""
        return self._processes.index(processes.index()), len(self._processes)

    def own(self, array: np.ndarray, axis: int = 0) -> np.ndarray:
        """This process's rows of a batch: [..., b, ...] -> [..., b / processes, ...]."""
        i, n = self.share
        return np.split(array, n, axis)[i]

    def shard(self, array: np.ndarray, axis: int = 0) -> np.ndarray:
        """Splits this process's rows over its devices.

        `axis` is split: [..., b, ...] -> [devices, ..., b / devices, ...], with the numbers of
        rows and devices of this process.
        """
        return np.stack(np.split(array, len(self.of_process), axis))

    def gather(self, array: np.ndarray, axis: int = 0) -> np.ndarray:
        """The rows of all processes: the inverse of `own`."""
        if len(self._processes) == 1:
            return array
        return np.concatenate(list(processes.gather(array)), axis)

    def map(
        self,
        fn: Callable[..., Any],
        in_axes: tuple[Any, ...],
        out_axes: Any = None,
        **kwargs: Any,
    ) -> jax.stages.Wrapped:
        """Compiles `fn` for all devices with `jax.pmap`.

        Args:
          fn: a function of positional arguments.
          in_axes: for each argument, or part of it, 0 if it is sharded (`shard`), None if
            replicated. Sharded outputs are those of this process.
          out_axes: likewise for the outputs. Replicated outputs must be equal on all devices
            (averaged with `pmean`); this is not checked.
          **kwargs: further arguments of `jax.pmap`.
        """

        def for_devices(*args: Any) -> Any:
            with built_for(self.devices[0].platform):
                return fn(*args)

        return jax.pmap(
            for_devices, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes, devices=self.devices,
            **kwargs,
        )  # fmt: skip


def spread(tree: PyTree) -> PyTree:
    """Splits arrays along axis 0 over as many devices as divide it, for `jax.jit` programs.

    The program is not written for several devices, so this is for work without sums over
    axis 0.
    """
    size, available = len(jax.tree.leaves(tree)[0]), jax.local_devices()
    count = max(n for n in range(1, len(available) + 1) if size % n == 0)
    mesh = Mesh(np.array(available[:count]), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def index(axis_name: str | None) -> Array | int:
    """This device's index among those that share the batch."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name)


def size(axis_name: str | None) -> int:
    """The number of devices that share the batch."""
    return 1 if axis_name is None else int(jax.lax.axis_size(axis_name))


def batch_indices(b: int, axis_name: str | None) -> Array:
    """Indices of this device's b examples in the whole batch, int32 [b]."""
    return index(axis_name) * b + jnp.arange(b)


def pmean(tree: PyTree, axis_name: str | None) -> PyTree:
    """Mean of a tree of floats over the devices.

    On the CPU the arrays are concatenated into one: virtual devices synchronise once for
    every array of an all-reduce.
    """
    if axis_name is None:
        return tree
    if not on_cpu():
        return jax.lax.pmean(tree, axis_name)
    flat, unflatten = ravel_pytree(tree)
    return unflatten(jax.lax.pmean(flat, axis_name))


def all_gather(tree: PyTree, axis_name: str | None) -> PyTree:
    """The whole batch, in order, on every device: [b, ...] -> [devices * b, ...].

    The gradient of the mean over devices of a loss of the whole batch is the gradient of that
    loss: each device receives the sum of the gradients that all devices compute for its shard.
    """
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), tree)


def roll(x: Array, axis_name: str | None) -> Array:
    """This device's shard of `jnp.roll(batch, 1, axis=0)`.

    Each device sends only its last example to the next.
    """
    last = x[-1:]
    if axis_name is not None:
        n = size(axis_name)
        last = jax.lax.ppermute(last, axis_name, [(i, (i + 1) % n) for i in range(n)])
    return jnp.concatenate([last, x[:-1]])
