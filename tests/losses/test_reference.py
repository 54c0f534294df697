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
# These have gradients, too.
MODERN_CASES = json.loads((REFERENCE / "modern.json").read_text())


@functools.cache
def _arrays(name):
    with np.load(REFERENCE / name) as stored:
        return dict(stored)


@pytest.mark.parametrize(
    ("cases", "name", "outputs"),
    [(CASES, "losses.npz", ["expected"]), (MODERN_CASES, "modern.npz", ["expected", "gradient"])],
)
def test_every_reference_array_belongs_to_a_case(cases, name, outputs):
    used = {f"{c['case']}/{array}" for c in cases for array in [*c["inputs"], *outputs]}
    assert used == set(_arrays(name))


def _loss_and_inputs(case, arrays):
    inputs = {name: jnp.asarray(arrays[f"{case['case']}/{name}"]) for name in case["inputs"]}
    return functools.partial(getattr(losses, case["loss"]), **case["kwargs"]), inputs


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_loss_equals_the_original_implementation(case):
    arrays = _arrays("losses.npz")
    loss, inputs = _loss_and_inputs(case, arrays)
    actual = jax.jit(loss)(**inputs)
    expected = arrays[f"{case['case']}/expected"]
    if actual.shape != expected.shape:
        assert expected.shape == ()
        actual = jnp.mean(actual)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize("case", MODERN_CASES, ids=lambda case: case["case"])
def test_loss_and_gradient_equal_the_original_implementation(case):
    arrays = _arrays("modern.npz")
    loss, inputs = _loss_and_inputs(case, arrays)
    student = inputs.pop("student_logits")
    both = jax.jit(jax.value_and_grad(lambda x: jnp.mean(loss(student_logits=x, **inputs))))
    for actual, name in zip(both(student), ("expected", "gradient"), strict=True):
        expected = arrays[f"{case['case']}/{name}"]
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
