"""The networks of data-free knowledge transfer and their updates (Micaelli & Storkey 2019).

A generator searches for images on which student and teachers disagree, and the student
learns from the teachers on these images. The only inputs are latents, which are a function
of the seed, the step and the index in the batch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from kdjax import optimizers, parallel, train, updates
from kdjax.adversarial.distances import DISTANCES
from kdjax.adversarial.fast import Fast
from kdjax.adversarial.objectives import ZERO_SHOT, GeneratorObjective
from kdjax.adversarial.state import AdversarialState, Lesson
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
      student: the network to train, applied in training mode; see `student_eval`.
      teachers: at least one, applied in evaluation mode. The generator's outputs are images
        under the normalisation of the first.
      generator: from latents to images, applied in training mode during training. It has the
        attributes `latent_dim`, and `sigmoid` if its outputs may be pixels and not normalised.
      distance: one of `DISTANCES`, maximised by the generator and minimised by the student;
        with several teachers, the mean over them.
      distiller: the rest of the student's objective, added to the distance (attention
        transfer in the paper). In its context, `labels` are the classes with the largest
        probability in the mean over the teachers.
      optimizer: the student's optimiser, with a learning rate of 1.
      generator_optimizer: the generator's optimiser, with a learning rate of 1.
      learning_rate: the student's learning rate, a schedule over pseudo-batches.
      generator_learning_rate: the generator's learning rate, a schedule over pseudo-batches.
      objective: the weights of what the generator minimises.
      student_distance: whether the student minimises the distance beside `distiller`.
      student_eval: whether the student is in evaluation mode while the generator is updated.
        Otherwise these updates, too, change its batch statistics.
      fresh_images: whether each update has latents of its own, and the student's images are
        generated in evaluation mode, as in DFQ. Otherwise all updates of a pseudo-batch have
        the same latents.
      fast: settings of Fast, whose generator makes a pool of images, or None.
      stale_teacher: whether the student's first update uses the teachers' outputs for the
        images from before the generator's last update, as SZamboni/advanceddeep does.
      axis_name: the mapped axis over which batches are sharded, or None.
      elementwise: as for `kdjax.train.make_train_step`; of the student's optimiser.

    Raises:
      UserError: if the distance is unknown, there is no teacher, `stale_teacher` is combined
        with `fresh_images` or `fast`, or an optimiser is `kdjax.optimizers.DistillationOriented`.
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
    objective: GeneratorObjective = ZERO_SHOT
    student_distance: bool = True
    student_eval: bool = False
    fresh_images: bool = False
    fast: Fast | None = None
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
        if self.stale_teacher and (self.fresh_images or self.fast):
            raise UserError(
                "stale_teacher needs images that stay; fresh_images and Fast change them"
            )
        for optimizer in (self.optimizer, self.generator_optimizer):
            if isinstance(optimizer, optimizers.DistillationOriented):
                raise UserError("optimizer dot needs labels, and data-free transfer has none")

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

        Raises:
          UserError: if the generator's objective needs batch norms that a teacher has not.
        """
        for teacher in self.teachers if self.objective.batch_norm else ():
            if not train.abstract_outputs(teacher, image_shape)[1].get("batch_stats"):
                raise UserError(
                    f"the generator's objective has batch_norm {self.objective.batch_norm}, but "
                    f"the teacher {type(teacher.module).__name__} has no batch norm"
                )
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
            kept=self.fast.init(image_shape, self.teachers) if self.fast else {},
        )

    def uses_vectors(self, state: AdversarialState) -> bool:
        """Whether the student's update is one of vectors (`kdjax.updates`)."""
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

        Images are in units of pixels. They are not restricted to [0, 1] if the generator's
        outputs are unbounded.
        """
        result: Any = self.generator.apply(variables, latents, train=True, mutable=["batch_stats"])
        images, new = result
        return self._pixels(images), new["batch_stats"]

    def samples(self, variables: Variables, latents: Array) -> Array:
        """Images generated in evaluation mode, pixels clipped to [0, 1], [b, h, w, c]."""
        images: Any = self.generator.apply(variables, latents, train=False)
        return jnp.clip(self._pixels(images), 0, 1)

    def _pixels(self, generated: Array) -> Array:
        in_pixels = getattr(self.generator, "sigmoid", False)
        return generated if in_pixels else self.teachers[0].pixels(generated)

    def distances(
        self, student: Outputs, teachers: Sequence[Outputs], *, where_they_agree: bool = False
    ) -> Array:
        """Distance between student and teachers for each example, [b].

        Args:
          student: its outputs.
          teachers: the outputs of each.
          where_they_agree: whether it is 0 unless both give the example the same class.
        """
        values = []
        for teacher in teachers:
            value = DISTANCES[self.distance](student.logits, teacher.logits)
            if where_they_agree:
                classes = (jnp.argmax(one.logits, axis=-1) for one in (student, teacher))
                value = jnp.where(jnp.equal(*classes), value, 0.0)
            values.append(value)
        return jnp.mean(jnp.stack(values), axis=0)

    def lesson(self, teacher_variables: Sequence[Variables], images: Array) -> Lesson:
        """Images with each teacher's outputs for them."""
        outputs = tuple(
            teacher.evaluate(variables, images)
            for teacher, variables in zip(self.teachers, teacher_variables, strict=True)
        )
        return Lesson(images, outputs)

    def update_generator(
        self,
        state: AdversarialState,
        teacher_variables: Sequence[Variables],
        latents: Array,
        rng: Array,
    ) -> tuple[AdversarialState, tuple[Outputs, ...], Metrics]:
        """One update of the generator, which minimises its objective.

        Returns:
          The state, the teachers' outputs for the images from before the update, and metrics.
        """

        def objective(params: PyTree) -> tuple[Array, Any]:
            variables = {**state.generator, "params": params}
            images, generator_stats = self.images(variables, latents)
            student_stats: PyTree
            if self.student_eval:
                outputs, student_stats = self.student.evaluate(state.variables, images), {}
            else:
                dropout_key = jax.random.fold_in(rng, parallel.index(self.axis_name))
                outputs, student_stats = self.student.train(state.variables, images, dropout_key)
            teachers, moments = self.objective.evaluate(
                self.teachers, teacher_variables, images, self.axis_name
            )
            distance = jnp.mean(self.distances(outputs, teachers))
            loss, terms = self.objective.loss(distance, teachers, moments, self.axis_name)
            return loss, (teachers, generator_stats, student_stats, terms)

        grad, (teachers, generator_stats, student_stats, terms) = jax.grad(objective, has_aux=True)(
            state.generator["params"]
        )
        grad, generator_stats, student_stats, terms = parallel.pmean(
            (grad, generator_stats, student_stats, terms), self.axis_name
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
            batch_stats=student_stats or state.batch_stats,
            generator={"params": params, "batch_stats": generator_stats},
            generator_opt_state=opt_state,
        )
        metrics = {f"generator/{name}": value for name, value in terms.items()}
        return state, teachers, metrics | {"generator/gradient_norm": optax.tree.norm(grad)}

    def update_student(
        self,
        state: AdversarialState,
        teacher_variables: Sequence[Variables],
        lesson: Lesson,
        i: Array,
        rng: Array,
    ) -> tuple[AdversarialState, Metrics]:
        """The student's i-th update (int32 []) of a pseudo-batch; the images are constants."""
        rng = update_key(rng, state.step, i)
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
            distance = jnp.mean(self.distances(outputs, teachers))
            loss = jnp.mean(term.value)
            if self.student_distance:
                loss = distance + loss
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
            as_vectors=self.uses_vectors(state),
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


def update_key(rng: Array, step: Array, i: Array) -> Array:
    """The key of the i-th update (int32 []) of either network in a pseudo-batch."""
    return jax.random.fold_in(jax.random.fold_in(rng, step), i + 1)
