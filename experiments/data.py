"""The images that a phase may look at, on the host and on the devices."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from kdjax import parallel
from kdjax.data import batches, sources
from kdjax.types import UserError


class Subset(NamedTuple):
    """Which images of a training split a phase learns from; its group `subset`.

    Attributes:
      parts: into which the images are cut at random; sizes differ by one at most.
      part: those that the phase has, counted from 0; () is all.
      seed: of the random choices.
      examples: a random choice of so many of these; 0 is all.
      per_class: a random choice of so many of each class; () is all.
    """

    parts: int = 1
    part: tuple[int, ...] = ()
    seed: int = 0
    examples: int = 0
    per_class: tuple[int, ...] = ()

    def choose(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Positions int [m] of the chosen images, in ascending order.

        Args:
          labels: int [n].
          num_classes: k.

        Raises:
          UserError: if there is no such part, or a part or a class has fewer images.
        """
        if self.parts < 1 or not set(self.part) <= set(range(self.parts)):
            raise UserError(
                f"subset.part is {self.part} of {self.parts} parts, which are counted from 0"
            )
        order = np.random.default_rng(self.seed).permutation(len(labels))
        parts = np.array_split(order, self.parts)
        order = np.concatenate([parts[i] for i in self.part or range(self.parts)])
        if not 0 <= self.examples <= len(order):
            raise UserError(f"subset.examples is {self.examples}: there are {len(order)} images")
        order = order[: self.examples or None]
        if self.per_class:
            if len(self.per_class) != num_classes:
                raise UserError(
                    f"subset.per_class has {len(self.per_class)} counts for {num_classes} classes"
                )
            classes = [order[labels[order] == label] for label in range(num_classes)]
            for label, (there, count) in enumerate(zip(classes, self.per_class, strict=True)):
                if not 0 <= count <= len(there):
                    raise UserError(
                        f"subset.per_class is {count} for class {label}, which has {len(there)}"
                    )
            order = np.concatenate(
                [there[:count] for there, count in zip(classes, self.per_class, strict=True)]
            )
        if not len(order):
            raise UserError("subset leaves no image")
        return np.sort(order)


class PhaseSplit:
    """A split of a data set, with what is computed from it only once.

    Phases that use the same split share this object.

    Attributes:
      split: images and labels on the host.
      teacher_logits: float32 [n, k] by the name of a trained network in this run and the
        resolution at which it sees the images.
    """

    def __init__(self, split: sources.Split):
        """Wraps a split."""
        self.split = split
        self.teacher_logits: dict[tuple[str, int], np.ndarray] = {}
        self._resident: dict[parallel.Devices, Any] = {}

    def __len__(self) -> int:
        return len(self.split)

    @property
    def labels(self) -> np.ndarray:
        """int32 [n], -1 where unknown."""
        return self.split.labels

    def resident(self, devices: parallel.Devices) -> Any:
        """The arrays that a compiled step gathers from, on the devices."""
        if devices not in self._resident:
            self._resident[devices] = devices.replicate(batches.resident(self.split))
        return self._resident[devices]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PhaseData:
    """All that a phase may look at.

    Attributes:
      splits: by name; no `train` in a phase that learns without data, and none at all in
        a run without data.
      num_classes: k.
      channels: c.
      image_size: side of what the networks see, in pixels.
      resize: side to which images were resized when read; 0 if they were not.
      workers: processes that decode splits too large for memory.
      class_names: of the classes, in the order of the labels; () where they are not known.
      labelled: whether the training split has labels that a phase may use.
      more: images that a phase sees beside those of its training split, or None.
      more_labelled: the same for these.
    """

    splits: Mapping[str, PhaseSplit]
    num_classes: int
    channels: int
    image_size: int
    resize: int = 0
    workers: int = 0
    class_names: tuple[str, ...] = ()
    labelled: bool = True
    more: PhaseSplit | None = None
    more_labelled: bool = False
    # Phases with the same images share them, and what is computed from them only once.
    _subsets: dict[Subset, "PhaseData"] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of what the networks see."""
        return (self.image_size, self.image_size, self.channels)

    @property
    def train(self) -> PhaseSplit:
        """The training split.

        Raises:
          UserError: if there is none.
        """
        if "train" not in self.splits:
            raise UserError("there is no training data: data.name is empty")
        return self.splits["train"]

    @functools.cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel of the training split; [] without one."""
        if "train" not in self.splits:
            return [], []
        return sources.channel_statistics(self.train.split)

    # Images of a class in the splits of a smoke test.
    FEW: ClassVar[int] = 5

    def few(self) -> "PhaseData":
        """The same data with at most `FEW` images of each class in every split."""
        splits = {}
        for name, split in self.splits.items():
            first: dict[int, list[int]] = {}
            for position, label in enumerate(split.labels.tolist()):
                first.setdefault(label, []).append(position)
            chosen = [i for positions in first.values() for i in positions[: self.FEW]]
            splits[name] = PhaseSplit(split.split.subset(np.sort(chosen)))
        return dataclasses.replace(self, splits=splits)

    def held_out(self) -> "PhaseData":
        """Only the test split: a phase without data is evaluated on it and gets nothing else."""
        test = {name: split for name, split in self.splits.items() if name == "test"}
        return dataclasses.replace(self, splits=test)

    def subset(self, subset: Subset) -> "PhaseData":
        """The same data with only these images of the training split.

        Raises:
          UserError: as `Subset.choose`.
        """
        if subset not in self._subsets:
            chosen = subset.choose(self.train.labels, self.num_classes)
            train = PhaseSplit(self.train.split.subset(chosen))
            self._subsets[subset] = dataclasses.replace(
                self, splits={**self.splits, "train": train}
            )
        return self._subsets[subset]

    def with_images(self, own: "ImageSource | None", more: "ImageSource | None") -> "PhaseData":
        """The same data with another training split, and with images beside it."""
        splits = {**self.splits, "train": own.split} if own else self.splits
        return dataclasses.replace(
            self,
            splits=splits,
            labelled=own.labelled if own else self.labelled,
            more=more.split if more else None,
            more_labelled=more.labelled if more else False,
        )

    def shots(self, count: int, seed: int = 0) -> "PhaseData":
        """The same data with `count` training images per class.

        They are a random choice that depends on nothing but `seed`.

        Raises:
          UserError: if a class has fewer.
        """
        known = self.train.labels[self.train.labels >= 0]
        fewest = int(np.bincount(known, minlength=self.num_classes).min())
        if not 0 < count <= fewest:
            raise UserError(
                f"shots is {count}: the class with the fewest training images has {fewest}"
            )
        return self.subset(Subset(seed=seed, per_class=(count,) * self.num_classes))


class ImageSource(NamedTuple):
    """Images of a phase that are not of the run's data.

    Attributes:
      split: the images, with labels -1 if they are hidden.
      labelled: whether they have labels.
    """

    split: PhaseSplit
    labelled: bool


@dataclasses.dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
      data: what phases are trained and evaluated on.
      evaluation: what phases without data are evaluated on; a test split or nothing.
    """

    data: PhaseData
    evaluation: PhaseData
    # Phases with the same images share them.
    _sources: dict[tuple[Any, ...], ImageSource] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def few(self) -> "RunData":
        """For a smoke test; see `PhaseData.few`."""
        return RunData(self.data.few(), self.evaluation.few())

    def images(
        self, *, name: str, dir: str, split: str, resize: int, examples: int, labels: bool
    ) -> ImageSource | None:
        """Images of a phase's own, as its config describes them; None without a name.

        Args:
          name: as for `kdjax.data.sources.load`.
          dir: the same.
          split: the same, as `train_split`.
          resize: the same; 0 is the size of the run's images.
          examples: size of a fixed random subset; 0 is all.
          labels: whether the phase sees their labels.

        Raises:
          UserError: if they cannot be read, or do not fit the networks of the run.
        """
        if not name:
            return None
        resize = resize or self.data.resize
        key = (name, dir, split, resize, examples, labels)
        if key not in self._sources:
            found = read(
                name, dir=dir, train_split=split, resize=resize, train_examples=examples,
                image_size=self.data.image_size,
            )  # fmt: skip
            if found.channels != self.data.channels:
                raise UserError(
                    f"images {name!r} have {found.channels} channels, the run's data "
                    f"{self.data.channels}"
                )
            if labels and found.num_classes != self.data.num_classes:
                raise UserError(
                    f"images {name!r} have {found.num_classes} classes, the run's data "
                    f"{self.data.num_classes}: set labels=False"
                )
            chosen = found.train
            if not labels:
                hidden = np.full(len(chosen), -1, np.int32)
                chosen = PhaseSplit(sources.Split(chosen.split.images, hidden))
            self._sources[key] = ImageSource(chosen, labels)
        return self._sources[key]


def read(
    name: str,
    *,
    resize: int = 0,
    image_size: int = 0,
    workers: int = 0,
    channels: int = 0,
    num_classes: int = 0,
    **options: Any,
) -> PhaseData:
    """Reads a data set.

    Args:
      name: as for `kdjax.data.sources.load`; empty for a run without data.
      resize: as for `kdjax.data.sources.load`.
      image_size: side of what the networks see, in pixels; 0 for the images' shorter side.
      workers: processes that decode splits too large for memory.
      channels: of the networks' images, needed only without data.
      num_classes: of the networks, needed only without data.
      **options: further arguments of `kdjax.data.sources.load`.

    Raises:
      UserError: if the data cannot be read or the images are smaller than `image_size`.
    """
    if not name:
        if min(image_size, channels, num_classes) < 1:
            raise UserError(
                f"data.name is empty and data.image_size {image_size}, data.channels "
                f"{channels}, data.num_classes {num_classes}: without data set all three"
            )
        return PhaseData(
            splits={}, num_classes=num_classes, channels=channels, image_size=image_size,
            resize=resize, workers=workers,
        )  # fmt: skip
    dataset = sources.load(name, resize=resize, **options)
    height, width, channels = dataset.train.images.shape[1:]
    size = image_size or min(height, width)
    if not 0 < size <= min(height, width):
        raise UserError(
            f"data.image_size is {image_size}, but the images are {height}x{width}: set data.resize"
        )
    return PhaseData(
        splits={split: PhaseSplit(value) for split, value in dataset.splits().items()},
        num_classes=dataset.num_classes,
        class_names=dataset.class_names,
        channels=channels,
        image_size=size,
        resize=resize,
        workers=workers,
    )


def read_run(data: dict[str, Any], evaluation: dict[str, Any]) -> RunData:
    """Reads what the config's groups `data` and `evaluation` describe.

    Raises:
      UserError: if either cannot be read, or their images or classes differ.
    """
    main = read(**data)
    if not evaluation["name"]:
        return RunData(main, main.held_out())
    other = read(**evaluation).held_out()
    if (other.image_shape, other.num_classes) != (main.image_shape, main.num_classes):
        raise UserError(
            f"evaluation has images {other.image_shape} of {other.num_classes} classes, "
            f"data {main.image_shape} of {main.num_classes}"
        )
    return RunData(main, other)
