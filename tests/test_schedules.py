import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import schedules
from kdjax.types import UserError

# 100 steps, 10 per epoch.
RUN = {"total_steps": 100, "steps_per_epoch": 10}


@pytest.mark.parametrize(
    ("name", "at_half_of_the_rest", "at_the_end"),
    [("constant", 3.0, 3.0), ("linear", 1.5, 0.0), ("cosine", 1.5, 0.0), ("step", 3.0, 0.3)],
)
def test_schedules_rise_to_the_peak_and_decay(name, at_half_of_the_rest, at_the_end):
    schedule = schedules.create(name, 3.0, warmup=2, boundaries=(9,), **RUN)
    assert schedule(0) == 0
    np.testing.assert_allclose(schedule(10), 1.5, rtol=1e-6)
    np.testing.assert_allclose(schedule(20), 3.0, rtol=1e-6)
    np.testing.assert_allclose(schedule(60), at_half_of_the_rest, rtol=1e-6)
    np.testing.assert_allclose(schedule(100), at_the_end, rtol=1e-6, atol=1e-7)


def test_cosine_decay_follows_half_a_cosine():
    schedule = schedules.create("cosine", 2.0, **RUN)
    steps = np.arange(101)
    np.testing.assert_allclose(
        schedule(steps), 1 + np.cos(np.pi * steps / 100), rtol=1e-5, atol=1e-6
    )


def test_a_warm_up_may_be_half_a_cosine():
    """As the gradient of CTKD's temperature grows."""
    schedule = schedules.create("constant", 2.0, warmup=5, rise="cosine", **RUN)
    steps = np.arange(51)
    np.testing.assert_allclose(
        schedule(steps), 1 - np.cos(np.pi * steps / 50), rtol=1e-5, atol=1e-6
    )
    assert schedule(100) == 2.0
    with pytest.raises(UserError, match="unknown rise 'sine' of a schedule: choose from linear, "):
        schedules.create("constant", 2.0, rise="sine", **RUN)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_schedule_stays_at_zero_after_the_end(name):
    schedule = schedules.create(name, 2.0, **RUN)
    np.testing.assert_allclose(schedule(jnp.array([100, 101, 1000])), np.zeros(3), atol=1e-7)


@pytest.mark.parametrize("name", schedules.NAMES)
def test_without_warm_up_a_schedule_starts_at_the_peak(name):
    assert schedules.create(name, 0.5, boundaries=(5,), **RUN)(0) == 0.5


@pytest.mark.parametrize(
    ("unit", "warmup", "boundaries"),
    [("epochs", 2, (5, 7.5)), ("steps", 20, (50, 75)), ("fraction", 0.2, (0.5, 0.75))],
)
def test_warm_up_and_boundaries_are_in_the_given_unit(unit, warmup, boundaries):
    schedule = schedules.create(
        "step", 1.0, warmup=warmup, boundaries=boundaries, decay_rate=0.1, unit=unit, **RUN
    )
    steps = np.array([0, 5, 20, 49, 50, 74, 75, 99])
    expected = [0, 0.25, 1, 1, 0.1, 0.1, 0.01, 0.01]
    np.testing.assert_allclose(schedule(steps), expected, rtol=1e-6)


def test_epochs_need_not_have_a_whole_number_of_steps():
    schedule = schedules.create(
        "step", 1.0, total_steps=30, steps_per_epoch=2.5, boundaries=(3,), decay_rate=0.5
    )
    # 3 epochs are 7.5 steps; the boundary is the nearest even step, 8.
    np.testing.assert_allclose(schedule(np.array([7, 8])), [1, 0.5])


@pytest.mark.parametrize("steps_per_epoch", [469, 2.2])
def test_an_exponential_schedule_is_a_step_at_every_epoch(steps_per_epoch):
    run = {"total_steps": 14 * 469, "steps_per_epoch": steps_per_epoch, "decay_rate": 0.7}
    exponential = schedules.create("exponential", 1.0, **run)
    stepwise = schedules.create("step", 1.0, boundaries=range(1, 15), **run)
    steps = np.arange(round(14.5 * steps_per_epoch))
    np.testing.assert_allclose(exponential(steps), stepwise(steps), rtol=1e-5)


def test_one_stair_per_epoch_of_warm_up_begins_with_the_epoch():
    schedule = schedules.create("constant", 0.6, warmup=3, num_stairs=3, **RUN)
    steps = np.array([0, 9, 10, 19, 20, 29, 30, 99])
    expected = 0.6 * np.minimum(1, steps // 10 / 3)
    np.testing.assert_allclose(schedule(steps), expected, rtol=1e-6)


def test_stairs_scale_with_a_warm_up_given_as_a_fraction():
    schedule = schedules.create("constant", 1.0, warmup=0.2, unit="fraction", num_stairs=4, **RUN)
    steps = np.array([0, 4, 5, 9, 10, 15, 19, 20])
    np.testing.assert_allclose(schedule(steps), [0, 0, 0.25, 0.25, 0.5, 0.75, 0.75, 1])


def test_a_decay_rate_of_zero_switches_off():
    schedule = schedules.create("step", 0.9, boundaries=(5,), decay_rate=0.0, **RUN)
    np.testing.assert_allclose(schedule(np.array([0, 49, 50, 99])), [0.9, 0.9, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("warmup", [0.0, 2.0])
@pytest.mark.parametrize("name", schedules.NAMES)
def test_values_are_float32_in_the_shape_of_the_steps(name, warmup):
    schedule = schedules.create(name, 1.0, warmup=warmup, **RUN)
    for steps in (jnp.array(7), jnp.arange(3)):
        value = schedule(steps)
        chex.assert_shape(value, steps.shape)
        assert value.dtype == jnp.float32
        chex.assert_tree_all_finite(value)


@pytest.mark.parametrize("name", schedules.NAMES)
def test_jit_equals_eager(name):
    schedule = schedules.create(name, 1.0, warmup=3, boundaries=(5, 8), **RUN)
    steps = jnp.arange(0, 110, 7)
    chex.assert_trees_all_close(jax.jit(schedule)(steps), schedule(steps), rtol=1e-6, atol=1e-7)


def test_a_warm_up_as_long_as_the_run_is_finite():
    schedule = schedules.create("cosine", 1.0, warmup=10, **RUN)
    np.testing.assert_allclose(schedule(np.array([0, 50, 100])), [0, 0.5, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cosin", {}, "unknown schedule 'cosin': choose from constant, cosine, exponential"),
        ("step", {"unit": "epoch"}, "'epoch'.*choose from epochs, steps, fraction"),
        ("step", {"boundaries": (5, 3)}, r"boundaries must increase, got \(5, 3\)"),
    ],
)
def test_a_mistake_names_what_was_given_and_what_is_allowed(name, arguments, message):
    with pytest.raises(UserError, match=message):
        schedules.create(name, 1.0, **RUN, **arguments)
