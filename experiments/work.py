"""What the kinds of phases do in their steps: all that the loop of `experiments.phase` knows."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import models, optimizers, parallel, schedules
from kdjax.adversarial import AdversarialState, Adversary
from kdjax.types import Array, Distiller, Network, TrainState, UserError

_PICTURES = 10

Advance = Callable[[Sequence[Any], int, int], tuple[Any, Any]]
Said = Callable[[str], tuple[np.ndarray, ...]]


class Work(NamedTuple):
    """One kind of phase.

    Attributes:
      init: `init(rng, teacher_variables, start) -> state`, may be traced.
      begin: `begin(teacher_variables, said, keys, order, step) -> advance` with everything on
        the devices, and `advance(states, step, count) -> (states, metrics)` makes `count` steps
        from `step`; it is called for all steps in order. It donates the states, of which
        there is one a seed, and so with the metrics. Of the teachers' variables there is
        one for each or one for all, and so of the keys and seeds of the order of the data,
        and of `said(split)`, the teachers' logits on a split, each [n, k].
      draw: `draw(state) -> uint8 [h, w, c]`, a picture of what the phase looks at, or None.
    """

    init: Callable[[Array, Any, Any], TrainState]
    begin: Callable[[Sequence[Any], Sequence[Said], Sequence[Array], Sequence[int], int], Advance]
    draw: Callable[[Any], np.ndarray] | None = None


class Settings(NamedTuple):
    """A data-free phase's group `adversarial`, in which every key may be left out.

    Attributes:
      distance: what student and generator fight over, of `kdjax.adversarial.DISTANCES`;
        the phase's `objective` is added to it for the student alone.
      generator_steps: n_G; several numbers share the run in equal parts.
      student_steps: n_S, likewise.
      learning_rate: the generator's; otherwise its optimiser is the student's.
      latent_dim: length of a latent.
      spectral_norm: of the generator.
      stale_teacher: as for `kdjax.adversarial.Adversary`.
      eval_every: pseudo-batches between evaluations; 0 only at the end.
    """

    distance: str = "kl"
    generator_steps: tuple[int, ...] = (1,)
    student_steps: tuple[int, ...] = (10,)
    learning_rate: float = 1e-3
    latent_dim: int = 100
    spectral_norm: bool = False
    stale_teacher: bool = False
    eval_every: int = 50


def settings(given: dict[str, Any]) -> Settings:
    """The group `adversarial` of a phase.

    Raises:
      UserError: on an unknown key or a number that is none.
    """
    if unknown := sorted(set(given) - set(Settings._fields)):
        raise UserError(
            f"adversarial has no key {', '.join(unknown)}: "
            f"choose from {', '.join(Settings._fields)}"
        )
    for key in ("generator_steps", "student_steps"):
        value = given.get(key, getattr(Settings(), key))
        value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if not value or any(not isinstance(n, int) or n < 1 for n in value):
            raise UserError(f"adversarial.{key} is {value}: it is one or more positive integers")
        given = given | {key: value}
    result = Settings(**given)
    if result.latent_dim < 1 or result.eval_every < 0:
        raise UserError(
            f"adversarial.latent_dim is {result.latent_dim} and eval_every {result.eval_every}: "
            "the first is positive, the second not negative"
        )
    return result


def data_free(
    chosen: Settings,
    *,
    student: Network,
    teachers: Sequence[Network],
    distiller: Distiller,
    optimizer: dict[str, Any],
    schedule: Callable[[float], optax.Schedule],
    image_shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
    steps: int,
    devices: parallel.Devices,
) -> Work:
    """Transfer from the teachers to the student with nothing but latents; a step is a pseudo-batch.

    Args:
      chosen: the settings.
      student: what is trained.
      teachers: at least one.
      distiller: the student's objective beside the distance.
      optimizer: of both, as for `kdjax.optimizers.create`.
      schedule: from a learning rate to its schedule over pseudo-batches.
      image_shape: (h, w, c), of what is generated.
      num_classes: k.
      batch_size: latents a pseudo-batch.
      steps: pseudo-batches of the phase.
      devices: that share them.

    Raises:
      UserError: if an argument is wrong or something does not fit.
    """
    unit = optimizers.create(**optimizer | {"learning_rate": 1.0})
    adversary = Adversary(
        student=student,
        teachers=teachers,
        generator=models.create(
            "generator",
            image_shape=image_shape,
            latent_dim=chosen.latent_dim,
            spectral_norm=chosen.spectral_norm,
            dtype=student.module.dtype,
            axis_name=parallel.AXIS,
        ),
        distance=chosen.distance,
        distiller=distiller,
        optimizer=unit,
        generator_optimizer=unit,
        learning_rate=schedule(optimizer["learning_rate"]),
        generator_learning_rate=schedule(chosen.learning_rate),
        stale_teacher=chosen.stale_teacher,
        axis_name=parallel.AXIS,
    )

    def init(rng: Array, teacher_variables: Any, start: Any) -> TrainState:
        return adversary.init(
            rng,
            image_shape=image_shape,
            num_classes=num_classes,
            batch_size=batch_size,
            teacher_variables=teacher_variables,
            start=start,
        )

    def begin(
        teacher_variables: Sequence[Any],
        said: Sequence[Said],
        keys: Sequence[Array],
        order: Sequence[int],
        step: int,
    ) -> Advance:
        run = adversary.make_step(devices)

        def updates_at(step: int) -> dict[str, int]:
            return {
                "generator_steps": schedules.in_parts(chosen.generator_steps, step, steps),
                "student_steps": schedules.in_parts(chosen.student_steps, step, steps),
            }

        def advance_one(
            state: Any, step: int, count: int, taught_by: Any, key: Array
        ) -> tuple[Any, dict[str, Any]]:
            total: dict[str, Any] = {}
            end = step + count
            while step < end:
                updates = updates_at(step)
                # A change of n_G or n_S is another program, so it ends a call.
                n = 1
                while step + n < end and updates == updates_at(step + n):
                    n += 1
                places = np.broadcast_to(np.arange(batch_size, dtype=np.int32), (n, batch_size))
                state, metrics = run(
                    state, taught_by, devices.shard(places, axis=1), key,
                    **updates,
                )  # fmt: skip
                total = {k: total.get(k, 0) + v * (n / count) for k, v in metrics.items()}
                step += n
            return state, total

        def advance(states: Sequence[Any], step: int, count: int) -> tuple[Any, Any]:
            results = [
                advance_one(
                    state, step, count,
                    parallel.own(teacher_variables, i), parallel.own(keys, i),
                )
                for i, state in enumerate(states)
            ]  # fmt: skip
            trained, metrics = zip(*results, strict=True)
            return trained, metrics

        return advance

    def pictures(state: AdversarialState) -> Array:
        latents = adversary.latents(jax.random.key(0), jnp.arange(_PICTURES))
        return adversary.samples(state.generator, latents)

    compiled = jax.jit(pictures)

    def draw(state: Any) -> np.ndarray:
        """The same latents' images in a row."""
        images = np.asarray(compiled(jax.device_get(state)))
        return np.round(np.concatenate(images, axis=1) * 255).astype(np.uint8)

    return Work(init, begin, draw)
