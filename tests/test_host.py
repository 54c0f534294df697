"""Settings of the CPU backend and of the compilation cache."""

import os
import subprocess
import sys

import jax
import jaxlib
import pytest

from kdjax import host

NO_OFFLOADED_SUMS = "--xla_cpu_experimental_ynn_fusion_type=-reduce"


@pytest.fixture
def unaffected(monkeypatch):
    """A jaxlib that needs no flag for right sums."""
    monkeypatch.setattr(host.jaxlib, "__version__", "0.10.1")


@pytest.fixture
def mallopt_calls(monkeypatch, unaffected):
    """Clears the environment's settings and records the calls of the C library's mallopt."""
    calls = []

    class Libc:
        def mallopt(self, option, value):
            calls.append((option, value))

    for key in [k for k in os.environ if k.startswith("MALLOC_") or k == "XLA_FLAGS"]:
        monkeypatch.delenv(key)
    # So that monkeypatch restores what set_up_host sets.
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(host.ctypes, "CDLL", lambda name: Libc())
    monkeypatch.setattr(host.glob, "glob", lambda pattern: [])
    return calls


def test_set_up_host_makes_one_single_threaded_device_per_core(mallopt_calls, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    host.set_up_host()
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_force_host_platform_device_count=3",
        "--xla_cpu_multi_thread_eigen=false",
        "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling",
        "--xla_multiheap_size_constraint_per_heap=58720256",
        "--xla_cpu_collective_call_terminate_timeout_seconds=3600",
    ]
    assert len(mallopt_calls) == 3


def test_set_up_host_leaves_the_environments_settings_alone(mallopt_calls, monkeypatch):
    given = "--xla_force_host_platform_device_count=7"
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    host.set_up_host()
    assert os.environ["XLA_FLAGS"] == given
    assert mallopt_calls == []


def test_set_up_host_adds_to_other_flags(mallopt_calls, monkeypatch):
    given = (
        "--xla_dump_to=x --xla_cpu_multi_thread_eigen=true "
        "--xla_cpu_collective_call_terminate_timeout_seconds=9 "
        "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_DEFAULT "
        "--xla_backend_extra_options=xla_cpu_optimize_for_size "
        "--xla_multiheap_size_constraint_per_heap=-1"
    )
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    host.set_up_host()
    assert os.environ["XLA_FLAGS"] == f"{given} --xla_force_host_platform_device_count=1"


def test_set_up_host_does_not_split_the_memory_of_a_gpu(mallopt_calls, monkeypatch):
    monkeypatch.setattr(host.glob, "glob", lambda pattern: ["/dev/nvidia0"])
    host.set_up_host()
    assert "multiheap" not in os.environ["XLA_FLAGS"]


def test_set_up_host_works_without_glibc(mallopt_calls, monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(host.ctypes, "CDLL", missing)
    host.set_up_host()
    assert "device_count" in os.environ["XLA_FLAGS"]


@pytest.mark.parametrize("version", ["0.10.2", "0.11.0"])
@pytest.mark.parametrize(
    "given", ["", "--xla_dump_to=x", "--xla_force_host_platform_device_count=7"]
)
def test_set_up_host_adds_the_flag_for_right_sums_to_any_others(
    mallopt_calls, monkeypatch, version, given
):
    monkeypatch.setattr(host.jaxlib, "__version__", version)
    monkeypatch.setenv("XLA_FLAGS", given)
    host.set_up_host()
    flags = os.environ["XLA_FLAGS"].split()
    assert flags.count(NO_OFFLOADED_SUMS) == 1
    assert flags[: len(given.split())] == given.split()


def test_the_environments_choice_of_offloaded_sums_is_left_alone(monkeypatch):
    given = "--xla_cpu_experimental_ynn_fusion_type=dot --xla_dump_to=x"
    monkeypatch.setattr(host.jaxlib, "__version__", "0.10.2")
    monkeypatch.setenv("XLA_FLAGS", given)
    host.avoid_wrong_sums()
    assert os.environ["XLA_FLAGS"] == given


@pytest.mark.parametrize("version", ["0.9.1", "0.10.1", "0.10.20", "0.11.1", "0.12.0"])
def test_other_versions_which_may_not_know_the_flag_do_not_get_it(monkeypatch, version):
    monkeypatch.setattr(host.jaxlib, "__version__", version)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    host.avoid_wrong_sums()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x"


@pytest.mark.skipif(
    jaxlib.__version__ != "0.10.2", reason="the error of jax-ml/jax#39103 is that of jaxlib 0.10.2"
)
@pytest.mark.parametrize(("set_up", "wrong"), [(False, True), (True, False)])
def test_set_up_host_makes_sums_right(set_up, wrong):
    script = f"""if True:
        from kdjax import host
        if {set_up}:
            host.set_up_host()
        import jax
        import jax.numpy as jnp
        import numpy as np
        source = np.random.default_rng(0)
        matrix = source.standard_normal((3, 3), np.float32)
        rows = source.standard_normal((40_001, 3), np.float32)
        sums = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
        right = np.isclose(sums, ((rows @ matrix.T) ** 2).sum(1), rtol=1e-3)
        print("right" if right.all() else "wrong")
    """
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    process = subprocess.run(
        [sys.executable, "-c", script],
        env=environment, text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert process.stdout == ("wrong\n" if wrong else "right\n")


def test_the_tests_themselves_run_with_right_sums():
    if jaxlib.__version__ in host.AFFECTED_JAXLIBS:
        assert NO_OFFLOADED_SUMS in os.environ["XLA_FLAGS"]


@pytest.fixture
def partitioner():
    before = jax.config.jax_use_shardy_partitioner
    jax.config.update("jax_use_shardy_partitioner", True)
    yield
    jax.config.update("jax_use_shardy_partitioner", before)


@pytest.mark.parametrize("given", ["", "1"])
def test_shardy_is_left_out_unless_the_environment_asks_for_it(partitioner, monkeypatch, given):
    monkeypatch.delenv("JAX_USE_SHARDY_PARTITIONER", raising=False)
    if given:
        monkeypatch.setenv("JAX_USE_SHARDY_PARTITIONER", given)
    host.leave_out_shardy()
    assert jax.config.jax_use_shardy_partitioner is bool(given)


def test_where_jax_has_no_other_partitioner_shardy_stays(monkeypatch):
    def unknown(name, value):
        raise AttributeError(f"Unrecognized config option: {name}")

    monkeypatch.setattr(jax.config, "update", unknown)
    host.leave_out_shardy()


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
def test_set_up_cache_prefers_the_environments_folder(cache_settings, monkeypatch, given):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
    before = jax.config.jax_compilation_cache_dir
    host.set_up_cache("programs")
    assert jax.config.jax_compilation_cache_dir == (before if given else "programs")


def test_a_program_that_cannot_be_cached_causes_no_warning(tmp_path):
    script = """if True:
        import sys
        import jax
        import jax.numpy as jnp
        from kdjax import host
        host.set_up_cache(sys.argv[1])
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
