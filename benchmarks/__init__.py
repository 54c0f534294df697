"""Measurements: kdjax beside PyTorch on the same work, never run as tests."""

import experiments  # noqa: F401  Decides what XLA logs, before JAX is imported.
