"""All tests run on two virtual CPU devices, with implicit rank promotion an error."""

import ctypes
import gc
import os
import shutil
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Compilation dominates the time of tests, too short to profit from optimised programs.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false "
    "--xla_backend_optimization_level=0"
)
# Programs that several tests share are compiled once. The workers of pytest-xdist and the
# subprocesses of tests inherit the environment, so this includes them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="kdjax-tests-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.01"
# Subprocesses find the network of small runs.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
)

import hypothesis
import jax

import kdjax
from kdjax import host

# Tracing makes and drops so many objects that collecting takes several per cent of the time.
gc.set_threshold(100_000, 20, 20)
host.avoid_wrong_sums()
if host.HAS_TWO_EMITTERS:
    os.environ["XLA_FLAGS"] += (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
# As the commands do.
host.leave_out_shardy()
# Run folders of tests name networks of these modules.
kdjax.trust("small_run", "tiny_network")
jax.config.update("jax_numpy_rank_promotion", "raise")
# The same cases every time, few of them; `--hypothesis-profile=long` tries many.
_FUZZ = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
}
hypothesis.settings.register_profile("short", max_examples=60, **_FUZZ)
hypothesis.settings.register_profile("long", max_examples=3000, **_FUZZ)
hypothesis.settings.load_profile("short")
# In bytes. A compiled program takes about a megabyte, and JAX keeps them all.
MEMORY = 1_300_000_000


def _resident():
    """Bytes of this process in memory, where the system says so."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def pytest_runtest_teardown(item, nextitem):
    """Forgets compiled programs where they take much; what is needed again is read from the cache.

    Sooner at the end of a file: the next one has other programs.
    """
    goes_on = nextitem is not None and nextitem.path == item.path
    if _resident() > (MEMORY if goes_on else MEMORY // 2):
        jax.clear_caches()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)


def pytest_unconfigure():
    """Removes the compilation cache, which belongs to this run of the tests."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"])
