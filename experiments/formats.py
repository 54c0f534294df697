"""Exports of trained networks: how each file format is written, and read again to verify it."""

import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from experiments import model_card, onnx_model, provenance
from kdjax import Classifier, files, load, networks, torch_import
from kdjax.models import convolution
from kdjax.types import UserError

# The largest deviation of logits, as a share of the largest one.
TOLERANCE = 1e-5
_BATCH_SIZES = (1, 3)
_PLATFORMS = ("cpu", "cuda")


class Format(NamedTuple):
    """A file format.

    Attributes:
      file: name of the file.
      requires: packages that writing or verifying needs, beyond those of kdjax.
      extra: with which they are installed.
      write: writes a network to a path.
      read: reads the file at a path as a function from images, uint8 [b, h, w, c], to logits.
    """

    file: str
    requires: tuple[str, ...]
    extra: str
    write: Callable[[Classifier, Path], None]
    read: Callable[[Classifier, Path], Callable[[np.ndarray], Any]]

    @property
    def missing(self) -> list[str]:
        """The required packages that are not installed."""
        return [name for name in self.requires if importlib.util.find_spec(name) is None]


def choose(names: Sequence[str]) -> dict[str, Format]:
    """Formats by name.

    Args:
      names: of `FORMATS`; none chooses all whose packages are installed.

    Raises:
      UserError: if there is no such format, or if a package is not installed.
    """
    if not names:
        return {name: one for name, one in FORMATS.items() if not one.missing}
    for name in names:
        if name not in FORMATS:
            raise UserError(f"no format {name!r}: choose from {', '.join(FORMATS)}")
        if missing := FORMATS[name].missing:
            other = "; safetensors has the same arrays" if name == "pytorch" else ""
            raise UserError(
                f"format {name} needs {' and '.join(missing)}, which pip install "
                f"'kdjax[{FORMATS[name].extra}]' installs{other}"
            )
    return {name: FORMATS[name] for name in dict.fromkeys(names)}


def deviation(classifier: Classifier, form: Format, path: Path) -> float:
    """How much the logits of a written file deviate from those of the network.

    They are compared on random images, in batches of several sizes.

    Returns:
      The largest difference, as a share of the largest logit.
    """
    rng = np.random.default_rng(0)
    shape = (classifier.image_size, classifier.image_size, classifier.channels)
    # On a GPU, float32 products are computed in less than float32.
    with jax.default_device(jax.devices("cpu")[0]):
        function, worst = form.read(classifier, path), 0.0
        for size in _BATCH_SIZES:
            images = rng.integers(0, 256, (size, *shape), dtype=np.uint8)
            expected = np.asarray(classifier(images))
            difference = np.abs(np.asarray(function(images)) - expected).max()
            scale = max(np.abs(expected).max(), np.finfo(np.float32).tiny)
            worst = max(worst, float(difference / scale))
    return worst


def _attributes(classifier: Classifier) -> dict[str, Any]:
    """What `kdjax.torch_import` needs to know of the model."""
    return {
        "num_classes": classifier.num_classes,
        "in_channels": classifier.channels,
        "resolution": classifier.resolution or classifier.image_size,
        **classifier.options,
    }


def _state_dict(classifier: Classifier) -> dict[str, np.ndarray]:
    """The PyTorch state dict, which has everything that the network has.

    Raises:
      UserError: if it does not.
    """
    if classifier.title != classifier.model:
        raise UserError(
            f"{classifier.title} has no PyTorch state dict, which belongs to a model alone: give "
            "--formats=stablehlo,onnx"
        )
    model, attributes = classifier.model, _attributes(classifier)
    try:
        state_dict = torch_import.export(model, classifier.variables, **attributes)
        again = torch_import.convert(model, state_dict, **attributes)
    except KeyError:
        # An array of a number of axes that no layer of PyTorch has.
        again = {}
    ours, theirs = (jax.tree.leaves_with_path(tree) for tree in (classifier.variables, again))
    if [path for path, _ in ours] != [path for path, _ in theirs]:
        raise UserError(
            f"{model} has no PyTorch state dict: that needs a model of convolutions, linear layers "
            "and norms without submodules; stablehlo and onnx need nothing of the kind"
        )
    return state_dict


def _from_state_dict(classifier: Classifier, path: Path) -> Callable[[np.ndarray], Any]:
    loaded = torch_import.load(path)
    variables = torch_import.convert(classifier.model, loaded, **_attributes(classifier))

    def function(images: np.ndarray) -> Any:
        return dataclasses.replace(classifier, variables=variables)(images)

    return function


def _write_pytorch(classifier: Classifier, path: Path) -> None:
    import torch

    torch.save({k: torch.tensor(v) for k, v in _state_dict(classifier).items()}, path)


def _write_safetensors(classifier: Classifier, path: Path) -> None:
    safetensors.numpy.save_file(_state_dict(classifier), path, metadata={"format": "pt"})


def _images(classifier: Classifier, batch: Any) -> jax.ShapeDtypeStruct:
    side, channels = classifier.image_size, classifier.channels
    return jax.ShapeDtypeStruct((batch, side, side, channels), jnp.uint8)


def _write_stablehlo(classifier: Classifier, path: Path) -> None:
    (batch,) = jax.export.symbolic_shape("batch")
    # Other algorithms than the convolutions' own are for one platform.
    with convolution.as_defined():
        function = jax.jit(lambda images: classifier(images))
        program = jax.export.export(function, platforms=_PLATFORMS)(_images(classifier, batch))
    path.write_bytes(program.serialize())


def _read_stablehlo(classifier: Classifier, path: Path) -> Callable[[np.ndarray], Any]:
    return jax.export.deserialize(bytearray(path.read_bytes())).call


def _write_onnx(classifier: Classifier, path: Path) -> None:
    model = onnx_model.convert(classifier, _images(classifier, 1))
    path.write_bytes(model.SerializeToString())


def _read_onnx(classifier: Classifier, path: Path) -> Callable[[np.ndarray], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


FORMATS = {
    "pytorch": Format("model.pth", ("torch",), "torch", _write_pytorch, _from_state_dict),
    "safetensors": Format("model.safetensors", (), "", _write_safetensors, _from_state_dict),
    "stablehlo": Format(
        "model.stablehlo", ("flatbuffers",), "export", _write_stablehlo, _read_stablehlo
    ),
    "onnx": Format("model.onnx", ("onnx", "onnxruntime"), "export", _write_onnx, _read_onnx),
}


def export(folder: Path, out: Path, names: Sequence[str]) -> list[str]:
    """Writes a network and its model card to a folder; files of the same names are replaced.

    Args:
      folder: of the phase.
      out: the folder to write to.
      names: of `FORMATS`; none chooses all whose packages are installed.

    Returns:
      A line for each file.

    Raises:
      UserError: if the network cannot be loaded, or not written in a format; nothing is
        written then.
    """
    chosen = choose(names)
    if out.exists() and not out.is_dir():
        raise UserError(f"{str(out)!r} is not a folder")
    networks.read_description(folder)  # A PyTorch file needs no export.
    classifier = load(folder)
    known, lines = provenance.read(folder), []
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        for name, form in chosen.items():
            path = Path(temporary, form.file)
            form.write(classifier, path)
            path.chmod(0o644)  # As the other files; safetensors are written for the owner alone.
            difference = deviation(classifier, form, path)
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{name}: logits deviate by {difference:.1e} of the largest one, more than "
                    f"{TOLERANCE}; nothing was written"
                )
            size = path.stat().st_size / 1e6
            lines.append(f"{out / form.file}: {size:.2f} MB, logits deviate by {difference:.1e}")
        if known is not None:
            files.write_json(Path(temporary, "config.json"), known.config)
            lines.append(f"{out / 'config.json'}: of the run")
        card = model_card.make(classifier, known, [one.file for one in chosen.values()])
        Path(temporary, "README.md").write_text(card)
        out.mkdir(exist_ok=True)
        for path in Path(temporary).iterdir():
            os.replace(path, out / path.name)
    return [*lines, f"{out / 'README.md'}: the model card"]
