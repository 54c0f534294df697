"""Training on images, with or without teachers."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments import teacher_cache
from experiments.data import PhaseData, PhaseSplit
from experiments.evaluation import TeacherLogits, teacher_sizes
from experiments.length import Length
from experiments.objective import make_objective
from experiments.tasks.base import Ahead, RunSteps, Setup, StepInputs
from kdjax import batch_stats, optimizers, parallel, train
from kdjax.data import batches, seen, sources, views, whole
from kdjax.teachers import make_step as make_teacher_step
from kdjax.types import Array, Distiller, Network, TeacherInputs, TrainState, UserError, Variables


def batch_parts(config: ConfigDict) -> tuple[int, ...]:
    """How many examples each source of images gives to a part of a batch.

    There is one part unless gradients are accumulated.

    Args:
      config: of a phase.

    Raises:
      UserError: if a source gives none.
    """
    size: int = config.batch_size // config.grad_accum_steps
    if not config.more_images.name:
        return (size,)
    more = round(size * config.more_images.share)
    if not 0 < more < size:
        raise UserError(
            f"more_images.share is {config.more_images.share}: of {size} images, {more} would be "
            "from there, and it must be some but not all"
        )
    return (size - more, more)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Supervised:
    """A phase on images.

    Attributes:
      network: the student.
      teachers: in the order in which the distiller finds them.
      distiller: the objective.
      optimizer: with its learning rate.
      data: its training split is what batches are drawn from.
      devices: that share a batch.
      batch_parts: examples per step and part of a batch, from each source of images.
      steps: of the phase.
      augment: arguments of `kdjax.data.views.make_views`.
      extra_views: changes to these for each further view.
      teacher_sizes: of what each teacher sees, in pixels; 0 is what the student sees.
      teacher_crops: crops over which the predictions of fixed teachers are averaged; 0 takes
        the evaluation view.
      eval_every: steps between evaluations; 0 evaluates only at the end.
      grad_accum_steps: parts into which a batch is cut.
      ema_decay: of the average of the student's variables; 0 keeps none.
      teacher_batch_norm: as for `kdjax.train.make_train_step`.
      sync_batch_norm: whether the networks' batch norm averages over all devices.
      reestimate_batch_norm: whether to measure batch statistics again before the first step.
      elementwise: whether the optimiser treats every element alike.
    """

    network: Network
    teachers: Sequence[Network]
    distiller: Distiller
    optimizer: optax.GradientTransformation
    data: PhaseData
    devices: parallel.Devices
    batch_parts: tuple[int, ...]
    steps: int
    augment: dict[str, Any]
    extra_views: tuple[dict[str, Any], ...] = ()
    teacher_sizes: tuple[int, ...] = ()
    teacher_crops: int = 0
    eval_every: float = 0.0
    grad_accum_steps: int = 1
    ema_decay: float = 0.0
    teacher_batch_norm: str = "running"
    sync_batch_norm: bool = True
    reestimate_batch_norm: bool = False
    elementwise: bool = False

    @classmethod
    def create(cls, setup: Setup, length: Length) -> "Supervised":
        """The task that a phase's config describes.

        Raises:
          UserError: if anything in its config is invalid.
        """
        config = setup.config
        optimizer = config.optimizer.to_dict() | {"learning_rate": length.learning_rate(config)}
        augment = config.augment.to_dict()
        teacher_crops = augment.pop("teacher_crops")
        sizes = teacher_sizes(augment["teacher_size"], len(setup.teachers))
        augment["teacher_size"] = max(sizes, default=0)
        task = cls(
            network=setup.network,
            teachers=setup.teachers,
            distiller=make_objective(config.objective, length),
            optimizer=optimizers.create(**optimizer),
            data=setup.data,
            devices=setup.devices,
            batch_parts=batch_parts(config),
            steps=length.end.max_steps,
            augment=augment,
            extra_views=tuple(config.extra_views.to_dict().values()),
            teacher_sizes=sizes,
            teacher_crops=teacher_crops,
            eval_every=config.eval_every * length.steps_per_epoch,
            grad_accum_steps=config.grad_accum_steps,
            ema_decay=config.ema_decay,
            teacher_batch_norm=config.teacher_batch_norm,
            sync_batch_norm=config.sync_batch_norm,
            reestimate_batch_norm=config.reestimate_batch_norm,
            elementwise=optimizers.is_elementwise(optimizer["name"], optimizer["decay_mask"]),
        )
        task.all_views()
        task.check_teacher_views()
        return task

    def init(
        self,
        rng: Array,
        teacher_variables: tuple[Variables, ...],
        init_variables: Variables | None,
    ) -> TrainState:
        """See `Task.init`."""
        return train.init_state(
            rng,
            student=self.network,
            distiller=self.distiller,
            optimizer=self.optimizer,
            image_shape=self.data.image_shape,
            teacher_image_shapes=[
                (*(size or self.data.image_size,) * 2, self.data.channels)
                for size in self.teacher_sizes
            ],
            num_classes=self.data.num_classes,
            batch_size=sum(self.batch_parts),
            teachers=self.teachers,
            teacher_variables=teacher_variables,
            train_labels=jnp.concatenate([jnp.asarray(split.labels) for split in self._splits]),
            labelled=seen.labelled_rows(self.batch_parts, self._labelled),
            init_variables=init_variables,
            ema_decay=self.ema_decay,
        )

    def prepare(self, states: Sequence[TrainState], inputs: StepInputs) -> Sequence[TrainState]:
        """See `Task.prepare`.

        If batch statistics are to be measured again, by one pass over all images in training mode,
        with the views of training.
        """
        if not self.reestimate_batch_norm:
            return states
        step = self.devices.map(
            batch_stats.make_batch_stats_step(
                student=self.network, views=self.all_views(), axis_name=parallel.AXIS
            ),
            in_axes=(None, None, 0, None),
        )
        steps = math.ceil(len(self.data.train) / (self.batch_parts[0] * self.grad_accum_steps))
        resident, renewed = self._resident(), []
        for i, state in enumerate(states):
            stream = self._stream(parallel.for_member(inputs.data_seeds, i), 0)
            for number in range(min(steps, self.steps)):
                # The step does not count itself: each pass of images has a key of its own.
                key = jax.random.fold_in(parallel.for_member(inputs.keys, i), number)
                key = self.devices.replicate(key)
                state = step(state, resident, self._batch(stream, 1), key)
                parallel.wait_on_cpu(state)
            renewed.append(state)
        return renewed

    def make_step(self, inputs: StepInputs, start: int, ahead: Ahead | None = None) -> RunSteps:
        """See `Task.make_step`."""
        train_step = self.devices.map(
            train.make_train_step(
                student=self.network,
                distiller=self.distiller,
                optimizer=self.optimizer,
                views=self.all_views(),
                teachers=[self._synchronized(teacher) for teacher in self.teachers],
                teacher_batch_norm=self.teacher_batch_norm,
                grad_accum_steps=self.grad_accum_steps,
                ema_decay=self.ema_decay,
                axis_name=parallel.AXIS,
                several_seeds=True,
                elementwise=self.elementwise,
                labelled=self._labelled,
                at_student_size=self._at_student_size,
            ),
            in_axes=(None, None, None, 0, None),
            donate_argnums=0,
        )
        resident = self._resident()
        teachers = self._teacher_inputs(inputs)
        streams = [self._stream(seed, start) for seed in inputs.data_seeds]
        add_logits = self._cached_logits(inputs, teachers, resident)
        in_flight: Any = ()

        def busy() -> bool:
            return not all(metric.is_ready() for metric in jax.tree.leaves(in_flight))

        def next_batch(step: int, count: int) -> Any:
            with inputs.wait(busy):
                batch = tuple(self._batch(stream, count) for stream in streams)
            if add_logits:
                batch = tuple(add_logits(i, one, step, count) for i, one in enumerate(batch))
            return batch

        keys, first = tuple(inputs.keys), []
        if ahead:
            first.append(next_batch(start, ahead.steps))
            # The call with such states finds this program.
            train_step.lower(tuple(ahead.states), teachers, resident, first[0], keys).compile()

        def run_steps(states: Sequence[Any], step: int, count: int) -> tuple[Any, Any]:
            nonlocal in_flight
            batch = first.pop() if first else next_batch(step, count)
            result = train_step(tuple(states), teachers, resident, batch, keys)
            in_flight = result[1]
            parallel.wait_on_cpu(in_flight)
            return result

        return run_steps

    def caches_teachers(self) -> bool:
        """See `Task.caches_teachers`."""
        return (
            bool(self.teachers)
            and self.teacher_batch_norm == "running"
            and not self.reuses_teacher_logits()
            and not self.extra_views
            and not self.data.more
            and not isinstance(self.data.train.split.images, sources.Lazy)
            and self.whole_crops() is None
        )

    def _cached_logits(
        self, inputs: StepInputs, teachers: Sequence[TeacherInputs], resident: Any
    ) -> Callable[[int, Any, int, int], Any] | None:
        """Adds the teachers' logits to the i-th stream's batches from a cache, if there is one."""
        if not inputs.teacher_cache:
            return None
        program = self.devices.map(
            make_teacher_step(
                views=self.make_views(),
                teachers=self.teachers,
                axis_name=parallel.AXIS,
                at_student_size=self._at_student_size,
            ),
            in_axes=(None, None, 0, None, None),
            out_axes=0,
        )
        arrays = {"images": self.data.train.split.images, "labels": self.data.train.split.labels}
        same = {
            "data": teacher_cache.digest({k: np.asarray(v) for k, v in arrays.items()}),
            "augment": {key: repr(value) for key, value in self.augment.items()},
            "teacher_sizes": list(self.teacher_sizes),
            "image_size": self.data.image_size,
            "fill": list(self.network.mean),
            "batch_size": self.batch_parts[0] * self.grad_accum_steps,
        }
        caches = [
            teacher_cache.TeacherCache(
                Path(inputs.teacher_cache),
                same | {
                    "seed": seed,
                    "teachers": teacher_cache.describe(
                        self.teachers, parallel.for_member(teachers, i).variables
                    ),
                },
                self.steps,
            )
            for i, seed in enumerate(inputs.data_seeds)
        ]  # fmt: skip

        def add(i: int, batch: Any, step: int, count: int) -> Any:
            def compute() -> tuple[np.ndarray, ...]:
                given = parallel.for_member(teachers, i)
                found = program(given, resident, batch, inputs.keys[i], np.int32(step))
                # Shards are along the batch, behind the steps.
                return tuple(np.concatenate(list(jax.device_get(one)), axis=1) for one in found)

            logits = caches[i].logits(step, count, compute)
            return {**batch, "logits": tuple(self.devices.shard(one, axis=1) for one in logits)}

        return add

    @property
    def _at_student_size(self) -> list[bool]:
        """For each teacher whether it sees the student's view beside another resolution."""
        return [not size and any(self.teacher_sizes) for size in self.teacher_sizes]

    def _resident(self) -> Any:
        """What compiled steps gather from, on the devices."""
        resident = self.data.train.resident(self.devices)
        if self.data.more:
            resident = {**resident, "more": self.data.more.resident(self.devices)}
        return resident

    @property
    def _splits(self) -> list[PhaseSplit]:
        """Of all sources of images."""
        return [self.data.train, *([self.data.more] if self.data.more else [])]

    @property
    def _labelled(self) -> tuple[bool, ...]:
        """Whether each source of images has labels."""
        return (self.data.labelled, self.data.more_labelled)[: len(self._splits)]

    def _stream(self, seed: int, start: int) -> Iterator[batches.Batch[np.ndarray]]:
        """This process's share of the batches from step `start` on, with a part of each source."""
        own, *more = (
            batches.stream(
                split.split, batch_size=size * self.grad_accum_steps, seed=seed, start=start,
                stop=self.steps, workers=self.data.workers,
                crops=self.whole_crops() if split is self.data.train else None,
                share=self.devices.share,
            )
            for split, size in zip(self._splits, self.batch_parts, strict=True)
        )  # fmt: skip
        if not more:
            return own

        def with_more(
            first: batches.Batch[np.ndarray], second: batches.Batch[np.ndarray]
        ) -> batches.Batch[np.ndarray]:
            first["more"] = second
            return first

        return map(with_more, own, *more)

    def preview(self, state: TrainState) -> None:
        """See `Task.preview`."""

    def make_views(self, **changes: Any) -> views.ViewFn:
        """The function that makes what student and teachers see; checks `augment`."""
        arguments: dict[str, Any] = {
            "num_classes": self.data.num_classes,
            "image_size": self.data.image_size,
            "fill": self.network.mean,
            "cropped": self.whole_crops() is not None,
        }
        return views.make_views(**(arguments | self.augment | changes))

    def all_views(self) -> list[views.ViewFn]:
        """The functions that make every view of a batch; checks `augment` and `extra_views`."""
        known = [key for key in self.augment if key != "teacher_size"]
        for changes in self.extra_views:
            if unknown := sorted(set(changes) - set(known)):
                raise UserError(
                    f"extra_views has no key {', '.join(unknown)}: choose from {', '.join(known)}"
                )
        if self.extra_views and self.whole_crops():
            raise UserError("extra_views are of resized images, and data.whole is set")
        return [self.make_views(), *(self.make_views(**changes) for changes in self.extra_views)]

    def whole_crops(self) -> whole.Crops | None:
        """The crops of whole images, if the data has them and the phase takes such crops."""
        if self.augment["crop"] != "inception" or self.data.train.split.whole is None:
            return None
        scale, view = tuple(self.augment["scale"]), self.augment["teacher_view"]
        return whole.Crops(scale, self.data.image_size, view, self.augment["teacher_size"])

    def check_teacher_views(self) -> None:
        """Raises UserError if what the teachers see does not fit the other options."""
        view, batch_norm = self.augment["teacher_view"], self.teacher_batch_norm
        if len(set(self.teacher_sizes)) > 1 and view not in ("consistent", "function_matching"):
            raise UserError(
                f"augment.teacher_size differs and teacher_view is {view!r}: teachers at the "
                "student's resolution see what it sees, with consistent or function_matching"
            )
        if self.teacher_crops and (self.extra_views or self.data.more):
            raise UserError("augment.teacher_crops are of one view of the training split alone")
        if self.teacher_crops < 0 or (
            self.teacher_crops and (view != "fixed" or batch_norm != "running")
        ):
            raise UserError(
                f"augment.teacher_crops is {self.teacher_crops}, teacher_view {view!r} and "
                f"teacher_batch_norm {batch_norm!r}: it is positive only with 'fixed' and 'running'"
            )

    def reuses_teacher_logits(self) -> bool:
        """Whether the teachers' logits are computed once and not in every epoch.

        That is possible where they see the same pixels every time, and pays where they see
        them more than once. It depends on the phase alone, so that a resumed phase computes
        the same. Means over crops are always computed once.
        """
        if self.extra_views or self.data.more:
            return False
        if self.teachers and self.teacher_crops:
            return True
        return (
            bool(self.teachers)
            and self.augment["teacher_view"] == "fixed"
            and self.teacher_batch_norm == "running"
            and not isinstance(self.data.train.split.images, sources.Lazy)
            and self.steps * sum(self.batch_parts) * self.grad_accum_steps > len(self.data.train)
        )

    def _teacher_inputs(self, inputs: StepInputs) -> tuple[TeacherInputs, ...]:
        """The teachers' variables, and their logits on the training split where they are reused."""
        if not self.reuses_teacher_logits():
            return tuple(TeacherInputs(variables) for variables in inputs.teacher_variables)

        def logits(of: TeacherLogits) -> tuple[np.ndarray, ...]:
            if not self.teacher_crops:
                return of.each(self.data.train)
            # The teacher's crops are such as the student sees.
            make_views = self.make_views(teacher_view="consistent")
            return of.averaged(self.data.train, make_views, self.teacher_crops, self.whole_crops())

        return tuple(
            TeacherInputs(variables, self.devices.replicate(logits(of)))
            for variables, of in zip(inputs.teacher_variables, inputs.teacher_logits, strict=True)
        )

    def _batch(self, stream: Iterator[Any], count: int) -> Any:
        """The next `count` batches, stacked and cut into shards."""
        parts = [next(stream) for _ in range(count)]
        return jax.tree.map(lambda *x: self.devices.shard(np.stack(x), axis=1), *parts)

    def _synchronized(self, network: Network) -> Network:
        """The teacher with batch norm over all devices, if the phase wants that.

        It makes a difference only to a teacher that normalises by the batch.
        """
        axis_name = parallel.AXIS if self.sync_batch_norm else None
        return network._replace(module=network.module.clone(axis_name=axis_name))
