"""One phase: trains a network with an objective, or takes a trained one, and evaluates it."""

import contextlib
import copy
import dataclasses
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from rich.console import Console

from experiments import files, networks, seeds, work
from experiments.cli import Interrupted
from experiments.networks import Trained
from experiments.profile import Profiler
from experiments.report import Bar, PhaseLog
from experiments.work import Advance, Said, Work
from kdjax import checkpoint, distillers, metrics, optimizers, parallel, schedules, train
from kdjax.data import batches, sources, views
from kdjax.types import Distiller, Network, TrainState, UserError, Variables

SELECT = ("last", "best")
_EVALUATION_BATCH = 500


class Data:
    """A data set on the devices, shared by phases; or its absence.

    Attributes:
      splits: by name; none where there is no data.
      num_classes: k.
      channels: c.
      image_size: side of what the networks see.
      resize: side of the images when read, 0 as they are.
      workers: processes that decode splits too large for memory.
    """

    def __init__(
        self,
        name: str,
        *,
        resize: int = 0,
        image_size: int = 0,
        workers: int = 0,
        channels: int = 0,
        num_classes: int = 0,
        **options: Any,
    ):
        """Reads a data set.

        Args:
          name: as for `kdjax.data.sources.load`, or empty for none.
          resize: likewise.
          image_size: side of what the networks see; 0 for the images' shorter side.
          workers: processes that decode splits too large for memory.
          channels: without data, of what the networks see.
          num_classes: without data, of the networks.
          **options: further arguments of `sources.load`.

        Raises:
          UserError: if it cannot be read, or `image_size` is more than there is.
        """
        self.resize, self.workers = resize, workers
        self.splits: dict[str, sources.Split] = {}
        self._statistics: tuple[list[float], list[float]] | None = None
        self._resident: dict[tuple[str, int], Any] = {}
        # Of trained networks, by name and split: several phases have the same teacher.
        self.teacher_logits: dict[tuple[str, str], np.ndarray] = {}
        if not name:
            self.image_size, self.channels, self.num_classes = image_size, channels, num_classes
            if min(image_size, channels, num_classes) < 1:
                raise UserError(
                    f"data.name is empty and data.image_size {image_size}, data.channels "
                    f"{channels}, data.num_classes {num_classes}: without data set all three"
                )
            return
        dataset = sources.load(name, resize=resize, **options)
        self.splits, self.num_classes = dataset.splits(), dataset.num_classes
        height, width, self.channels = dataset.train.images.shape[1:]
        self.image_size = image_size or min(height, width)
        if not 0 < self.image_size <= min(height, width):
            raise UserError(
                f"data.image_size is {image_size}, but the images are {height}x{width}: "
                "set data.resize"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of what the networks see."""
        return (self.image_size, self.image_size, self.channels)

    @property
    def train(self) -> sources.Split:
        """The training split.

        Raises:
          UserError: if there is none.
        """
        if "train" not in self.splits:
            raise UserError("there is no training data: data.name is empty")
        return self.splits["train"]

    def _with(self, splits: dict[str, sources.Split]) -> "Data":
        part = copy.copy(self)
        part.splits, part._resident, part.teacher_logits = splits, {}, {}
        return part

    def held_out(self) -> "Data":
        """The test split alone: what a phase without data is evaluated on, and all it gets."""
        return self._with({name: split for name, split in self.splits.items() if name == "test"})

    def shots(self, count: int) -> "Data":
        """With `count` training images a class, chosen at random but the same in every run.

        Raises:
          UserError: if a class has fewer.
        """
        labels = self.train.labels
        order = np.random.default_rng(0).permutation(len(labels))
        chosen = [order[labels[order] == label][:count] for label in range(self.num_classes)]
        if min(map(len, chosen)) < count or count < 0:
            raise UserError(
                f"shots is {count}: the class with the fewest training images has "
                f"{min(map(len, chosen))}"
            )
        return self._with(
            self.splits | {"train": self.train.subset(np.sort(np.concatenate(chosen)))}
        )

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the training split, measured once; () without one."""
        if "train" not in self.splits:
            return [], []
        if self._statistics is None:
            self._statistics = sources.channel_statistics(self.train)
        return self._statistics

    def resident(self, split: str, devices: parallel.Devices) -> Any:
        """The split's arrays on the devices; {} if it is decoded on demand."""
        key = (split, len(devices))
        if key not in self._resident:
            self._resident[key] = devices.replicate(batches.resident(self.splits[split]))
        return self._resident[key]


class Diverged(UserError):
    """The loss is not finite: this phase cannot go on, others can."""

    def __init__(self, message: str, phase: str, step: int):
        """Takes the line for the user, the phase, and the step at which it was noticed."""
        super().__init__(message)
        self.phase, self.step = phase, step


@dataclasses.dataclass
class Plan:
    """All that a phase needs, built and checked before anything is written."""

    name: str
    config: ConfigDict
    data: Data  # all that the phase may look at
    network: Network
    taken: Trained | None  # where the network is not trained
    start: Variables | None  # of an earlier phase: shapes, until that has run
    teachers: list[str]
    devices: parallel.Devices
    learning_rate: optax.Schedule
    steps: int
    steps_per_epoch: float  # 0 in a phase without data, which knows no epochs
    eval_every: float  # steps
    work: Work | None  # where the network is trained

    @property
    def needs(self) -> set[str]:
        """What the phase takes from elsewhere: names of phases, or references to files."""
        return {*self.teachers, self.config.start, self.config.start_methods} - {""}


def make_plan(
    name: str,
    config: ConfigDict,
    run: ConfigDict,
    data: Data,
    evaluation: Data,
    known: dict[str, Network],
) -> Plan:
    """Builds and checks a phase without computing anything.

    Args:
      name: of the phase.
      config: of the phase.
      run: the whole run's.
      data: the data set.
      evaluation: what phases without data are evaluated on.
      known: the networks of earlier phases and of teachers loaded from files, by name.

    Raises:
      UserError: for whatever is wrong with it.
    """
    data_free = bool(config.adversarial) and not config.checkpoint
    batches.check_batch_size(config.batch_size, config.accumulate)
    spread = parallel.Devices.dividing(config.batch_size // config.accumulate, run.devices)
    for teacher in config.teachers:
        if teacher not in known:
            raise UserError(
                f"phase {name!r} has teacher {teacher!r}, which is neither an earlier phase "
                f"({', '.join(known) or 'there is none'}) nor a phase's folder"
            )
    teachers = [known[teacher] for teacher in config.teachers]
    if data_free or not data.splits:
        data = evaluation
    elif config.shots:
        data = data.shots(config.shots)
    mean, std = config.mean, config.std
    if data_free and not teachers:
        raise UserError(f"phase {name!r} learns without data, so it needs a teacher")
    if (data_free or config.shots) and teachers:
        # Too little is known of the data, and the teacher's normalisation is known.
        mean, std = mean or teachers[0].mean, std or teachers[0].std
    elif not mean or not std:
        measured = data.statistics()
        mean, std = mean or measured[0], std or measured[1]
    what: dict[str, Any] = dict(
        num_classes=data.num_classes,
        in_channels=data.channels,
        mean=tuple(mean),
        std=tuple(std),
        dtype=config.dtype,
        options=config.model_options.to_dict(),
    )

    def load(reference: str) -> Trained:
        return networks.load(reference, model=config.model, image_size=data.image_size, **what)

    if config.checkpoint:
        taken = load(config.checkpoint)
        train.abstract_outputs(taken.network, data.image_shape)
        nothing = schedules.create("constant", 0.0, total_steps=0, steps_per_epoch=1)
        return Plan(
            name, config, data, taken.network, taken, None, list(config.teachers), spread,
            nothing, 0, 0, 0, None,
        )  # fmt: skip
    if config.select not in SELECT:
        raise UserError(f"unknown select {config.select!r}: choose from {', '.join(SELECT)}")
    if config.select == "best" and "validation" not in data.splits:
        raise UserError(
            "select is 'best' but there is no validation split to select on: set data.validation"
        )
    if config.teacher_batch_norm not in train.TEACHER_BATCH_NORMS:
        raise UserError(
            f"unknown teacher_batch_norm {config.teacher_batch_norm!r}: "
            f"choose from {', '.join(train.TEACHER_BATCH_NORMS)}"
        )
    network = networks.create(
        config.model, **what, axis_name=parallel.AXIS if config.sync_batch_norm else None
    )
    start = None
    if config.start in known:
        start = train.abstract_outputs(known[config.start], data.image_shape)[1]
        own = train.abstract_outputs(network, data.image_shape)[1]
        if _shapes(start) != _shapes(own):
            raise UserError(f"phase {name!r} starts from {config.start!r}, another network")
    elif config.start:
        start = load(config.start).variables
    networks.check_phase(config.start_methods, known)
    if config.steps < 0 or config.epochs < 0:
        raise UserError(f"steps is {config.steps} and epochs {config.epochs}: neither is negative")
    # A pseudo-batch is all the epoch that a phase without data has.
    steps_per_epoch = 1.0 if data_free else len(data.train) / config.batch_size
    steps = config.steps or math.ceil(config.epochs * steps_per_epoch - 1e-6)
    if not steps:
        raise UserError(f"phase {name!r} has no steps: set epochs or steps, or a checkpoint")
    length = dict(total_steps=steps, steps_per_epoch=steps_per_epoch)
    schedule = lambda peak: schedules.create(peak=peak, **config.schedule, **length)  # noqa: E731
    learning_rate = schedule(config.optimizer.learning_rate)
    eval_every = run.eval_every * steps_per_epoch
    # Without data the distance is enough.
    distiller = distillers.weighted_sum()
    if config.objective or not data_free:
        distiller = make_objective(config.objective, **length)
    if data_free:
        only = {"accumulate": 1, "ema": 0.0, "shots": 0, "teacher_batch_norm": "running"}
        for key, default in only.items():
            if config[key] != default:
                raise UserError(
                    f"phase {name!r} learns without data, and {key} is {config[key]}: there "
                    f"it can only be {default}"
                )
        chosen = work.settings(config.adversarial.to_dict())
        eval_every = chosen.eval_every
        kind = work.data_free(
            chosen, student=network, teachers=teachers, distiller=distiller,
            optimizer=config.optimizer.to_dict(), schedule=schedule,
            image_shape=data.image_shape, num_classes=data.num_classes,
            batch_size=config.batch_size, steps=steps, devices=spread,
        )  # fmt: skip
    else:
        kind = _on_data(config, network, teachers, distiller, data, spread, learning_rate, steps)
    plan = Plan(
        name, config, data, network, None, start, list(config.teachers), spread, learning_rate,
        steps, 0 if data_free else steps_per_epoch, eval_every, kind,
    )  # fmt: skip
    jax.eval_shape(
        kind.init,
        jax.random.key(0),
        tuple(train.abstract_outputs(teacher, data.image_shape)[1] for teacher in teachers),
        start,
    )
    return plan


def _shapes(variables: Variables) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in checkpoint.flatten(variables).items()}


def make_objective(config: ConfigDict, *, total_steps: int, steps_per_epoch: float) -> Distiller:
    """The weighted sum that a phase's `objective` describes.

    Each entry is a method's name with its `weight`, optionally a `schedule` that the
    weight is multiplied with, and the method's own arguments.

    Raises:
      UserError: on an unknown method, argument or schedule, or an empty objective.
    """
    if not config:
        raise UserError(f"an objective needs a method: choose from {', '.join(distillers.names())}")
    terms = {}
    for name, given in config.items():
        arguments = dict(given)
        weight = arguments.pop("weight", 1.0)
        schedule = arguments.pop("schedule", None)
        if schedule:
            weight = schedules.create(
                peak=weight, **schedule, total_steps=total_steps, steps_per_epoch=steps_per_epoch
            )
        terms[name] = (weight, distillers.create(name, **arguments))
    return distillers.weighted_sum(**terms)


def _on_data(
    config: ConfigDict,
    network: Network,
    teachers: list[Network],
    distiller: Distiller,
    data: Data,
    devices: parallel.Devices,
    learning_rate: optax.Schedule,
    steps: int,
) -> Work:
    """Training on images, with or without teachers."""
    optimizer = optimizers.create(**config.optimizer.to_dict() | {"learning_rate": learning_rate})
    seen = views.make_views(
        num_classes=data.num_classes,
        image_size=data.image_size,
        fill=network.mean,
        **config.augment,
    )

    def init(rng: jax.Array, teacher_variables: Any, start: Any) -> TrainState:
        return train.init_state(
            rng,
            student=network,
            distiller=distiller,
            optimizer=optimizer,
            image_shape=data.image_shape,
            num_classes=data.num_classes,
            batch_size=config.batch_size // config.accumulate,
            teachers=teachers,
            teacher_variables=teacher_variables,
            train_labels=jnp.asarray(data.train.labels),
            start=start,
            ema=config.ema,
        )

    def begin(
        teacher_variables: Sequence[Any],
        said: Sequence[Said],
        keys: Sequence[jax.Array],
        order: Sequence[int],
        step: int,
    ) -> Advance:
        train_step = devices.map(
            train.make_train_step(
                student=network,
                distiller=distiller,
                optimizer=optimizer,
                views=seen,
                teachers=[_synchronized(teacher, config) for teacher in teachers],
                teacher_batch_norm=config.teacher_batch_norm,
                accumulate=config.accumulate,
                ema=config.ema,
                axis_name=parallel.AXIS,
                several_seeds=True,
            ),
            in_axes=(None, None, None, 0, None),
            donate_argnums=0,
        )
        resident = data.resident("train", devices)
        if teachers and _asks_again(config, data, steps):
            known = tuple(own("train") for own in said)
            resident = resident | {"teacher_logits": devices.replicate(known)}
        streams = [
            batches.stream(
                data.train, batch_size=config.batch_size, seed=seed,
                start=step, stop=steps, workers=data.workers,
            )
            for seed in order
        ]  # fmt: skip

        def batch(stream: Iterator[dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
            calls = [next(stream) for _ in range(count)]
            return {k: devices.shard(np.stack([c[k] for c in calls]), axis=1) for k in calls[0]}

        def advance(states: Sequence[Any], step: int, count: int) -> tuple[Any, Any]:
            now = tuple(batch(stream, count) for stream in streams)
            result = train_step(tuple(states), tuple(teacher_variables), resident, now, tuple(keys))
            parallel.settle(result[1])
            return result

        return advance

    return Work(init, begin)


def _asks_again(config: ConfigDict, data: Data, steps: int) -> bool:
    """Whether a phase shows its teachers the same pixels more than once.

    It depends on nothing but the phase, so that one that is resumed computes the same.
    """
    return (
        config.augment.teacher_view == "fixed"
        and config.teacher_batch_norm == "running"
        and not isinstance(data.train.images, sources.Lazy)
        and steps * config.batch_size > len(data.train)
    )


class Evaluator:
    """Logits of whole splits, over all devices; a teacher's are computed once."""

    def __init__(self, network: Network, data: Data, devices: parallel.Devices):
        """Compiles (when first used) the evaluation of `network`."""
        self._data, self._devices = data, devices
        step = train.make_eval_step(network, data.image_size)
        self._step = devices.map(step, in_axes=(None, None, 0), out_axes=0)

    def logits(self, variables: Variables, split: str) -> np.ndarray:
        """float32 [n, k] for the n images of a split; `variables` are on the devices."""
        images = self._data.splits[split]
        resident = self._data.resident(split, self._devices)
        n, count = len(images), len(self._devices)
        size = min(_EVALUATION_BATCH, math.ceil(n / count) * count)
        size -= size % count
        parts = []
        for first in range(0, n, size):
            # The last batch is filled up with the first image; its logits are dropped.
            places = np.arange(first, first + size, dtype=np.int32)
            batch = batches.read(images, np.where(places < n, places, 0).astype(np.int32))
            sharded = {key: self._devices.shard(value) for key, value in batch.items()}
            parts.append(self._step(variables, resident, sharded))
            parallel.settle(parts[-1])
        return np.concatenate([np.asarray(p).reshape(size, -1) for p in parts])[:n]


def summarize(logits: Any, labels: Any, teacher_logits: Any = None) -> dict[str, float]:
    """All metrics of a split, as plain numbers; fractions are exact.

    Args:
      logits: [n, k].
      labels: int [n]; where any is -1 (unknown), what needs labels is left out.
      teacher_logits: [n, k], for agreement and KL.
    """
    n = len(labels)
    known = bool((labels >= 0).all())
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    exact = lambda fraction: round(float(fraction) * n) / n  # noqa: E731
    result = {}
    if known:
        result = {
            "accuracy": exact(metrics.accuracy(logits, labels)),
            "top5": exact(metrics.top_k(logits, labels, 5)),
            "nll": float(metrics.nll(logits, labels)),
            "ece": float(metrics.ece(logits, labels)),
        }
    if teacher_logits is not None:
        teacher_logits = jnp.asarray(teacher_logits)
        result["agreement"] = exact(metrics.agreement(logits, teacher_logits))
        result["kl"] = float(metrics.predictive_kl(logits, teacher_logits))
        if known:
            result["teacher_accuracy"] = exact(metrics.accuracy(teacher_logits, labels))
    return result


def ensemble(logits: list[np.ndarray]) -> np.ndarray:
    """Logits whose softmax is the mean of the given ones' (they themselves if it is one)."""
    if len(logits) == 1:
        return logits[0]
    log_p = np.stack([np.asarray(jax.nn.log_softmax(one)) for one in logits])
    return np.asarray(jax.nn.logsumexp(log_p, axis=0)) - np.log(len(logits))


class TeacherLogits:
    """The teachers' joint logits on each split, computed when first asked for."""

    def __init__(self, teachers: dict[str, Trained], data: Data, devices: parallel.Devices):
        """Takes the teachers by name in this run, with variables on the devices."""
        self._evaluators = {
            name: Evaluator(teacher.network, data, devices) for name, teacher in teachers.items()
        }
        self._teachers = teachers
        self._known = data.teacher_logits

    def __call__(self, split: str) -> np.ndarray | None:
        """float32 [n, k], or None without teachers."""
        return ensemble(list(self.each(split))) if self._teachers else None

    def each(self, split: str) -> tuple[np.ndarray, ...]:
        """Every teacher's, in their order."""
        for name, teacher in self._teachers.items():
            if (name, split) not in self._known:
                self._known[name, split] = self._evaluators[name].logits(teacher.variables, split)
        return tuple(self._known[name, split] for name in self._teachers)


class _Clock:
    """Seconds and images of a phase, over all of its interruptions.

    Of seeds that run together each is charged its part of the time.
    """

    def __init__(
        self,
        together: int,
        seconds: float = 0.0,
        training: float = 0.0,
        images: int = 0,
        spent: dict[str, float] | None = None,
    ):
        self._now = lambda: time.perf_counter() / together
        self._before, self._start = seconds, self._now()
        # Of steps alone: no compilation, evaluation or waiting for disks.
        self.training, self.images = training, images
        self._spent = dict(spent or {})
        self._lap: float | None = None

    @property
    def seconds(self) -> float:
        return self._before + self._now() - self._start

    @property
    def images_per_second(self) -> float:
        return self.images / self.training if self.training else 0.0

    def pause(self, images: int) -> float:
        """Ends a lap of steps in which each seed saw `images`; returns images a second."""
        now = self._now()
        if self._lap is None:
            return 0.0
        lap, self._lap = now - self._lap, None
        self.training += lap
        self.images += images
        return images / lap

    def go(self) -> None:
        """Starts a lap."""
        self._lap = self._now()

    @contextlib.contextmanager
    def spend(self, what: str) -> Iterator[None]:
        """Counts the seconds within as spent on something other than steps."""
        start = self._now()
        yield
        self._spent[what] = self._spent.get(what, 0.0) + self._now() - start

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of steps and of what else was counted; the rest is compilation mostly."""
        return {"steps": self.training, **self._spent}

    def saved(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "training": self.training,
            "images": self.images,
            "spent": self._spent,
        }


@dataclasses.dataclass
class _Seed:
    """A seed of a phase while it runs: where it writes, and what it has measured."""

    plan: Plan
    folder: Path
    stored: checkpoint.Checkpoints
    teachers: list[Trained]  # with variables on the devices
    teacher_logits: TeacherLogits
    # Sums of metrics since the last logged line, and over how many steps.
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    steps_summed: int = 0

    def add(self, values: dict[str, Any], steps: int) -> None:
        """Adds the means over some steps to the sums."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + steps * float(value)
        self.steps_summed += steps

    def means(self) -> dict[str, float]:
        """The means since they were last asked for, to be logged."""
        means = {f"train/{name}": value / self.steps_summed for name, value in self.sums.items()}
        self.sums.clear()
        self.steps_summed = 0
        return means

    def key(self, seed: int) -> jax.Array:
        """Of the phase's own, lest a student with its teacher's architecture start as it did."""
        name = seeds.base(self.plan.name)
        return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))

    def evaluate(self, evaluator: Evaluator, variables: Variables, split: str) -> dict[str, float]:
        """All metrics of a split; `variables` are on the devices."""
        labels = self.plan.data.splits[split].labels
        return summarize(evaluator.logits(variables, split), labels, self.teacher_logits(split))


def run_phase(
    plans: Sequence[Plan],
    *,
    config: ConfigDict,
    teachers: Sequence[list[Trained]],
    workdir: Path,
    console: Console,
    stop: Callable[[], int | None],
) -> list[tuple[Trained, dict[str, Any]]]:
    """Trains (or goes on training), selects, evaluates and records a phase: all its seeds.

    Args:
      plans: what to do: one, or several that differ in nothing but the seed, and in
        whose networks they begin with and learn from.
      config: the run's.
      teachers: of each plan, in its order.
      workdir: the run's folder.
      console: where lines and the progress bar go.
      stop: the number of a signal that asks to stop, or None.

    Returns:
      For each plan the trained network, and what summary.json says of it.

    Raises:
      UserError: for damaged checkpoints or a full disk.
      Diverged: when a loss is not finite; the other seeds are saved then.
      Interrupted: after saving, when asked to stop.
    """
    first = plans[0]
    devices, data, taken = first.devices, first.data, first.taken
    described = networks.describe(
        taken.name if taken else first.config.model, first.network,
        options=first.config.model_options.to_dict(), image_size=data.image_size,
        resize=data.resize,
    )  # fmt: skip
    keep_best = first.config.select == "best" and not taken
    # Seeds with the same teacher share its place on the devices.
    placed = {
        name: Trained(one.network, devices.replicate(one.variables), one.name)
        for plan, own in zip(plans, teachers, strict=True)
        for name, one in dict(zip(plan.teachers, own, strict=True)).items()
    }
    running = []
    with contextlib.ExitStack() as opened:
        for plan in plans:
            folder = workdir / plan.name
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            files.write_json(folder / "network.json", described)
            stored = checkpoint.Checkpoints(folder / "checkpoints", keep_best=keep_best)
            opened.callback(stored.close)
            named = {name: placed[name] for name in plan.teachers}
            logits = TeacherLogits(named, data, devices)
            running.append(_Seed(plan, folder, stored, list(named.values()), logits))
        evaluator = Evaluator(first.network, data, devices)
        clock = _Clock(1)
        step = 0
        if taken:
            running[0].stored.save(0, TrainState.of_variables(taken.variables), {})
            variables = [devices.replicate(taken.variables)]
        else:
            states, step, clock = _train(
                running, config=config, evaluator=evaluator, console=console, stop=stop
            )
            variables = [state.evaluated for state in states]
        results = []
        for seed, own in zip(running, variables, strict=True):
            seed.stored.wait()
            counts = step
            if keep_best:
                counts = seed.stored.best_step() or step
                arrays, _ = seed.stored.read(counts)
                best = networks.student_variables(arrays, first.network, described, seed.folder)
                own = devices.replicate(best)
            result = {
                "model": described["model"],
                "parameters": networks.parameters(own),
                "steps": seed.plan.steps,
                "seconds": 0.0,
                "images_per_second": clock.images_per_second,
                "seconds_of": clock.parts,
            }
            result |= {split: seed.evaluate(evaluator, own, split) for split in data.splits}
            result["seconds"] = clock.seconds
            files.write_json(seed.folder / "result.json", {"step": counts, "summary": result})
            host = jax.device_get(own)
            results.append((Trained(first.network, host, described["model"]), result))
    return results


def _train(
    running: Sequence[_Seed],
    *,
    config: ConfigDict,
    evaluator: Evaluator,
    console: Console,
    stop: Callable[[], int | None],
) -> tuple[tuple[Any, ...], int, _Clock]:
    """Makes the steps that are still to be made; all seeds are always at the same step."""
    first = running[0].plan
    assert first.work
    devices, data, total = first.devices, first.data, first.steps
    initializer = jax.jit(first.work.init, compiler_options=parallel.run_once())
    beginnings = [
        (
            seed.key(seed.plan.config.seed),
            tuple(jax.device_get(teacher.variables) for teacher in seed.teachers),
            seed.plan.start,
        )
        for seed in running
    ]
    like = jax.eval_shape(initializer, *beginnings[0])
    restored = _restore([seed.stored for seed in running], like, console)
    if restored:
        initial, extras = zip(*restored, strict=True)
        for seed, extra in zip(running, extras, strict=True):
            seed.sums, seed.steps_summed = extra["sums"], extra["steps_summed"]
        clock = _Clock(len(running), **extras[0]["clock"])
    else:
        initial = tuple(initializer(*beginning) for beginning in beginnings)
        clock = _Clock(len(running))
        if first.config.start_methods:
            initial = tuple(
                networks.with_methods(
                    state, networks.folder(seed.plan.config.start_methods, seed.folder)
                )
                for state, seed in zip(initial, running, strict=True)
            )
    states = tuple(devices.replicate(state) for state in initial)

    step = int(states[0].step)
    per_call = config.steps_per_call or parallel.default_steps_per_call()
    eval_every = _in_calls(first.eval_every, per_call) or total
    log_every = _in_calls(config.log_every, per_call) or total
    order = [seed.plan.config.seed for seed in running]
    if config.share_views and first.config.seeds:
        # The first of all, whether or not it is still running.
        order = [first.config.seeds[0]]
    keys = [devices.replicate(jax.random.fold_in(running[0].key(seed), 1)) for seed in order]
    taught_by = [tuple(teacher.variables for teacher in seed.teachers) for seed in running]
    said = [seed.teacher_logits.each for seed in running]
    if all(seed.plan.teachers == first.teachers for seed in running):
        taught_by, said = taught_by[:1], said[:1]
    advance = first.work.begin(taught_by, said, keys, order, step)
    profiler = Profiler(config.profile, running[0].folder)
    pending: list[tuple[int, Any]] = []
    saved_at = time.perf_counter()

    def settle() -> None:
        """Waits for the steps dispatched so far and adds their metrics up."""
        for count, values in pending:
            for seed, own in zip(running, values, strict=True):
                seed.add(own, count)
        pending.clear()

    def save(which: Sequence[int], scores: Sequence[float | None]) -> None:
        nonlocal saved_at
        with clock.spend("checkpoints"):
            for i in which:
                seed = running[i]
                extra = {
                    "seed": seed.plan.config.seed,
                    "clock": clock.saved(),
                    "sums": seed.sums,
                    "steps_summed": seed.steps_summed,
                }
                seed.stored.save(step, states[i], extra, scores[i])
        saved_at = time.perf_counter()

    everyone = range(len(running))
    with contextlib.ExitStack() as opened:
        opened.callback(profiler.close)
        bar = Bar(seeds.base(first.name), start=step, total=total, console=console)
        opened.callback(bar.close)
        logs = []
        for seed in running:
            log = PhaseLog(seed.folder, name=seed.plan.name, start=step, total=total, bar=bar)
            opened.callback(log.close)
            logs.append(log)
        lap_start, warm = step, False
        while step < total:
            count = min(per_call - step % per_call, total - step)
            profiler.before(step)
            states, values = advance(states, step, count)
            pending.append((count, values))
            step += count
            profiler.after(step, values)
            bar.advance(step)
            if not warm:
                # The first call compiles; its time is not the steps' time.
                jax.block_until_ready(values)
                warm, lap_start = True, step
                clock.go()
            signal_number = stop()
            evaluate = step % eval_every == 0 or step == total
            if not (evaluate or step % log_every == 0 or signal_number is not None):
                continue
            settle()
            speed = clock.pause((step - lap_start) * first.config.batch_size)
            if signal_number is not None and step < total:
                save(everyone, [None] * len(running))
                for seed in running:
                    seed.stored.wait()
                raise Interrupted(signal_number)
            left = (total - step) * first.config.batch_size * len(running)
            scores: list[float | None] = []
            losses = []
            for seed, log, state in zip(running, logs, states, strict=True):
                row: dict[str, Any] = {
                    "step": step,
                    "epoch": step / first.steps_per_epoch if first.steps_per_epoch else None,
                    "images_per_second": speed,
                    "eta_seconds": left / speed if speed else None,
                    "learning_rate": float(first.learning_rate(step - 1)),
                    **seed.means(),
                }
                if evaluate:
                    with clock.spend("evaluation"):
                        for split in ("validation", "test"):
                            if split in data.splits:
                                measured = seed.evaluate(evaluator, state.evaluated, split)
                                row |= {f"{split}/{key}": value for key, value in measured.items()}
                with clock.spend("logging"):
                    if evaluate and first.work.draw:
                        log.picture(step, first.work.draw(state))
                    log.write({name: value for name, value in row.items() if value is not None})
                scores.append(row.get("validation/accuracy"))
                losses.append(row["train/loss"])
            late = time.perf_counter() - saved_at > 60 * config.checkpoint_every
            well = [i for i in everyone if math.isfinite(losses[i])]
            if evaluate or late or len(well) < len(running):
                save(well, scores)
            for seed, loss in zip(running, losses, strict=True):
                if not math.isfinite(loss):
                    raise Diverged(
                        f"phase {seed.plan.name!r}: the loss is {loss} at step {step}: lower "
                        "optimizer.learning_rate or set optimizer.clip",
                        seed.plan.name,
                        step,
                    )
            lap_start = step
            clock.go()
    return states, step, clock


def _synchronized(network: Network, config: ConfigDict) -> Network:
    """The network with batch norm over all devices, where the phase wants that.

    In evaluation it makes no difference: a teacher needs it that normalises by the batch.
    """
    axis_name = parallel.AXIS if config.sync_batch_norm else None
    return network._replace(module=network.module.clone(axis_name=axis_name))


def _restore(
    stores: Sequence[checkpoint.Checkpoints], like: TrainState, console: Console
) -> list[tuple[Any, dict[str, Any]]]:
    """The newest checkpoints of one step that can all be read; [] if there is none in common.

    Newer ones are removed, damaged or not, once older ones were read: never before, for a
    configuration that does not fit must not erase a run.
    """
    common = set.intersection(*(set(stored.steps()) for stored in stores))
    error = None
    for step in sorted(common, reverse=True):
        try:
            restored = [stored.restore(step, like) for stored in stores]
        except UserError as problem:
            error = error or problem
            continue
        if error:
            console.print(f"{error}: going on from step {step}", highlight=False)
        break
    else:
        if error:
            raise error
        # Ended between the seeds' first saves.
        step, restored = -1, []
    for stored in stores:
        for newer in stored.steps():
            if newer > step:
                stored.delete(newer)
    return restored


def _in_calls(steps: float, per_call: int) -> int:
    """A number of steps rounded up to whole calls; 0 stays 0."""
    return math.ceil(max(1, round(steps)) / per_call) * per_call if steps else 0
