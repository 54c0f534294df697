"""Measurements: kdjax beside PyTorch on the same work, never run as tests."""
