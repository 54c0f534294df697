import os
import subprocess
import sys

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


@pytest.mark.parametrize("cpu", [True, False])
def test_loop_equals_scan(monkeypatch, cpu):
    monkeypatch.setattr(parallel, "on_cpu", lambda: cpu)
    expected = jax.lax.scan(_body, CARRY, _xs())
    chex.assert_trees_all_close(parallel.loop(_body, CARRY, _xs()), expected, rtol=1e-6)


@pytest.mark.parametrize("cpu", [True, False])
def test_loop_is_written_out_on_the_cpu_alone(monkeypatch, cpu):
    monkeypatch.setattr(parallel, "on_cpu", lambda: cpu)
    program = jax.make_jaxpr(lambda xs: parallel.loop(_body, CARRY, xs))(_xs())
    primitives = {equation.primitive.name for equation in program.eqns}
    assert ("scan" in primitives) != cpu


def test_roll_is_that_of_the_whole_batch():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    devices = parallel.Devices(jax.local_devices()[:2])
    rolled = devices.map(lambda s: parallel.roll(s, parallel.AXIS), (0,), 0)(devices.shard(x))
    np.testing.assert_array_equal(np.asarray(rolled).reshape(6, 2), np.roll(x, 1, axis=0))
    np.testing.assert_array_equal(parallel.roll(jnp.asarray(x), None), np.roll(x, 1, axis=0))


def test_roll_of_one_example_a_device_crosses_devices():
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
def test_asking_for_devices_that_are_not_there_is_an_error(at_most):
    with pytest.raises(UserError, match=f"devices is {at_most}: there are 2, 0 for all"):
        parallel.Devices.dividing(6, at_most)


def test_description_counts_the_devices():
    kind = jax.local_devices()[0].device_kind
    assert parallel.Devices(jax.local_devices()[:1]).description == kind
    assert parallel.Devices(jax.local_devices()[:2]).description == f"{kind} x2"


def test_shard_cuts_an_axis_into_contiguous_parts():
    devices = parallel.Devices(jax.local_devices()[:2])
    x = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(devices.shard(x), [[[0, 1, 2, 3]], [[4, 5, 6, 7]]])
    np.testing.assert_array_equal(devices.shard(x, 1), [[[0, 1], [4, 5]], [[2, 3], [6, 7]]])


def test_pmean_is_the_mean_over_devices():
    devices = parallel.Devices(jax.local_devices()[:2])
    mean = devices.map(lambda s: parallel.pmean({"x": s}, parallel.AXIS), (0,), None)
    chex.assert_trees_all_close(mean(np.array([[1.0, 2], [5, 4]])), {"x": jnp.array([3.0, 3])})
    assert parallel.pmean({"x": 1.0}, None) == {"x": 1.0}


def test_a_tree_of_means_is_one_meeting_of_the_devices_on_the_cpu():
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


def test_index_is_the_devices_place():
    devices = parallel.Devices(jax.local_devices()[:2])
    places = devices.map(lambda s: s * 0 + parallel.index(parallel.AXIS), (0,), 0)(np.zeros(2))
    np.testing.assert_array_equal(places, [0, 1])
    assert parallel.index(None) == 0


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


@pytest.fixture
def host(monkeypatch):
    """An environment without settings, and what set_up_host asks of the C library."""
    calls = []

    class Libc:
        def mallopt(self, option, value):
            calls.append((option, value))

    for key in [k for k in os.environ if k.startswith("MALLOC_") or k == "XLA_FLAGS"]:
        monkeypatch.delenv(key)
    # What set_up_host sets is taken back after the test.
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(parallel.ctypes, "CDLL", lambda name: Libc())
    monkeypatch.setattr(parallel.glob, "glob", lambda pattern: [])
    return calls


def test_set_up_host_makes_a_single_threaded_device_of_each_core(host, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    parallel.set_up_host()
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_force_host_platform_device_count=3",
        "--xla_cpu_multi_thread_eigen=false",
        "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling",
        "--xla_multiheap_size_constraint_per_heap=58720256",
        "--xla_cpu_collective_call_terminate_timeout_seconds=3600",
    ]
    assert len(host) == 3


def test_set_up_host_leaves_the_environments_settings_alone(host, monkeypatch):
    given = "--xla_force_host_platform_device_count=7"
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    parallel.set_up_host()
    assert os.environ["XLA_FLAGS"] == given
    assert host == []


def test_set_up_host_adds_to_other_flags(host, monkeypatch):
    given = (
        "--xla_dump_to=x --xla_cpu_multi_thread_eigen=true "
        "--xla_cpu_collective_call_terminate_timeout_seconds=9 "
        "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_DEFAULT "
        "--xla_backend_extra_options=xla_cpu_optimize_for_size "
        "--xla_multiheap_size_constraint_per_heap=-1"
    )
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    parallel.set_up_host()
    assert os.environ["XLA_FLAGS"] == f"{given} --xla_force_host_platform_device_count=1"


def test_set_up_host_leaves_the_memory_of_a_gpu_alone(host, monkeypatch):
    monkeypatch.setattr(parallel.glob, "glob", lambda pattern: ["/dev/nvidia0"])
    parallel.set_up_host()
    assert "multiheap" not in os.environ["XLA_FLAGS"]


def test_set_up_host_does_without_glibc(host, monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(parallel.ctypes, "CDLL", missing)
    parallel.set_up_host()
    assert "device_count" in os.environ["XLA_FLAGS"]


@pytest.fixture
def cache_settings():
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize("given", ["", "elsewhere"])
def test_set_up_cache_yields_to_the_environments_folder(cache_settings, monkeypatch, given):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
    before = jax.config.jax_compilation_cache_dir
    parallel.set_up_cache("programs")
    assert jax.config.jax_compilation_cache_dir == (before if given else "programs")


def test_a_program_that_cannot_be_kept_is_no_reason_to_warn(tmp_path):
    script = """if True:
        import sys
        import jax
        import jax.numpy as jnp
        from kdjax import parallel
        parallel.set_up_cache(sys.argv[1])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        several_temporaries = jax.jit(lambda x: jnp.sort(x) @ jnp.sort(x.T) @ jnp.cos(x))
        several_temporaries(jnp.ones((100, 100)))
    """
    settings = {
        "XLA_FLAGS": "--xla_multiheap_size_constraint_per_heap=1000",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    process = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script, str(tmp_path)],
        env=os.environ | settings, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def test_steps_per_call_are_many_only_off_the_cpu(monkeypatch):
    assert parallel.default_steps_per_call() == 1
    monkeypatch.setattr(parallel, "on_cpu", lambda: False)
    assert parallel.default_steps_per_call() == 32
