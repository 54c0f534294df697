"""Every test runs on two virtual CPU devices, and a silent broadcast is an error."""

import importlib.metadata
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time goes into compiling; what it gains is for longer runs than these.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false "
    "--xla_backend_optimization_level=0"
)
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 12):
    # Later versions have one kind of emitters only, and end the process at a flag without meaning.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Tests that run the same programs compile them once, in pytest-xdist's workers (which get the
# environment of the process that starts them) and in the tests' own subprocesses too.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="kdjax-tests-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.01"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure():
    """The compiled programs are of this run of the tests and no other."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"])
