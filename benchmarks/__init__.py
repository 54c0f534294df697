"""Benchmarks of kdjax, alone and against PyTorch on the same work; not run as tests."""

import experiments  # noqa: F401  Sets what XLA logs, before JAX is imported.
