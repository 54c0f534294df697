"""Data-free knowledge transfer by adversarial belief matching (Micaelli & Storkey 2019).

A generator searches for images on which student and teachers disagree, and the student
learns from the teachers on these images. The only inputs are latents, which are a function
of the seed, the step and the index in the batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import parallel, train, updates
from kdjax.adversarial.distances import DISTANCES
from kdjax.adversarial.state import AdversarialState, Lesson, PseudoBatchStep
from kdjax.types import (
    Array,
    Context,
    Distiller,
    Metrics,
    Network,
    Outputs,
    PyTree,
    UserError,
    Variables,
)


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A student, its teachers and a generator, with their objectives.

    Attributes:
      student: the network to train, always applied in training mode.
      teachers: at least one, applied in evaluation mode. The generator's outputs are images
        under the normalisation of the first.
      generator: from latents to images, applied in training mode during training. It has an
        attribute `latent_dim`.
      distance: one of `DISTANCES`, maximised by the generator and minimised by the student;
        with several teachers, the mean over them.
      distiller: the rest of the student's objective, added to the distance (attention
        transfer in the paper). In its context, `labels` are the classes with the largest
        probability in the mean over the teachers.
      optimizer: the student's optimiser, with a learning rate of 1.
      generator_optimizer: the generator's optimiser, with a learning rate of 1.
      learning_rate: the student's learning rate, a schedule over pseudo-batches.
      generator_learning_rate: the generator's learning rate, a schedule over pseudo-batches.
      stale_teacher: whether the student's first update uses the teachers' outputs for the
        images from before the generator's last update, as SZamboni/advanceddeep does.
      axis_name: the mapped axis over which batches are sharded, or None.
      elementwise: as for `kdjax.train.make_train_step`; of the student's optimiser.

    Raises:
      UserError: if the distance is unknown or there is no teacher.
    """

    student: Network
    teachers: Sequence[Network]
    generator: nn.Module
    distance: str
    distiller: Distiller
    optimizer: optax.GradientTransformation
    generator_optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    generator_learning_rate: optax.Schedule
    stale_teacher: bool = False
    axis_name: str | None = None
    elementwise: bool = False

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise UserError(
                f"unknown distance {self.distance!r}: choose from {', '.join(DISTANCES)}"
            )
        if not self.teachers:
            raise UserError("data-free transfer needs at least one teacher, got none")

    def init(
        self,
        rng: Array,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        batch_size: int,
        teacher_variables: Sequence[Variables] = (),
        init_variables: Variables | None = None,
    ) -> AdversarialState:
        """The state before the first pseudo-batch.

        Arguments and errors are those of `kdjax.train.init_state`.
        """
        student_key, generator_key = jax.random.split(rng)
        state = train.init_state(
            student_key,
            student=self.student,
            distiller=self.distiller,
            optimizer=self.optimizer,
            image_shape=image_shape,
            num_classes=num_classes,
            batch_size=batch_size,
            teachers=self.teachers,
            teacher_variables=teacher_variables,
            init_variables=init_variables,
        )
        generator = dict(self.generator.init(generator_key, jnp.zeros((1, self._latent_dim))))
        return AdversarialState(
            **{f.name: getattr(state, f.name) for f in dataclasses.fields(state)},
            generator=generator,
            generator_opt_state=self.generator_optimizer.init(generator["params"]),
        )

    def _uses_vectors(self, state: AdversarialState) -> bool:
        return self.elementwise and not parallel.on_cpu() and updates.can_pack(state)

    @property
    def _latent_dim(self) -> int:
        return self.generator.latent_dim

    def latents(self, rng: Array, indices: Array) -> Array:
        """Standard normal latents, float32 [b, latent_dim].

        Args:
          rng: a key, the same on every device.
          indices: int32 [b], indices in the whole batch. Each latent is a function of the key
            and its index, so that the number of devices does not matter.
        """
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, indices)
        return jax.vmap(lambda key: jax.random.normal(key, (self._latent_dim,)))(keys)

    def images(self, variables: Variables, latents: Array) -> tuple[Array, Variables]:
        """Generated images [b, h, w, c], and the generator's new batch statistics.

        Images are in units of pixels, but not restricted to [0, 1], because the generator's
        outputs are unbounded.
        """
        result: Any = self.generator.apply(variables, latents, train=True, mutable=["batch_stats"])
        images, new = result
        return self.teachers[0].pixels(images), new["batch_stats"]

    def samples(self, variables: Variables, latents: Array) -> Array:
        """Images generated in evaluation mode, pixels clipped to [0, 1], [b, h, w, c]."""
        images: Any = self.generator.apply(variables, latents, train=False)
        return jnp.clip(self.teachers[0].pixels(images), 0, 1)

    def _distances(self, student: Outputs, teachers: Sequence[Outputs]) -> Array:
        """Distance between student and teachers for each example, [b]."""
        distance = DISTANCES[self.distance]
        values = [distance(student.logits, teacher.logits) for teacher in teachers]
        return jnp.mean(jnp.stack(values), axis=0)

    def teacher_outputs(
        self, teacher_variables: Sequence[Variables], images: Array
    ) -> tuple[Outputs, ...]:
        """Each teacher's outputs for the images."""
        return tuple(
            teacher.evaluate(variables, images)
            for teacher, variables in zip(self.teachers, teacher_variables, strict=True)
        )

    def update_generator(
        self,
        state: AdversarialState,
        teacher_variables: Sequence[Variables],
        latents: Array,
        rng: Array,
    ) -> tuple[AdversarialState, tuple[Outputs, ...], Metrics]:
        """One update of the generator, which increases the distance of student and teachers.

        Returns:
          The state, the teachers' outputs for the images from before the update, and metrics.
        """

        def objective(params: PyTree) -> tuple[Array, Any]:
            variables = {**state.generator, "params": params}
            images, generator_stats = self.images(variables, latents)
            dropout_key = jax.random.fold_in(rng, parallel.index(self.axis_name))
            outputs, student_stats = self.student.train(state.variables, images, dropout_key)
            teachers = self.teacher_outputs(teacher_variables, images)
            distance = jnp.mean(self._distances(outputs, teachers))
            return -distance, (teachers, generator_stats, student_stats, distance)

        grad, (teachers, generator_stats, student_stats, distance) = jax.grad(
            objective, has_aux=True
        )(state.generator["params"])
        grad, generator_stats, student_stats, distance = parallel.pmean(
            (grad, generator_stats, student_stats, distance), self.axis_name
        )
        params, opt_state = updates.step(
            self.generator_optimizer,
            self.generator_learning_rate(state.step),
            grad,
            state.generator_opt_state,
            state.generator["params"],
        )
        state = dataclasses.replace(
            state,
            batch_stats=student_stats,
            generator={"params": params, "batch_stats": generator_stats},
            generator_opt_state=opt_state,
        )
        metrics = {
            "generator/distance": distance,
            "generator/gradient_norm": optax.tree.norm(grad),
        }
        return state, teachers, metrics

    def update_student(
        self,
        state: AdversarialState,
        teacher_variables: Sequence[Variables],
        lesson: Lesson,
        i: Array,
        rng: Array,
    ) -> tuple[AdversarialState, Metrics]:
        """The student's i-th update (int32 []) of a pseudo-batch; the images are constants."""
        rng = _update_key(rng, state.step, i)
        images, teachers = lesson

        def objective(trained: tuple[PyTree, PyTree]) -> tuple[Array, Any]:
            params, method_params = trained
            variables = {"params": params, "batch_stats": state.batch_stats}
            dropout_key = jax.random.fold_in(rng, parallel.index(self.axis_name))
            outputs, student_stats = self.student.train(variables, images, dropout_key)
            p = sum(jax.nn.softmax(teacher.logits) for teacher in teachers)
            teacher_labels = jnp.argmax(p, axis=-1)
            context = Context(
                student=outputs,
                teachers=teachers,
                labels=jax.nn.one_hot(teacher_labels, outputs.logits.shape[-1]),
                index=jnp.zeros(images.shape[0], jnp.int32),
                step=state.step,
                rng=rng,
                student_variables=variables,
                teacher_variables=tuple(teacher_variables),
                axis_name=self.axis_name,
            )
            method_variables = {"params": method_params, "state": state.method_state}
            term = self.distiller.loss(method_variables, context)
            distance = jnp.mean(self._distances(outputs, teachers))
            loss = distance + jnp.mean(term.value)
            agrees = jnp.argmax(outputs.logits, -1) == teacher_labels
            metrics = {
                "loss": loss,
                "distance": distance,
                "agreement": jnp.mean(agrees, dtype=jnp.float32),
            }
            return loss, (metrics | term.metrics, student_stats, term.state)

        trained = (state.params, state.method_params)
        grad, (metrics, student_stats, method_state) = jax.grad(objective, has_aux=True)(trained)
        grad, metrics, student_stats = parallel.pmean(
            (grad, metrics, student_stats), self.axis_name
        )
        (params, method_params), opt_state = updates.step(
            self.optimizer,
            self.learning_rate(state.step),
            grad,
            state.opt_state,
            trained,
            as_vectors=self._uses_vectors(state),
        )
        state = dataclasses.replace(
            state,
            params=params,
            batch_stats=student_stats,
            method_params=method_params,
            method_state=method_state,
            opt_state=opt_state,
        )
        return state, metrics | {"gradient_norm": optax.tree.norm(grad)}

    def generator_part(
        self,
        state: AdversarialState,
        teacher_variables: Sequence[Variables],
        indices: Array,
        rng: Array,
        *,
        generator_steps: int,
    ) -> tuple[AdversarialState, Lesson, Lesson, Metrics]:
        """The generator's updates of a pseudo-batch; arguments as for `pseudo_batch`.

        Returns:
          The state, the lesson for the student's first update, the lesson for all its other
          updates, and the means of the generator's metrics.
        """
        latents = self.latents(jax.random.fold_in(rng, state.step), indices)

        def update(state: AdversarialState, i: Array) -> Any:
            key = _update_key(rng, state.step, i)
            state, teachers, metrics = self.update_generator(state, teacher_variables, latents, key)
            return state, (teachers if self.stale_teacher else (), metrics)

        state, (stale, metrics) = parallel.loop(update, state, jnp.arange(generator_steps))
        images, generator_stats = self.images(state.generator, latents)
        generator_stats = parallel.pmean(generator_stats, self.axis_name)
        state = dataclasses.replace(
            state, generator={**state.generator, "batch_stats": generator_stats}
        )
        lesson = Lesson(images, self.teacher_outputs(teacher_variables, images))
        first = lesson
        if self.stale_teacher:
            first = lesson._replace(teachers=jax.tree.map(lambda x: x[-1], stale))
        return state, first, lesson, _mean(metrics)

    def pseudo_batch(
        self,
        state: AdversarialState,
        teacher_variables: Sequence[Variables],
        indices: Array,
        rng: Array,
        *,
        generator_steps: int,
        student_steps: int,
    ) -> tuple[AdversarialState, Metrics]:
        """Updates the generator, then the student, on the same latents (Algorithm 1).

        The images are generated again after the generator's last update. They are constants
        to the student, and the teachers' outputs for them are computed once.

        Args:
          state: its `step` is the number of the pseudo-batch.
          teacher_variables: each teacher's variables, which never change.
          indices: int32 [b], indices of the latents in the whole pseudo-batch.
          rng: the run's key.
          generator_steps: n_G, at least 1.
          student_steps: n_S, at least 1.

        Returns:
          The state, and metrics averaged over the updates.
        """
        state, first, lesson, generator_metrics = self.generator_part(
            state, teacher_variables, indices, rng, generator_steps=generator_steps
        )
        as_vectors = self._uses_vectors(state)

        def update(carried: Any, i: Array) -> Any:
            state = updates.unpack(carried) if as_vectors else carried
            state, metrics = self.update_student(state, teacher_variables, lesson, i, rng)
            return updates.pack(state) if as_vectors else state, metrics

        histories, start = [], 0
        if self.stale_teacher:
            start = 1  # The first update has a lesson of its own.
            state, metrics = self.update_student(
                state, teacher_variables, first, jnp.zeros((), jnp.int32), rng
            )
            histories.append(jax.tree.map(lambda x: x[None], metrics))
        if start < student_steps:
            start_state = updates.pack(state) if as_vectors else state
            carried, metrics = parallel.loop(update, start_state, jnp.arange(start, student_steps))
            state = updates.unpack(carried) if as_vectors else carried
            histories.append(metrics)
        student_metrics = jax.tree.map(lambda *x: jnp.concatenate(x), *histories)
        return _next_pseudo_batch(state), generator_metrics | _mean(student_metrics)

    def scan(self, devices: parallel.Devices, **counts: int) -> Callable[..., Any]:
        """Compiles the program of accelerators for given numbers of updates; see `make_step`."""

        def run(state: Any, teacher_variables: Any, indices: Array, rng: Array) -> Any:
            def pseudo_batch(state: Any, index: Array) -> tuple[AdversarialState, Metrics]:
                return self.pseudo_batch(state, teacher_variables, index, rng, **counts)

            state, metrics = parallel.loop(pseudo_batch, state, indices)
            return state, _mean(metrics)

        return devices.map(run, in_axes=(None, None, 0, None), donate_argnums=0)

    def make_step(self, devices: parallel.Devices) -> PseudoBatchStep:
        """Compiles pseudo-batches for all devices.

        On accelerators a single program scans over all updates of all pseudo-batches of a
        call. On the CPU, where loops around convolutions are slow and unrolled updates would
        each be compiled separately, there are two programs: one for the generator's part and
        one that is called for each of the student's updates.

        Args:
          devices: the devices that share a pseudo-batch.

        Returns:
          `step(state, teacher_variables, indices, rng, *, generator_steps, student_steps) ->
          (state, metrics)`, with arguments as for `pseudo_batch`, except that indices are
          int32 [devices, n, b / devices] for n pseudo-batches, over which the metrics are
          averaged. The state is donated.
        """
        if not devices.on_cpu:
            program = functools.cache(functools.partial(self.scan, devices))
            return lambda *args, **counts: program(**counts)(*args)

        @functools.cache
        def generator_part(generator_steps: int) -> Callable[..., Any]:
            return devices.map(
                functools.partial(self.generator_part, generator_steps=generator_steps),
                in_axes=(None, None, 0, None),
                out_axes=(None, 0, 0, None),
                donate_argnums=0,
            )

        update = devices.map(
            self.update_student, in_axes=(None, None, 0, None, None), donate_argnums=0
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
                state, first, lesson, generator_metrics = generator_part(generator_steps)(
                    state, teacher_variables, indices[:, n], rng
                )
                parallel.wait_on_cpu(generator_metrics)
                student_metrics = []
                for i in range(student_steps):
                    state, metrics = update(
                        state, teacher_variables, lesson if i else first, np.int32(i), rng
                    )
                    parallel.wait_on_cpu(metrics)
                    student_metrics.append(jax.device_get(metrics))
                state = _next_pseudo_batch(state)
                means = jax.tree.map(lambda *x: np.mean(x), *student_metrics)
                history.append(jax.device_get(generator_metrics) | means)
            return state, jax.tree.map(lambda *x: np.mean(x), *history)

        return step


def _update_key(rng: Array, step: Array, i: Array) -> Array:
    """The key of a network's i-th update of a pseudo-batch."""
    return jax.random.fold_in(jax.random.fold_in(rng, step), i + 1)


def _next_pseudo_batch(state: AdversarialState) -> AdversarialState:
    return dataclasses.replace(state, step=state.step + 1)


def _mean(metrics: PyTree) -> PyTree:
    """Mean over the leading axis, that of updates or of pseudo-batches."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
