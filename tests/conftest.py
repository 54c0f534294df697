"""Every test runs on two virtual CPU devices, and a silent broadcast is an error."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"
)

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
