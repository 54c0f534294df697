"""Training without data: a generator makes the images (Micaelli & Storkey 2019, DFQ, Fast)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.length import Length
from experiments.objective import make_objective
from experiments.tasks.base import Ahead, RunSteps, Setup, StepInputs
from kdjax import distillers, models, optimizers, parallel, schedules
from kdjax.adversarial import AdversarialState, Adversary, Fast, GeneratorObjective, make_step
from kdjax.types import Array, TrainState, UserError, Variables

_PICTURES = 10
# Keys of a phase that mean nothing without data, and their defaults.
_FIXED: dict[str, Any] = {
    "keep": (),
    "reestimate_batch_norm": False,
    "train_eval_images": 0,
    "grad_accum_steps": 1,
    "ema_decay": 0.0,
    "shots": 0,
    "teacher_batch_norm": "running",
}


class Settings(NamedTuple):
    """A phase's group `adversarial`, in which every key may be left out.

    Attributes:
      distance: what the generator maximises and the student minimises, one of
        `kdjax.adversarial.DISTANCES`; the student also minimises the phase's `objective`.
      distance_weight: of the distance in the generator's objective, and of its other terms:
      batch_norm_weight: as for `kdjax.adversarial.GeneratorObjective`.
      one_hot_weight: likewise.
      balance_weight: likewise.
      student_distance: as for `kdjax.adversarial.Adversary`.
      student_eval: likewise.
      fresh_images: likewise.
      pool: batches of images that Fast keeps for the student, at most one for each pseudo-batch; 0
        for another method. Networks see them with the crops and flips of the phase's `augment`.
      latent_learning_rate: as for `kdjax.adversarial.Fast`.
      moments_decay: its `decay`.
      warmup: the share of the phase in which its generator does not look at the student.
      generator_steps: n_G, updates of the generator per pseudo-batch. Several numbers
        divide the phase into equal parts.
      student_steps: n_S, updates of the student per pseudo-batch, in the same form.
      learning_rate: of the generator.
      optimizer: of the generator, one of `kdjax.optimizers.NAMES`, with a constant learning rate.
        "" has the student's, with its schedule.
      momentum: of `optimizer`.
      latent_dim: length of a latent.
      features: as for `kdjax.models.generator.Generator`.
      sigmoid: likewise.
      spectral_norm: whether the generator's convolutions have it.
      stale_teacher: as for `kdjax.adversarial.Adversary`.
      eval_every: pseudo-batches between evaluations; 0 evaluates only at the end.
    """

    distance: str = "kl"
    distance_weight: float = 1.0
    batch_norm_weight: float = 0.0
    one_hot_weight: float = 0.0
    balance_weight: float = 0.0
    student_distance: bool = True
    student_eval: bool = False
    fresh_images: bool = False
    pool: int = 0
    latent_learning_rate: float = 0.01
    moments_decay: float = 0.9
    warmup: float = 0.0
    generator_steps: tuple[int, ...] = (1,)
    student_steps: tuple[int, ...] = (10,)
    learning_rate: float = 1e-3
    optimizer: str = ""
    momentum: float = 0.9
    latent_dim: int = 100
    features: int = 128
    sigmoid: bool = False
    spectral_norm: bool = False
    stale_teacher: bool = False
    eval_every: int = 50


def read_settings(given: dict[str, Any]) -> Settings:
    """Checks a phase's group `adversarial`.

    Raises:
      UserError: on an unknown key, or numbers of steps that are not positive integers.
    """
    if unknown := sorted(set(given) - set(Settings._fields)):
        raise UserError(
            f"adversarial has no key {', '.join(unknown)}: "
            f"choose from {', '.join(Settings._fields)}"
        )
    for key in ("generator_steps", "student_steps"):
        value = given.get(key, Settings._field_defaults[key])
        value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if not value or any(not isinstance(n, int) or n < 1 for n in value):
            raise UserError(f"adversarial.{key} is {value}: it is one or more positive integers")
        given = given | {key: value}
    return Settings(**given)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DataFree:
    """A phase whose student sees nothing but generated images; a step is a pseudo-batch.

    Attributes:
      settings: numbers of updates per pseudo-batch.
      adversary: student, teachers and generator.
      devices: that share a pseudo-batch.
      image_shape: (h, w, c) of what is generated.
      num_classes: k.
      batch_size: latents per pseudo-batch.
      steps: pseudo-batches of the phase.
    """

    settings: Settings
    adversary: Adversary
    devices: parallel.Devices
    image_shape: tuple[int, int, int]
    num_classes: int
    batch_size: int
    steps: int

    @classmethod
    def create(cls, setup: Setup, length: Length) -> "DataFree":
        """The task that a phase's config describes.

        Raises:
          UserError: if anything in its config is invalid.
        """
        config = setup.config
        for key, default in _FIXED.items():
            if config[key] != default:
                raise UserError(
                    f"phase {setup.name!r} learns without data, and {key} is {config[key]}: "
                    f"there it can only be {default}"
                )
        settings = read_settings(config.adversarial.to_dict())
        return cls(
            settings=settings,
            adversary=_make_adversary(setup, length, settings),
            devices=setup.devices,
            image_shape=setup.data.image_shape,
            num_classes=setup.data.num_classes,
            batch_size=config.batch_size,
            steps=length.end.max_steps,
        )

    @property
    def eval_every(self) -> float:
        """See `Task`."""
        return self.settings.eval_every

    def init(
        self,
        rng: Array,
        teacher_variables: tuple[Variables, ...],
        init_variables: Variables | None,
    ) -> TrainState:
        """See `Task.init`."""
        return self.adversary.init(
            rng,
            image_shape=self.image_shape,
            num_classes=self.num_classes,
            batch_size=self.batch_size,
            teacher_variables=teacher_variables,
            init_variables=init_variables,
        )

    def prepare(self, states: Sequence[TrainState], inputs: StepInputs) -> Sequence[TrainState]:
        """See `Task.prepare`; without images there is nothing to do."""
        return states

    def make_step(self, inputs: StepInputs, start: int, ahead: Ahead | None = None) -> RunSteps:
        """See `Task.make_step`; the programs, often several, are compiled when they are called."""
        pseudo_batches = make_step(self.adversary, self.devices)
        line = self.devices.own(np.arange(self.batch_size, dtype=np.int32))

        def run_member(member: int, state: Any, step: int, count: int) -> tuple[Any, Any]:
            teacher_variables = parallel.for_member(inputs.teacher_variables, member)
            key = parallel.for_member(inputs.keys, member)
            total: dict[str, Any] = {}
            end = step + count
            while step < end:
                updates = self._updates(step)
                # Other numbers of updates are another program, so they end a call.
                n = 1
                while step + n < end and updates == self._updates(step + n):
                    n += 1
                indices = self.devices.shard(np.broadcast_to(line, (n, len(line))), axis=1)
                state, metrics = pseudo_batches(state, teacher_variables, indices, key, **updates)
                total = {k: total.get(k, 0) + v * (n / count) for k, v in metrics.items()}
                step += n
            return state, total

        def run_steps(states: Sequence[Any], step: int, count: int) -> tuple[Any, Any]:
            results = [run_member(i, state, step, count) for i, state in enumerate(states)]
            trained, metrics = zip(*results, strict=True)
            return trained, metrics

        return run_steps

    def caches_teachers(self) -> bool:
        """See `Task.caches_teachers`; the images are new ones in each run."""
        return False

    def preview(self, state: Any) -> np.ndarray:
        """Images that the generator makes of the same latents every time, in a row."""
        images = np.asarray(self._samples(jax.device_get(state)))
        return np.round(np.concatenate(images, axis=1) * 255).astype(np.uint8)

    @functools.cached_property
    def _samples(self) -> Any:
        def samples(state: AdversarialState) -> Array:
            latents = self.adversary.latents(jax.random.key(0), jnp.arange(_PICTURES))
            return self.adversary.samples(state.generator, latents)

        return jax.jit(samples)

    def _updates(self, step: int) -> dict[str, int]:
        """Numbers of updates in a pseudo-batch."""
        return {
            "generator_steps": schedules.in_parts(self.settings.generator_steps, step, self.steps),
            "student_steps": schedules.in_parts(self.settings.student_steps, step, self.steps),
        }


def _make_adversary(setup: Setup, length: Length, settings: Settings) -> Adversary:
    config = setup.config
    unit = optimizers.create(**config.optimizer.to_dict() | {"learning_rate": 1.0})
    generator_unit = unit
    rate = length.schedule(peak_value=settings.learning_rate, **config.schedule)
    if settings.optimizer:
        generator_unit = optimizers.create(settings.optimizer, 1.0, momentum=settings.momentum)
        rate = optax.constant_schedule(settings.learning_rate)
    fast, steps = None, length.end.max_steps
    if settings.pool:
        fast = Fast(
            pool_size=min(settings.pool, steps) * config.batch_size,
            latent_learning_rate=settings.latent_learning_rate,
            warmup=round(settings.warmup * steps),
            decay=settings.moments_decay,
            padding=config.augment.padding,
            flip=config.augment.flip,
        )
    distiller = distillers.weighted_sum()
    # The objective is optional where the distance trains the student.
    if config.objective or not settings.student_distance:
        distiller = make_objective(config.objective, length)
    return Adversary(
        student=setup.network,
        teachers=setup.teachers,
        generator=models.create(
            "generator",
            image_shape=setup.data.image_shape,
            latent_dim=settings.latent_dim,
            features=settings.features,
            sigmoid=settings.sigmoid,
            spectral_norm=settings.spectral_norm,
            dtype=setup.network.module.dtype,
            axis_name=parallel.AXIS,
        ),
        distance=settings.distance,
        distiller=distiller,
        optimizer=unit,
        generator_optimizer=generator_unit,
        learning_rate=length.learning_rate(config),
        generator_learning_rate=rate,
        objective=GeneratorObjective(
            distance=settings.distance_weight,
            batch_norm=settings.batch_norm_weight,
            one_hot=settings.one_hot_weight,
            balance=settings.balance_weight,
        ),
        student_distance=settings.student_distance,
        student_eval=settings.student_eval,
        fresh_images=settings.fresh_images,
        fast=fast,
        stale_teacher=settings.stale_teacher,
        axis_name=parallel.AXIS,
        elementwise=optimizers.is_elementwise(config.optimizer.name, config.optimizer.decay_mask),
    )
