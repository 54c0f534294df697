"""A trained network as a function of images."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdjax import networks
from kdjax.data import sources, views
from kdjax.types import Array, Network, UserError, Variables


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A trained classifier: a pure function from images to logits, as they are in evaluation.

    `classifier(images)` is compiled once for each shape, and may be used inside `jax.jit`. For
    gradients with respect to pixels use `network.evaluate(variables, pixels)`.

    Attributes:
      network: the model and its normalisation.
      variables: `{"params", "batch_stats"}`.
      model: name of the model, or `package.module:factory`.
      options: further attributes of the model.
      image_size: side of the central square that the network sees, in pixels.
      resize: side to which images of the training data were resized, in pixels; 0 if they
        were not.
      resolution: side to which the central square is resized, in pixels; 0 leaves it.
      class_names: names of the k classes; () where unknown.
    """

    network: Network
    variables: Variables
    model: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image_size: int
    resize: int = 0
    resolution: int = 0
    class_names: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The model, and whose classifier it predicts with if that is not its own."""
        return networks.title(self.model, self.network)

    @property
    def num_classes(self) -> int:
        """The number of classes, k."""
        return int(self._module.num_classes)

    @property
    def channels(self) -> int:
        """The number of channels of the images, c."""
        return int(self._module.in_channels)

    def __call__(self, images: Array | np.ndarray) -> Array:
        """Computes the logits of a batch.

        Args:
          images: uint8 [b, h, w, c]. Of images larger than `image_size` the network sees the
            central square.

        Returns:
          float32 [b, k].

        Raises:
          UserError: if the images have another type, other channels or are too small.
        """
        shape, dtype = np.shape(images), getattr(images, "dtype", type(images).__name__)
        size, channels = self.image_size, self.channels
        fits = len(shape) == 4 and shape[3] == channels and min(shape[1:3]) >= size
        if dtype != np.uint8 or not fits:
            raise UserError(
                f"images are {dtype} {shape}: {self.model} takes uint8 "
                f"[b, {size}, {size}, {channels}], or larger images, of which it sees the center"
            )
        return self._logits(self.variables, images)

    def probabilities(self, images: Array | np.ndarray) -> Array:
        """The probabilities of the classes, float32 [b, k]; otherwise as `__call__`."""
        return jax.nn.softmax(self(images))

    def read(self, file: str | Path) -> np.ndarray:
        """Reads an image file, in grey or in colours and resized as the training data was.

        Where the training data was not resized, the shorter side becomes `image_size`.

        Returns:
          uint8 [side, side, c]; `classifier(image[None])` takes it.

        Raises:
          UserError: if the file cannot be read, or if the network takes other channels than
            the one or three of image files.
        """
        if self.channels not in (1, 3):
            raise UserError(
                f"{self.model} takes {self.channels} channels: image files have 1 or 3, so that "
                "it can be given arrays only"
            )
        image = sources.read_image(file, self.channels)
        return sources.resized(image, self.resize or self.image_size)

    def class_name(self, index: int | Array) -> str:
        """The name of a class, or its number where names are unknown."""
        index = int(index)
        return self.class_names[index] if index < len(self.class_names) else str(index)

    @property
    def _module(self) -> Any:
        return self.network.module

    @functools.cached_property
    def _logits(self) -> Callable[[Variables, Any], Array]:
        def logits(variables: Variables, images: Array) -> Array:
            view = views.evaluation_view(images, self.image_size, self.resolution)
            return self.network.evaluate(variables, view).logits

        return jax.jit(logits)


def load(
    reference: str | Path,
    *,
    dtype: str = "float32",
    num_classes: int = 0,
    in_channels: int = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    image_size: int = 32,
    options: Mapping[str, Any] | None = None,
) -> Classifier:
    """Loads a trained network as a function of images.

    Args:
      reference: `RUN/PHASE`, the folder of a phase, such as `runs/x/kd` or `runs/x/teacher@50`,
        or a PyTorch or npz file as `MODEL=FILE`. A folder says what the arguments after `dtype`
        say; a file needs them.
      dtype: of the computation, `float32` or `bfloat16`.
      num_classes: k.
      in_channels: c; 0 is 3.
      mean: [c], of pixels in [0, 1].
      std: [c], in the same units.
      image_size: side of the images, in pixels.
      options: further attributes of the model, such as `{"stem": "imagenet"}`.

    Raises:
      UserError: if there is no such file or folder, if it is damaged or does not fit, or if a
        folder names a model of one's own that is not trusted (`kdjax.trust`).
    """
    folder = Path(reference)
    if not folder.is_dir():
        trained = networks.load(
            str(reference), num_classes=num_classes, in_channels=in_channels or 3, mean=mean,
            std=std, dtype=dtype, options=options, image_size=image_size,
        )  # fmt: skip
        return Classifier(
            network=trained.network, variables=trained.variables, model=trained.name,
            options=dict(options or {}), image_size=image_size,
        )  # fmt: skip
    trained = networks.load(
        str(folder), dtype=dtype, num_classes=num_classes, in_channels=in_channels
    )
    described = networks.read_description(folder)
    return Classifier(
        network=trained.network,
        variables=trained.variables,
        model=trained.name,
        options=described["options"],
        image_size=described["image_size"],
        resize=described.get("resize", 0),
        class_names=tuple(described.get("class_names", ())),
    )
