"""Transfer without data (Micaelli & Storkey 2019), and how alike two networks' boundaries are.

A generator looks for images on which student and teacher disagree; the student learns
from its teachers there. Nothing is read but latents, and these are functions of the seed,
the step and an example's place in the batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import losses, parallel, train
from kdjax.types import (
    Array,
    Context,
    Distiller,
    Network,
    Outputs,
    PyTree,
    TrainState,
    UserError,
    Variables,
)


def _kl(student: Array, teacher: Array) -> Array:
    return losses.kd(student, teacher, temperature=1.0)


def _kl_class_mean(student: Array, teacher: Array) -> Array:
    return _kl(student, teacher) / student.shape[-1]


def _wasserstein(student: Array, teacher: Array) -> Array:
    return jnp.sum(jnp.abs(jax.nn.softmax(student) - jax.nn.softmax(teacher)), axis=-1) / 2


def _l2(student: Array, teacher: Array) -> Array:
    return jnp.mean(jnp.square(student - teacher), axis=-1)


# What the generator maximises and the student minimises: of two logits [b, k] the distance
# [b]. `kl` is KL(teacher || student) in nats, as in the paper. `kl_class_mean` is that over k:
# what PyTorch's default reduction makes of it in the published code. `wasserstein` is the
# first Wasserstein distance between the softmaxes where all classes are equally far from
# each other (for which it is the total variation): classes have no order. `l2` is the mean
# squared difference of logits.
DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "kl": _kl,
    "kl_class_mean": _kl_class_mean,
    "l2": _l2,
    "wasserstein": _wasserstein,
}


# Of `transition_curves`, on each device: on the CPU what its caches hold, elsewhere what
# fills it.
_WALKS_ON_CPU, _WALKS_ELSEWHERE = 32, 1024


@flax.struct.dataclass
class AdversarialState(TrainState):
    """A `TrainState`, whose `step` counts pseudo-batches, with the generator beside the student.

    Attributes:
      generator: its variables.
      generator_opt_state: its optimiser's state.
    """

    generator: PyTree
    generator_opt_state: PyTree


class Lesson(NamedTuple):
    """What the student learns from.

    Attributes:
      images: pixels, [b, h, w, c].
      teachers: each teacher's outputs for them.
    """

    images: Array
    teachers: tuple[Outputs, ...]


@dataclasses.dataclass(frozen=True)
class Adversary:
    """Student, teachers and generator, and what each is after.

    Attributes:
      student: what is trained; in training mode throughout.
      teachers: in evaluation mode. The first one's normalisation is the space that the
        generator's images live in.
      generator: latents to images, in training mode throughout.
      distance: one of `DISTANCES`; with several teachers, the mean over them.
      distiller: what the student minimises beside the distance (attention transfer).
        Its `labels` are the classes that the teachers' mean probability is largest for.
      optimizer: the student's, with a learning rate of 1.
      generator_optimizer: likewise.
      learning_rate: of the student, a function of the pseudo-batch.
      generator_learning_rate: of the generator.
      stale_teacher: whether the student's first update takes the teachers' outputs for the
        images before the generator's last update, as SZamboni/advanceddeep does.
      axis_name: the mapped axis over which batches are spread, or None.
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

    def __post_init__(self) -> None:
        """Raises UserError on an unknown distance or without a teacher."""
        if self.distance not in DISTANCES:
            raise UserError(
                f"unknown distance {self.distance!r}: choose from {', '.join(DISTANCES)}"
            )
        if not self.teachers:
            raise UserError("transfer without data needs a teacher, and the phase names none")

    def init(
        self,
        rng: Array,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        batch_size: int,
        teacher_variables: Sequence[Variables] = (),
        start: Variables | None = None,
    ) -> AdversarialState:
        """The state before the first pseudo-batch; arguments as for `kdjax.train.init_state`."""
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
            start=start,
        )
        generator = dict(self.generator.init(generator_key, jnp.zeros((1, self._latent_dim))))
        return AdversarialState(
            **{f.name: getattr(state, f.name) for f in dataclasses.fields(state)},
            generator=generator,
            generator_opt_state=self.generator_optimizer.init(generator["params"]),
        )

    @property
    def _latent_dim(self) -> int:
        return self.generator.latent_dim

    def latents(self, rng: Array, place: Array) -> Array:
        """Standard normal [b, latent_dim], one of each place [b]: devices do not matter."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, place)
        return jax.vmap(lambda key: jax.random.normal(key, (self._latent_dim,)))(keys)

    def images(self, variables: Variables, latents: Array) -> tuple[Array, Variables]:
        """Images for the latents as pixels, and the generator's new batch statistics.

        Pixels are not confined to [0, 1]: nothing confines the generator.
        """
        result: Any = self.generator.apply(variables, latents, train=True, mutable=["batch_stats"])
        images, updates = result
        return self._pixels(images), updates["batch_stats"]

    def samples(self, variables: Variables, latents: Array) -> Array:
        """Images for the latents as pixels, cut to [0, 1], in evaluation mode."""
        images: Any = self.generator.apply(variables, latents, train=False)
        return jnp.clip(self._pixels(images), 0, 1)

    def _pixels(self, images: Array) -> Array:
        mean, std = (jnp.asarray(x)[None, None, None] for x in self.teachers[0][1:])
        return images * std + mean

    def _distances(self, student: Outputs, teachers: Sequence[Outputs]) -> Array:
        """[b]."""
        distance = DISTANCES[self.distance]
        values = [distance(student.logits, teacher.logits) for teacher in teachers]
        return jnp.mean(jnp.stack(values), axis=0)

    def teach(self, teacher_variables: Sequence[Variables], images: Array) -> tuple[Outputs, ...]:
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
    ) -> tuple[AdversarialState, tuple[Outputs, ...], dict[str, Array]]:
        """One step of the generator, away from where student and teachers agree.

        Returns:
          The state, the teachers' outputs for the images before the step, and metrics.
        """

        def objective(params: PyTree) -> tuple[Array, Any]:
            variables = {**state.generator, "params": params}
            images, generator_stats = self.images(variables, latents)
            dropout_key = jax.random.fold_in(rng, parallel.index(self.axis_name))
            outputs, student_stats = self.student.train(state.variables, images, dropout_key)
            teachers = self.teach(teacher_variables, images)
            distance = jnp.mean(self._distances(outputs, teachers))
            return -distance, (teachers, generator_stats, student_stats, distance)

        grad, (teachers, generator_stats, student_stats, distance) = jax.grad(
            objective, has_aux=True
        )(state.generator["params"])
        grad, generator_stats, student_stats, distance = parallel.pmean(
            (grad, generator_stats, student_stats, distance), self.axis_name
        )
        params, opt_state = _apply(
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
    ) -> tuple[AdversarialState, dict[str, Array]]:
        """The student's i-th step (int32 []) of a pseudo-batch; images are constants to it."""
        rng = _update_key(rng, state.step, i)
        images, teachers = lesson

        def objective(trained: tuple[PyTree, PyTree]) -> tuple[Array, Any]:
            params, method_params = trained
            variables = {"params": params, "batch_stats": state.batch_stats}
            dropout_key = jax.random.fold_in(rng, parallel.index(self.axis_name))
            outputs, student_stats = self.student.train(variables, images, dropout_key)
            p = sum(jax.nn.softmax(teacher.logits) for teacher in teachers)
            believed = jnp.argmax(p, axis=-1)
            context = Context(
                student=outputs,
                teachers=teachers,
                labels=jax.nn.one_hot(believed, outputs.logits.shape[-1]),
                index=jnp.zeros(images.shape[0], jnp.int32),
                step=state.step,
                rng=rng,
                teacher_variables=tuple(teacher_variables),
                axis_name=self.axis_name,
            )
            method_variables = {"params": method_params, "state": state.method_state}
            term = self.distiller.loss(method_variables, context)
            distance = jnp.mean(self._distances(outputs, teachers))
            loss = distance + jnp.mean(term.value)
            same = jnp.argmax(outputs.logits, -1) == believed
            metrics = {
                "loss": loss,
                "distance": distance,
                "agreement": jnp.mean(same, dtype=jnp.float32),
            }
            return loss, (metrics | term.metrics, student_stats, term.state)

        trained = (state.params, state.method_params)
        grad, (metrics, student_stats, method_state) = jax.grad(objective, has_aux=True)(trained)
        grad, metrics, student_stats = parallel.pmean(
            (grad, metrics, student_stats), self.axis_name
        )
        (params, method_params), opt_state = _apply(
            self.optimizer, self.learning_rate(state.step), grad, state.opt_state, trained
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

    def begin(
        self,
        state: AdversarialState,
        teacher_variables: Sequence[Variables],
        place: Array,
        rng: Array,
        *,
        generator_steps: int,
    ) -> tuple[AdversarialState, Lesson, Lesson, dict[str, Array]]:
        """The generator's part of a pseudo-batch; arguments as for `pseudo_batch`.

        Returns:
          The state, what the student's first update learns from, what all others learn
          from, and the means of the generator's metrics.
        """
        latents = self.latents(jax.random.fold_in(rng, state.step), place)

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
        lesson = Lesson(images, self.teach(teacher_variables, images))
        first = lesson
        if self.stale_teacher:
            first = lesson._replace(teachers=jax.tree.map(lambda x: x[-1], stale))
        return state, first, lesson, _mean(metrics)

    def pseudo_batch(
        self,
        state: AdversarialState,
        teacher_variables: Sequence[Variables],
        place: Array,
        rng: Array,
        *,
        generator_steps: int,
        student_steps: int,
    ) -> tuple[AdversarialState, dict[str, Array]]:
        """Algorithm 1: generator's updates, then student's, on the same latents.

        The images are generated again after the generator's last update, and are constants
        to the student; the teachers see them once.

        Args:
          state: its `step` says which pseudo-batch this is.
          teacher_variables: never change.
          place: int32 [b], the latents' places in the whole pseudo-batch.
          rng: the run's key.
          generator_steps: n_G, at least 1.
          student_steps: n_S, at least 1.

        Returns:
          The state, and metrics: the means over the updates.
        """
        state, first, lesson, generator_metrics = self.begin(
            state, teacher_variables, place, rng, generator_steps=generator_steps
        )

        def update(state: AdversarialState, i: Array) -> Any:
            return self.update_student(state, teacher_variables, lesson, i, rng)

        histories = []
        start = 0
        if self.stale_teacher:
            start = 1
            state, metrics = self.update_student(
                state, teacher_variables, first, jnp.zeros((), jnp.int32), rng
            )
            histories.append(jax.tree.map(lambda x: x[None], metrics))
        if start < student_steps:
            state, metrics = parallel.loop(update, state, jnp.arange(start, student_steps))
            histories.append(metrics)
        student_metrics = jax.tree.map(lambda *x: jnp.concatenate(x), *histories)
        return _finished(state), generator_metrics | _mean(student_metrics)

    def make_step(self, devices: parallel.Devices) -> Callable[..., Any]:
        """The pseudo-batches compiled for all devices.

        On accelerators one program makes all the updates of all the pseudo-batches of a
        call, by scanning. On the CPU, where loops around convolutions are slow and updates
        that are written out are compiled one by one, it is two programs, one of which is
        called for each of the student's updates.

        Returns:
          `step(state, teacher_variables, places, rng, generator_steps, student_steps) ->
          (state, metrics)` with places int32 [devices, n, b / devices] of n pseudo-batches,
          and the means of their metrics. The state is donated.
        """
        if not parallel.on_cpu():

            @functools.cache
            def program(**updates: int) -> Callable[..., Any]:
                def run(state: Any, teacher_variables: Any, places: Array, rng: Array) -> Any:
                    state, metrics = parallel.loop(
                        lambda state, place: self.pseudo_batch(
                            state, teacher_variables, place, rng, **updates
                        ),
                        state,
                        places,
                    )
                    return state, _mean(metrics)

                return devices.map(run, in_axes=(None, None, 0, None), donate_argnums=0)

            return lambda *args, **updates: program(**updates)(*args)

        @functools.cache
        def begin(generator_steps: int) -> Callable[..., Any]:
            return devices.map(
                functools.partial(self.begin, generator_steps=generator_steps),
                in_axes=(None, None, 0, None),
                out_axes=(None, 0, 0, None),
                donate_argnums=0,
            )

        update = devices.map(
            self.update_student, in_axes=(None, None, 0, None, None), donate_argnums=0
        )

        def step(
            state: AdversarialState,
            teacher_variables: Any,
            places: Array,
            rng: Array,
            *,
            generator_steps: int,
            student_steps: int,
        ) -> tuple[AdversarialState, dict[str, Any]]:
            history = []
            for n in range(places.shape[1]):
                state, first, lesson, generator_metrics = begin(generator_steps)(
                    state, teacher_variables, places[:, n], rng
                )
                parallel.settle(generator_metrics)
                student_metrics = []
                for i in range(student_steps):
                    state, metrics = update(
                        state, teacher_variables, lesson if i else first, np.int32(i), rng
                    )
                    parallel.settle(metrics)
                    student_metrics.append(jax.device_get(metrics))
                state = _finished(state)
                means = jax.tree.map(lambda *x: np.mean(x), *student_metrics)
                history.append(jax.device_get(generator_metrics) | means)
            return state, jax.tree.map(lambda *x: np.mean(x), *history)

        return step


def _apply(
    optimizer: optax.GradientTransformation, rate: Any, grad: PyTree, opt_state: Any, params: PyTree
) -> tuple[PyTree, Any]:
    """An update with an optimiser of learning rate 1, times the rate."""
    updates, opt_state = optimizer.update(grad, opt_state, params)
    return optax.apply_updates(params, optax.tree.scale(rate, updates)), opt_state


def _update_key(rng: Array, step: Array, i: Array) -> Array:
    """For what is random in a network's i-th update of a pseudo-batch."""
    return jax.random.fold_in(jax.random.fold_in(rng, step), i + 1)


def _finished(state: AdversarialState) -> AdversarialState:
    return dataclasses.replace(state, step=state.step + 1)


def _mean(metrics: PyTree) -> PyTree:
    """Mean over the leading axis, that of updates or of pseudo-batches."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)


def transition_curves(
    apply_a: Callable[[Array], Array],
    apply_b: Callable[[Array], Array],
    images: Array,
    labels: Array,
    *,
    steps: int,
    step_size: float,
    num_classes: int,
) -> tuple[Array, Array]:
    """Probabilities along the way across network a's decision boundaries (Algorithm 2).

    From each image, to each class but its own, gradient descent on a's cross-entropy with
    that class. All images and classes are walked at once; the whole is one compiled
    program a step on the CPU and one scan elsewhere.

    Args:
      apply_a: images [m, h, w, c] to logits [m, k], of the network that is stepped on; the
        images are in whatever space it takes, and in that space the steps are made.
      apply_b: likewise, of the network that is watched.
      images: [n, h, w, c]. The paper takes those to which a and b give the same class.
      labels: int [n], the classes to start from. The targets of image i are
        (labels[i] + 1) % k, (labels[i] + 2) % k, ... (labels[i] + k - 1) % k.
      steps: K, how many points of each curve.
      step_size: xi, by which the gradient is multiplied. Images are not clipped.
      num_classes: k.

    Returns:
      (p_a, p_b), float32 [n, k - 1, steps]: the target's probability before each step.
    """
    n, others = len(images), num_classes - 1
    walks = n * others
    at_once = jax.local_device_count() * (_WALKS_ON_CPU if parallel.on_cpu() else _WALKS_ELSEWHERE)
    # The last chunk is filled up with walks that are dropped.
    place = np.arange(-(-walks // at_once) * min(walks, at_once)) % walks
    away = np.arange(1, num_classes, dtype=np.int32)
    targets = ((np.asarray(labels, np.int32)[:, None] + away) % num_classes).reshape(-1)[place]
    start = np.asarray(images, np.float32)

    def step(x: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
        def toward(x: Array) -> tuple[Array, Array]:
            logits = apply_a(x)
            return jnp.sum(losses.cross_entropy(logits, targets)), logits

        grad, logits_a = jax.grad(toward, has_aux=True)(x)
        p_a, p_b = (
            jnp.take_along_axis(jax.nn.softmax(logits), targets[:, None], axis=-1)[:, 0]
            for logits in (logits_a, apply_b(x))
        )
        return x - step_size * grad, (p_a, p_b)

    if parallel.on_cpu():
        # A loop inside a program is slow here.
        one = jax.jit(step, donate_argnums=0)

        def walk(x: Array, targets: Array) -> tuple[Any, Any]:
            curves = []
            for _ in range(steps):
                x, p = one(x, targets)
                curves.append(p)
            p_a, p_b = zip(*jax.device_get(curves), strict=True)
            return np.stack(p_a), np.stack(p_b)
    else:
        walk = jax.jit(lambda x, t: jax.lax.scan(lambda x, _: step(x, t), x, length=steps)[1])
    parts = []
    for chunk in np.split(place, max(1, len(place) // at_once)):
        x, t = parallel.spread((start[chunk // others], targets[chunk]))
        parts.append(jax.device_get(walk(x, t)))
    p_a, p_b = (np.concatenate(p, axis=1)[:, :walks] for p in zip(*parts, strict=True))
    return tuple(jnp.asarray(p).T.reshape(n, others, steps) for p in (p_a, p_b))  # type: ignore


def mean_transition_error(p_a: Array, p_b: Array) -> Array:
    """Mean of |p_b - p_a| over images, classes and steps, float32 [] (the paper's MTE).

    Args:
      p_a: [n, classes - 1, steps], from `transition_curves`.
      p_b: likewise.
    """
    return jnp.mean(jnp.abs(jnp.asarray(p_b) - jnp.asarray(p_a)))
