"""Collectives and devices against their definition on the whole batch."""

import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import parallel
from kdjax.types import UserError


def _body(carry, x):
    carry = {"sum": carry["sum"] + x["a"].sum(), "n": carry["n"] + 1}
    return carry, (carry["sum"], x["b"] * 2)


def _xs():
    rng = np.random.default_rng(0)
    return {"a": jnp.asarray(rng.normal(size=(5, 3))), "b": jnp.arange(5)}


CARRY = {"sum": jnp.zeros(()), "n": jnp.zeros((), jnp.int32)}


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_loop_equals_scan(platform):
    expected = jax.lax.scan(_body, CARRY, _xs())
    with parallel.built_for(platform):
        found = parallel.loop(_body, CARRY, _xs())
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_loop_is_unrolled_on_the_cpu_only(platform):
    with parallel.built_for(platform):
        program = jax.make_jaxpr(lambda xs: parallel.loop(_body, CARRY, xs))(_xs())
    primitives = {equation.primitive.name for equation in program.eqns}
    assert ("scan" in primitives) == (platform == "gpu")


def test_a_program_is_built_for_its_devices_whatever_jax_computes_on():
    devices = parallel.Devices(jax.local_devices()[:1])
    found = []

    def step(x):
        found.append(parallel.on_cpu())
        return x

    with parallel.built_for("gpu"):
        devices.map(step, (0,), 0)(np.zeros((1, 2)))
        assert not parallel.on_cpu()
        assert devices.on_cpu
    assert found == [True]
    assert parallel.on_cpu()


def test_roll_is_taken_over_the_whole_batch():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    devices = parallel.Devices(jax.local_devices()[:2])
    rolled = devices.map(lambda s: parallel.roll(s, parallel.AXIS), (0,), 0)(devices.shard(x))
    np.testing.assert_array_equal(np.asarray(rolled).reshape(6, 2), np.roll(x, 1, axis=0))
    np.testing.assert_array_equal(parallel.roll(jnp.asarray(x), None), np.roll(x, 1, axis=0))


def test_roll_with_one_example_per_device_crosses_devices():
    devices = parallel.Devices(jax.local_devices()[:2])
    rolled = devices.map(lambda s: parallel.roll(s, parallel.AXIS), (0,), 0)(np.array([[1], [2]]))
    np.testing.assert_array_equal(rolled, [[2], [1]])


@pytest.mark.parametrize(
    ("size", "at_most", "count"), [(6, 0, 2), (7, 0, 1), (1, 0, 1), (6, 1, 1), (6, 2, 2)]
)
def test_dividing_takes_the_most_devices_that_split_a_batch_evenly(size, at_most, count):
    devices = parallel.Devices.dividing(size, at_most)
    assert len(devices) == count
    assert devices.devices == jax.local_devices()[:count]


@pytest.mark.parametrize("at_most", [-1, 3])
def test_more_devices_than_available_are_an_error(at_most):
    with pytest.raises(UserError, match=f"devices is {at_most}: there are 2, and 0 uses all"):
        parallel.Devices.dividing(6, at_most)


def test_description_counts_the_devices():
    kind = jax.local_devices()[0].device_kind
    assert parallel.Devices(jax.local_devices()[:1]).description == kind
    assert parallel.Devices(jax.local_devices()[:2]).description == f"{kind} x2"


def test_shard_splits_an_axis_into_contiguous_parts():
    devices = parallel.Devices(jax.local_devices()[:2])
    x = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(devices.shard(x), [[[0, 1, 2, 3]], [[4, 5, 6, 7]]])
    np.testing.assert_array_equal(devices.shard(x, 1), [[[0, 1], [4, 5]], [[2, 3], [6, 7]]])


def test_pmean_is_the_mean_over_devices():
    devices = parallel.Devices(jax.local_devices()[:2])
    mean = devices.map(lambda s: parallel.pmean({"x": s}, parallel.AXIS), (0,), None)
    chex.assert_trees_all_close(mean(np.array([[1.0, 2], [5, 4]])), {"x": jnp.array([3.0, 3])})
    assert parallel.pmean({"x": 1.0}, None) == {"x": 1.0}


def test_pmean_of_a_tree_is_one_all_reduce_on_the_cpu():
    devices = parallel.Devices(jax.local_devices()[:2])
    mean = devices.map(lambda tree: parallel.pmean(tree, parallel.AXIS), (0,), None)
    tree = {
        "bfloat16": jnp.array([[1.0, 2.0], [2.0, 6.0]], jnp.bfloat16),
        "matrix": jnp.arange(12.0).reshape(2, 3, 2),
        "scalar": jnp.array([1.0, 4.0]),
    }
    expected = jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(mean(tree), expected)
    chex.assert_trees_all_close(mean(tree), expected)
    assert mean.lower(tree).as_text().count("all_reduce") == 1


def test_index_is_the_devices_index():
    devices = parallel.Devices(jax.local_devices()[:2])
    index = devices.map(lambda s: s * 0 + parallel.index(parallel.AXIS), (0,), 0)(np.zeros(2))
    np.testing.assert_array_equal(index, [0, 1])
    assert parallel.index(None) == 0


def test_batch_indices_are_those_of_the_whole_batch():
    devices = parallel.Devices(jax.local_devices()[:2])
    indices = devices.map(
        lambda s: parallel.batch_indices(len(s), parallel.AXIS), (0,), 0
    )(np.zeros((2, 3)))  # fmt: skip
    np.testing.assert_array_equal(indices, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(parallel.batch_indices(3, None), [0, 1, 2])


def test_a_member_has_its_own_value_or_the_shared_one():
    assert [parallel.for_member(("a", "b"), i) for i in range(2)] == ["a", "b"]
    assert [parallel.for_member(("a",), i) for i in range(2)] == ["a", "a"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_on_replicated_state_is_traced_once(count):
    devices = parallel.Devices(jax.local_devices()[:count])
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def step(state, batch):
        mean = parallel.pmean(batch.mean(), parallel.AXIS)
        return {"w": state["w"] + mean}

    mapped = devices.map(step, (None, 0), None)
    state = devices.replicate({"w": jnp.zeros(3)})
    for _ in range(3):
        state = mapped(state, devices.shard(np.array([1.0, 3.0])))
    np.testing.assert_allclose(state["w"], [6, 6, 6])


def test_a_call_makes_many_steps_except_on_the_cpu(monkeypatch):
    devices = parallel.Devices(jax.local_devices()[:1])
    assert parallel.default_steps_per_call(devices) == 1
    monkeypatch.setattr(parallel.Devices, "on_cpu", False)
    assert parallel.default_steps_per_call(devices) == 32


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch):
    devices = [types.SimpleNamespace(process_index=i) for i in range(2)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    with pytest.raises(
        UserError, match="2 processes with at most 2 devices cannot share batches of 33"
    ):
        parallel.Devices.dividing(33)
    with pytest.raises(UserError, match="with at most 1 devices"):
        parallel.Devices.dividing(32, at_most=1)


def test_a_process_has_all_rows_if_it_is_alone():
    devices, rows = parallel.Devices.local(), np.arange(12).reshape(6, 2)
    assert devices.share == (0, 1)
    np.testing.assert_array_equal(devices.own(rows), rows)
    np.testing.assert_array_equal(devices.gather(rows), rows)


def test_processes_with_different_numbers_of_devices_are_refused(monkeypatch):
    indices = (0, 0, 1)
    devices = [types.SimpleNamespace(process_index=i) for i in indices]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    with pytest.raises(UserError, match="processes have 2, 1 devices: give all the same number"):
        parallel.Devices.dividing(8)
