"""Several processes that train together, on one machine or on many.

JAX's own runtime (`jax.distributed`) connects them. Every process runs the same program on its
share of each batch, and holds the same state. Process 0 alone writes, and what it has read from a
checkpoint is sent to the others, so that all of them go on from the same bits.
"""

import json
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdjax.types import PyTree, UserError, first_line

T = TypeVar("T")

_connected = False
# After which a process that gives no sign of life is taken for gone. On a machine that is short of
# processor time ten have been too few.
_HEARTBEAT_SECONDS = 30


def start(address: str | None = None, number: int | None = None, index: int | None = None) -> None:
    """Connects this process with the others. Call it before JAX is first used.

    Without arguments, the runtime finds them where SLURM, MPI or Kubernetes has started the
    processes.

    Args:
      address: host and port of process 0, `HOST:PORT`, the same in all processes.
      number: of processes.
      index: of this process, from 0.

    Raises:
      UserError: if nothing is found, or no connection is made.
    """
    global _connected
    # It would take SIGTERM, after which runs save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address, number, index, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
        )
    except (RuntimeError, ValueError, TypeError) as error:
        where = f"process {index} of {number} at {address}" if address else "processes"
        raise UserError(f"{where} cannot be connected: {first_line(error)}") from None
    _connected = True


def count() -> int:
    """The number of processes."""
    return jax.process_count() if _connected else 1


def index() -> int:
    """The index of this process."""
    return jax.process_index() if _connected else 0


def is_main() -> bool:
    """Whether this is process 0, which writes."""
    return index() == 0


def barrier() -> None:
    """Returns when all processes have called it."""
    if count() > 1:
        multihost_utils.sync_global_devices("kdjax")


def broadcast(tree: PyTree) -> PyTree:
    """The arrays of process 0, in host memory; a single process keeps its own.

    Args:
      tree: arrays of the same shapes and types in all processes.
    """
    return multihost_utils.broadcast_one_to_all(jax.device_get(tree)) if count() > 1 else tree


def broadcast_json(value: T) -> T:
    """The value of process 0, which can be written as JSON."""
    if count() == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    # Arrays that are broadcast are of the same length everywhere.
    length = int(broadcast(np.int32(len(content))))
    padded = np.zeros(length, np.uint8)
    if is_main():
        padded[:] = content
    found: T = json.loads(broadcast(padded).tobytes().decode())
    return found


def largest(value: int) -> int:
    """The largest of the processes' values."""
    return int(gather(np.int32(value)).max()) if count() > 1 else value


def gather(array: np.ndarray | np.int32) -> np.ndarray:
    """The arrays of all processes, of one shape, in order: [...] -> [processes, ...]."""
    if count() == 1:
        return np.asarray(array)[None]
    gathered: Any = multihost_utils.process_allgather(array)
    return np.asarray(gathered).reshape(count(), *array.shape)
