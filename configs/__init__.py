"""Experiments as documents: each file gives its command, its cost and its result."""
