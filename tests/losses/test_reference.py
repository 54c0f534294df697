"""Reference values of the original PyTorch implementations, in float32 on the CPU."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = json.loads((REFERENCE / "losses.json").read_text())


@pytest.fixture(scope="module")
def arrays():
    with np.load(REFERENCE / "losses.npz") as stored:
        return dict(stored)


def test_every_reference_array_belongs_to_a_case(arrays):
    used = {f"{c['case']}/{name}" for c in CASES for name in [*c["inputs"], "expected"]}
    assert used == set(arrays)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_loss_equals_the_original_implementation(case, arrays):
    inputs = {name: jnp.asarray(arrays[f"{case['case']}/{name}"]) for name in case["inputs"]}
    actual = jax.jit(functools.partial(getattr(losses, case["loss"]), **case["kwargs"]))(**inputs)
    expected = arrays[f"{case['case']}/expected"]
    if actual.shape != expected.shape:
        assert expected.shape == ()
        actual = jnp.mean(actual)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
