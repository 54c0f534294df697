"""Every test runs on two virtual CPU devices, and a silent broadcast is an error."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time goes into compiling; what it gains is for longer runs than these.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false "
    "--xla_backend_optimization_level=1"
)

# Tests that run the same small networks compile them once, in their subprocesses too.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="kdjax-tests-")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
