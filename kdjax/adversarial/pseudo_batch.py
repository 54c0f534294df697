"""The loop of data-free knowledge transfer (Micaelli & Storkey 2019, algorithm 1).

A pseudo-batch is some updates of the generator, and then some of the student.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import parallel, updates
from kdjax.adversarial import fast
from kdjax.adversarial.adversary import Adversary, update_key
from kdjax.adversarial.state import AdversarialState, Lesson, PseudoBatchStep
from kdjax.types import Array, Metrics, PyTree, Variables

# What an update of the student learns from: a lesson, or indices by which it has images of its own.
_Given = Lesson | Array

# What distinguishes the keys of latents that only one update has; no device has such an index.
_OF_GENERATOR, _OF_STUDENT = 2**31 - 2, 2**31 - 1
_FIRST: Any = np.int32(0)


def pseudo_batch(
    adversary: Adversary,
    state: AdversarialState,
    teacher_variables: Sequence[Variables],
    indices: Array,
    rng: Array,
    *,
    generator_steps: int,
    student_steps: int,
) -> tuple[AdversarialState, Metrics]:
    """Updates the generator, then the student.

    Without `fresh_images`, both learn on the same latents. The images are then generated again
    after the generator's last update; they are constants to the student, and the teachers' outputs
    for them are computed once.

    Args:
      adversary: the networks.
      state: its `step` is the number of the pseudo-batch.
      teacher_variables: each teacher's variables, which never change.
      indices: int32 [b], indices of the latents in the whole pseudo-batch.
      rng: the run's key.
      generator_steps: n_G, at least 1.
      student_steps: n_S, at least 1.

    Returns:
      The state, and metrics averaged over the updates.
    """
    state, first, others, generator_metrics = _generator_part(
        adversary, state, teacher_variables, indices, rng, generator_steps=generator_steps
    )
    as_vectors = adversary.uses_vectors(state)

    def update(carried: Any, i: Array) -> Any:
        state = updates.unpack(carried) if as_vectors else carried
        state, metrics = _student_update(adversary, state, teacher_variables, others, i, rng)
        return updates.pack(state) if as_vectors else state, metrics

    histories, start = [], 0
    if adversary.stale_teacher:
        start = 1  # The first update has a lesson of its own.
        state, metrics = _student_update(
            adversary, state, teacher_variables, first, jnp.zeros((), jnp.int32), rng
        )
        histories.append(jax.tree.map(lambda x: x[None], metrics))
    if start < student_steps:
        start_state = updates.pack(state) if as_vectors else state
        carried, metrics = parallel.loop(update, start_state, jnp.arange(start, student_steps))
        state = updates.unpack(carried) if as_vectors else carried
        histories.append(metrics)
    student_metrics = jax.tree.map(lambda *x: jnp.concatenate(x), *histories)
    return _next(state), generator_metrics | _mean(student_metrics)


def _generator_part(
    adversary: Adversary,
    state: AdversarialState,
    teacher_variables: Sequence[Variables],
    indices: Array,
    rng: Array,
    *,
    generator_steps: int,
) -> tuple[AdversarialState, _Given, _Given, Metrics]:
    """The generator's updates of a pseudo-batch; arguments as for `pseudo_batch`.

    Returns:
      The state, what the student's first update learns from, what all its other updates learn
      from, and the means of the generator's metrics.
    """
    latents = adversary.latents(jax.random.fold_in(rng, state.step), indices)
    if adversary.fast:
        keys = _keys(rng, state.step, _FIRST, _OF_GENERATOR, indices)
        state, metrics = fast.synthesize(
            adversary, state, teacher_variables, latents, keys, steps=generator_steps
        )
        return state, indices, indices, metrics

    def update(state: AdversarialState, i: Array) -> Any:
        key, z = update_key(rng, state.step, i), latents
        if adversary.fresh_images:
            z = adversary.latents(jax.random.fold_in(key, _OF_GENERATOR), indices)
        state, teachers, metrics = adversary.update_generator(state, teacher_variables, z, key)
        return state, (teachers if adversary.stale_teacher else (), metrics)

    state, (stale, metrics) = parallel.loop(update, state, jnp.arange(generator_steps))
    if adversary.fresh_images:
        return state, indices, indices, _mean(metrics)
    images, generator_stats = adversary.images(state.generator, latents)
    generator_stats = parallel.pmean(generator_stats, adversary.axis_name)
    state = dataclasses.replace(
        state, generator={**state.generator, "batch_stats": generator_stats}
    )
    lesson = adversary.lesson(teacher_variables, images)
    first = lesson
    if adversary.stale_teacher:
        first = lesson._replace(teachers=jax.tree.map(lambda x: x[-1], stale))
    return state, first, lesson, _mean(metrics)


def _student_update(
    adversary: Adversary,
    state: AdversarialState,
    teacher_variables: Sequence[Variables],
    given: _Given,
    i: Array,
    rng: Array,
) -> tuple[AdversarialState, Metrics]:
    """The student's i-th update (int32 []) of a pseudo-batch."""
    if not isinstance(given, Lesson) and adversary.fast:
        keys = _keys(rng, state.step, i, _OF_STUDENT, given)
        whole = len(given) * parallel.size(adversary.axis_name)
        images = adversary.fast.draw(state.kept, keys, (state.step + 1) * whole)
        given = adversary.lesson(teacher_variables, images)
    elif not isinstance(given, Lesson):
        key = jax.random.fold_in(update_key(rng, state.step, i), _OF_STUDENT)
        images = adversary.samples(state.generator, adversary.latents(key, given))
        given = adversary.lesson(teacher_variables, images)
    return adversary.update_student(state, teacher_variables, given, i, rng)


def scan(adversary: Adversary, devices: parallel.Devices, **counts: int) -> Callable[..., Any]:
    """Compiles the program of accelerators for given numbers of updates; see `make_step`."""

    def run(state: Any, teacher_variables: Any, indices: Array, rng: Array) -> Any:
        def one(state: Any, index: Array) -> tuple[AdversarialState, Metrics]:
            return pseudo_batch(adversary, state, teacher_variables, index, rng, **counts)

        state, metrics = parallel.loop(one, state, indices)
        return state, _mean(metrics)

    return devices.map(run, in_axes=(None, None, 0, None), donate_argnums=0)


def make_step(adversary: Adversary, devices: parallel.Devices) -> PseudoBatchStep:
    """Compiles pseudo-batches for all devices.

    On accelerators a single program scans over all updates of all pseudo-batches of a
    call. On the CPU, where loops around convolutions are slow and unrolled updates would
    each be compiled separately, there are two programs: one for the generator's part and
    one that is called for each of the student's updates. Fast has a program for each step of the
    generator's copy, too.

    Args:
      adversary: the networks.
      devices: the devices that share a pseudo-batch.

    Returns:
      `step(state, teacher_variables, indices, rng, *, generator_steps, student_steps) ->
      (state, metrics)`, with arguments as for `pseudo_batch`, except that indices are
      int32 [devices, n, b / devices] for n pseudo-batches, over which the metrics are
      averaged. The state is donated.
    """
    if not devices.on_cpu:
        program = functools.cache(functools.partial(scan, adversary, devices))
        return lambda *args, **counts: program(**counts)(*args)

    programs = _fast_programs if adversary.fast else _generator_programs
    generator_part = programs(adversary, devices)
    update = devices.map(
        functools.partial(_student_update, adversary),
        in_axes=(None, None, 0, None, None),
        donate_argnums=0,
    )

    def step(
        state: AdversarialState,
        teacher_variables: tuple[Variables, ...],
        indices: np.ndarray,
        rng: Array,
        *,
        generator_steps: int,
        student_steps: int,
    ) -> tuple[AdversarialState, dict[str, Any]]:
        history = []
        for n in range(indices.shape[1]):
            state, first, others, generator_metrics = generator_part(generator_steps)(
                state, teacher_variables, indices[:, n], rng
            )
            parallel.wait_on_cpu(generator_metrics)
            student_metrics = []
            for i in range(student_steps):
                state, metrics = update(
                    state, teacher_variables, others if i else first, np.int32(i), rng
                )
                parallel.wait_on_cpu(metrics)
                student_metrics.append(jax.device_get(metrics))
            state = _next(state)
            means = jax.tree.map(lambda *x: np.mean(x), *student_metrics)
            history.append(jax.device_get(generator_metrics) | means)
        return state, jax.tree.map(lambda *x: np.mean(x), *history)

    return step


def _generator_programs(
    adversary: Adversary, devices: parallel.Devices
) -> Callable[[int], Callable[..., Any]]:
    """`_generator_part` for a number of updates, in one program."""

    @functools.cache
    def program(generator_steps: int) -> Callable[..., Any]:
        return devices.map(
            functools.partial(_generator_part, adversary, generator_steps=generator_steps),
            in_axes=(None, None, 0, None),
            out_axes=(None, 0, 0, None),
            donate_argnums=0,
        )

    return program


def _fast_programs(
    adversary: Adversary, devices: parallel.Devices
) -> Callable[[int], Callable[..., Any]]:
    """`_generator_part` of Fast for a number of steps, with a program for each step."""

    def begin(state: AdversarialState, indices: Array, rng: Array) -> tuple[fast.Copy, Array]:
        latents = adversary.latents(jax.random.fold_in(rng, state.step), indices)
        keys = _keys(rng, state.step, _FIRST, _OF_GENERATOR, indices)
        return fast.begin(adversary, state, latents), keys

    begin_all = devices.map(begin, in_axes=(None, 0, None), out_axes=(fast.COPY_AXES, 0))
    advance = devices.map(
        functools.partial(fast.advance, adversary),
        in_axes=(None, None, fast.COPY_AXES, 0, None),
        out_axes=(fast.COPY_AXES, None),
        donate_argnums=2,
    )
    finish = devices.map(
        functools.partial(fast.finish, adversary),
        in_axes=(None, fast.COPY_AXES, None),
        donate_argnums=0,
    )

    def generator_part(
        steps: int, state: AdversarialState, teacher_variables: Any, indices: Any, rng: Array
    ) -> tuple[AdversarialState, Any, Any, Metrics]:
        copy, keys = begin_all(state, indices, rng)
        history = []
        for i in range(steps):
            copy, terms = advance(state, teacher_variables, copy, keys, np.int32(i))
            parallel.wait_on_cpu(terms)
            history.append(jax.device_get(terms))
        state, metrics = finish(state, copy, np.int32(steps))
        return state, indices, indices, metrics | jax.tree.map(lambda *x: np.mean(x), *history)

    return lambda steps: functools.partial(generator_part, steps)


def _keys(rng: Array, step: Array, i: Array, whose: int, indices: Array) -> Array:
    """A key for each index [b], in the i-th update of a network."""
    key = jax.random.fold_in(update_key(rng, step, i), whose)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def _next(state: AdversarialState) -> AdversarialState:
    return dataclasses.replace(state, step=state.step + 1)


def _mean(metrics: PyTree) -> PyTree:
    """Mean over the leading axis, that of updates or of pseudo-batches."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
