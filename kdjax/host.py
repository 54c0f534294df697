"""Process-wide settings of JAX: right sums and speed on the CPU, and a quick start.

jaxlib 0.10.2 silently computes some sums wrong on the CPU (`avoid_wrong_sums`). The programs of
`experiments` avoid this. A program of your own is not changed by importing kdjax: it calls
`set_up_host` or `avoid_wrong_sums` before JAX computes anything, or sets `XLA_FLAGS`.
"""

import contextlib
import ctypes
import glob
import os
import warnings

import jax
import jaxlib

# The versions whose sums are offloaded to a library with the errors that `avoid_wrong_sums`
# lists, and that know this flag. XLA aborts on a flag that it does not know.
AFFECTED_JAXLIBS = ("0.10.2", "0.11.0")
_NO_OFFLOADED_SUMS = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
# Whether XLA has two kinds of emitters for the CPU, and knows `xla_cpu_use_fusion_emitters`.
HAS_TWO_EMITTERS = tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 12)

_MALLOPT = {
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
    "M_TOP_PAD": (-2, 256 << 20),
    "M_MMAP_MAX": (-4, 0),
}


def avoid_wrong_sums() -> None:
    """Makes compiled sums right on the CPU. Call it before JAX is first used.

    jaxlib 0.10.2 hands reductions to YNNPACK. Compiled reductions of a product that have more
    than 32,768 results can then be wrong without any warning (jax-ml/jax#39103): of
    `jit(vmap(lambda r: sum((m @ r) ** 2)))` on float32 [40001, 3], 7,233 values are. Reductions
    of seven and more dimensions crash or hang, in jaxlib 0.11.0 too (jax-ml/jax#39257).

    On these two versions this adds a flag to `XLA_FLAGS` that leaves reductions to XLA, unless
    `XLA_FLAGS` already has that flag. On all others it does nothing.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    name = _NO_OFFLOADED_SUMS.partition("=")[0]
    if jaxlib.__version__ in AFFECTED_JAXLIBS and name not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_NO_OFFLOADED_SUMS}".strip()


def leave_out_shardy() -> None:
    """Compiles without Shardy, JAX's partitioner, unless `JAX_USE_SHARDY_PARTITIONER` is set.

    The programs of kdjax say themselves what each device computes, and leave nothing to be
    partitioned. For a deep network, Shardy's passes are a fifth of the compilation. XLA logs a
    warning that the older partitioner is deprecated, which `TF_CPP_MIN_LOG_LEVEL=2` hides. On
    versions of JAX without it, this does nothing.
    """
    if "JAX_USE_SHARDY_PARTITIONER" not in os.environ:
        with contextlib.suppress(AttributeError, ValueError):
            jax.config.update("jax_use_shardy_partitioner", False)


def set_up_host() -> None:
    """Configures the CPU backend for right sums and for speed. Call it before JAX is first used.

    Harmless where JAX computes on a GPU. What it sets:

    - Where jaxlib needs it, a flag without which sums can be wrong (`avoid_wrong_sums`).
    - One single-threaded virtual device per core, which is two to three times as fast on
      convolutions as one device with all threads.
    - For devices of one thread, a schedule that minimises memory: one that lets many
      operations run at once only evicts data from the cache (up to a third of the time and
      half of the temporary memory).
    - An allocator that keeps freed memory, and XLA buffers in blocks small enough to be kept.
      This spares XLA's temporary buffers their page faults in every step (a fifth of the time
      where a device has more than 64 MB of them). The memory is returned to the system only
      when the process ends.

    Settings already made in the environment (`XLA_FLAGS`, `MALLOC_*`) are left alone.
    """
    avoid_wrong_sums()
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        flags += f" --xla_force_host_platform_device_count={cores}"
        if "xla_cpu_multi_thread_eigen" not in flags:
            flags += " --xla_cpu_multi_thread_eigen=false"
        if "xla_cpu_scheduler_type" not in flags:
            flags += " --xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
        if "xla_backend_extra_options" not in flags:
            # Once unrolled, a loop over 16 or 32 channels is no longer vectorised.
            flags += " --xla_backend_extra_options=xla_cpu_disable_loop_unrolling"
        if "xla_multiheap_size" not in flags and not visible_gpus():
            # The C library returns blocks of more than 64 MB to the system and requests them
            # again in every step. The flag applies to every backend, and GPU memory does not
            # come from the C library.
            flags += f" --xla_multiheap_size_constraint_per_heap={56 << 20}"
        if "xla_cpu_collective_call_terminate" not in flags:
            # By default the process is aborted if the machine sleeps or starves for 40 s.
            flags += " --xla_cpu_collective_call_terminate_timeout_seconds=3600"
        os.environ["XLA_FLAGS"] = flags.strip()
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Makes the allocator keep what this process frees, unless the environment has `MALLOC_*`.

    Large blocks then need no new pages, which XLA's temporary buffers and decoded images would
    take again and again.
    """
    if not any(key.startswith("MALLOC_") for key in os.environ):
        # Without glibc (macOS, musl) there is nothing to set.
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            for option, value in _MALLOPT.values():
                libc.mallopt(option, value)


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that there appear to be; asking JAX would initialise it too early."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in chosen.split(",") if name.strip()]
    return glob.glob("/dev/nvidia[0-9]*")


def set_up_cache(folder: str) -> None:
    """Keeps compiled programs in `folder`, so that later runs start quickly.

    `JAX_COMPILATION_CACHE_DIR` in the environment takes precedence. On the CPU, programs with
    more temporary memory than one block of `set_up_host` cannot be cached and compile anew
    each time.
    """
    # JAX would warn about each of them: XLA cannot serialise a program whose temporary memory
    # is in several blocks.
    reason = "Multiple temp buffer allocations found"
    warnings.filterwarnings("ignore", f"(?s)Error writing persistent .*{reason}")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
