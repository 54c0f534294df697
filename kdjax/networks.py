"""Trained networks by reference: the folder of a run's phase, a PyTorch file or an npz file."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import checkpoint, files, models, npz_import, references, torch_import
from kdjax.models.reused import ReusedClassifier
from kdjax.types import Network, UserError, Variables, first_line

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".safetensors")
# Of all files of weights, which say nothing of the network beside.
WEIGHT_SUFFIXES = (*TORCH_SUFFIXES, ".npz")
# Classes, channels, and pixels of a side: far more than any, and few enough for their products.
_MOST = 2**16


class TrainedNetwork(NamedTuple):
    """A network with its variables.

    Attributes:
      network: the model and its normalisation.
      variables: `{"params", "batch_stats"}`.
      name: of the model.
    """

    network: Network
    variables: Variables
    name: str


def count_parameters(variables: Variables) -> int:
    """The number of trainable parameters; the variables may be shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def create(
    model: str,
    *,
    num_classes: int,
    in_channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: str = "float32",
    axis_name: str | None = None,
    options: Mapping[str, Any] | None = None,
    reused_classifier: Mapping[str, Any] | None = None,
) -> Network:
    """Builds a model and its normalisation.

    Args:
      model: one of `kdjax.models.names()`, or `package.module:factory`.
      num_classes: k.
      in_channels: c.
      mean: [c], of pixels in [0, 1].
      std: [c], positive, in the same units.
      dtype: of the computation, one of `DTYPES`.
      axis_name: mapped axis over which batch norm averages in training, or None.
      options: further attributes of the model.
      reused_classifier: `features`, `size` and `factor` of `kdjax.models.reused.ReusedClassifier`
        around the model; None for the model itself.

    Raises:
      UserError: on an unknown model, option or dtype, or if the normalisation does not fit
        the number of channels.
    """
    if not model:
        raise UserError(f"no model given: choose from {', '.join(models.names())}")
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}: choose from {', '.join(DTYPES)}")
    for what, values in (("mean", mean), ("std", std)):
        if len(values) != in_channels:
            raise UserError(
                f"{what} is {tuple(values)}; the images have {in_channels} "
                f"channel{'s' if in_channels > 1 else ''}"
            )
    if min(std) <= 0:
        raise UserError(f"std is {tuple(std)}; it must be positive")
    try:
        module = models.create(
            model,
            num_classes=num_classes,
            in_channels=in_channels,
            dtype=DTYPES[dtype],
            axis_name=axis_name,
            **(options or {}),
        )
    except TypeError as error:
        raise UserError(f"model {model!r}: {first_line(error)}") from None
    if reused_classifier:
        given = {**reused_classifier, "size": tuple(reused_classifier["size"])}
        module = ReusedClassifier.around(
            module, num_classes=num_classes, in_channels=in_channels, **given
        )
    return Network(module, tuple(map(float, mean)), tuple(map(float, std)))


def describe(model: str, network: Network, **more: Any) -> dict[str, Any]:
    """The content of `network.json`: what is needed to build the network again and to feed it."""
    module = network.module
    if isinstance(module, ReusedClassifier):
        reused = {"features": module.features, "size": module.size, "factor": module.factor}
        more = {**more, "reused_classifier": reused}
    return {
        "model": model,
        "num_classes": network.module.num_classes,
        "in_channels": network.module.in_channels,
        "mean": list(network.mean),
        "std": list(network.std),
        **more,
    }


def title(model: str, network: Network) -> str:
    """What a network of a model is called in results: whose classifier it predicts with, too."""
    reused = isinstance(network.module, ReusedClassifier)
    return f"{model} with its teacher's classifier" if reused else model


def load(
    reference: str,
    *,
    model: str = "",
    num_classes: int = 0,
    in_channels: int = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    dtype: str = "float32",
    options: Mapping[str, Any] | None = None,
    image_size: int = 32,
) -> TrainedNetwork:
    """Loads a trained network.

    Args:
      reference: `RUN/PHASE`, the folder of a phase, or a PyTorch file, or an npz file of a
        model that was published as one, as `FILE` or `MODEL=FILE`. A folder says what all other
        arguments except `dtype` say; those that are given must agree with it. A file needs all
        of them.
      model: name of the model.
      num_classes: k; 0 for that of the network.
      in_channels: c.
      mean: [c], of pixels in [0, 1].
      std: [c], in the same units.
      dtype: of the computation.
      options: further attributes of the model.
      image_size: side of the images, on which the weights of some models depend.

    Raises:
      UserError: if there is no such file or folder, if it is damaged or does not fit, or if a
        folder names a model of one's own that is neither `model` nor trusted
        (`kdjax.references.trust`).
    """
    named, equals, file = reference.partition("=")
    # A folder of that name is one: only who writes MODEL=FILE vouches for a model.
    if equals and not Path(reference).is_dir():
        model, reference = named, file
    path = Path(reference)
    if path.is_dir():
        return _load_phase(
            path, dtype, model=model, num_classes=num_classes, in_channels=in_channels
        )
    if not path.exists():
        raise UserError(f"no such phase folder or file of weights: {reference!r}")
    if path.suffix not in WEIGHT_SUFFIXES:
        raise UserError(f"{reference!r} is no file of weights: {', '.join(WEIGHT_SUFFIXES)}")
    attributes = {"in_channels": in_channels, **(options or {})}
    if path.suffix == ".npz":
        variables, num_classes = npz_import.load(path, model, num_classes=num_classes, **attributes)
    else:
        state_dict = torch_import.load(path)
        attributes["resolution"] = image_size
        num_classes = num_classes or torch_import.count_classes(model, state_dict, **attributes)
        variables = torch_import.convert(model, state_dict, num_classes=num_classes, **attributes)
    network = create(
        model, num_classes=num_classes, in_channels=in_channels, mean=mean, std=std,
        dtype=dtype, options=options,
    )  # fmt: skip
    return TrainedNetwork(network, variables, model)


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the checkpoint that a phase reports, by their path in the training state.

    Raises:
      UserError: if there is none yet, or if it is damaged.
    """
    stored = checkpoint.Checkpoints(folder / "checkpoints", read_only=True)
    steps = stored.steps()
    if not steps:
        raise UserError(f"{str(folder)!r} has no checkpoint yet")
    result = folder / "result.json"
    step = files.read_json(result, step=int)["step"] if result.exists() else steps[-1]
    return stored.read(step)[0]


def read_description(folder: Path) -> dict[str, Any]:
    """The content of a phase's `network.json`, as `describe` made it.

    Raises:
      UserError: if this is not the folder of a phase, or the file is damaged.
    """
    if not (folder / "network.json").exists():
        phases = sorted(path.parent.name for path in folder.glob("*/network.json"))
        hint = f": name one of its phases, {', '.join(phases)}" if phases else ""
        raise UserError(f"{str(folder)!r} is not the folder of a phase{hint}")
    described: dict[str, Any] = files.read_json(
        folder / "network.json", model=str, num_classes=int, in_channels=int, mean=list, std=list,
        options=dict, image_size=int,
    )  # fmt: skip
    problem, names = "", described.get("class_names", [])
    if not all(
        1 <= described[key] <= _MOST for key in ("num_classes", "in_channels", "image_size")
    ):
        problem = f"num_classes, in_channels and image_size are between 1 and {_MOST:,}"
    elif not all(_is_finite(one) for key in ("mean", "std") for one in described[key]):
        problem = "mean and std hold numbers"
    elif not _is_reused(described.get("reused_classifier")):
        problem = f"reused_classifier has features, size and factor, between 1 and {_MOST:,}"
    elif not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problem = "class_names holds strings"
    if problem:
        raise UserError(f"{str(folder / 'network.json')!r} is damaged: {problem}")
    return described


def _is_reused(given: Any) -> bool:
    """Whether this is nothing, or what `describe` says of a reused classifier."""
    if given is None:
        return True
    if not isinstance(given, dict) or given.keys() != {"features", "size", "factor"}:
        return False
    size = given["size"]
    numbers = [given["features"], given["factor"], *(size if isinstance(size, list) else ())]
    return len(numbers) == 4 and all(type(n) is int and 1 <= n <= _MOST for n in numbers)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < math.inf


def _load_phase(folder: Path, dtype: str, **given: Any) -> TrainedNetwork:
    described = read_description(folder)
    for key, value in given.items():
        if value and value != described[key]:
            raise UserError(
                f"{str(folder)!r} has {key} {described[key]}, but {value} is needed here"
            )
    model = described["model"]
    if references.is_reference(model) and not given["model"]:
        references.check_trusted(model, f"{str(folder)!r}: model")
    network = create(
        model,
        **{key: described[key] for key in ("num_classes", "in_channels", "mean", "std", "options")},
        reused_classifier=described.get("reused_classifier"),
        dtype=dtype,
    )
    arrays = read_arrays(folder)
    network = network._replace(module=network.module.variant_for(arrays))
    variables = student_variables(arrays, network, described, folder)
    return TrainedNetwork(network, variables, model)


def student_variables(
    arrays: dict[str, np.ndarray],
    network: Network,
    described: Mapping[str, Any],
    where: Path,
) -> Variables:
    """The student in a checkpoint's arrays; its moving average where one was kept."""
    prefix = ".ema" if any(key.startswith(".ema[") for key in arrays) else "."
    size = described["image_size"]
    shape = (1, size, size, described["in_channels"])
    like = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(shape, jnp.float32)))

    def name(key: str) -> str:
        # ['params']['fc'] in the variables is .params['fc'] in the state, .ema['params']['fc']
        # in its average.
        collection, rest = key[2:].split("']", 1)
        return prefix + (key if prefix == ".ema" else collection + rest)

    found = {key: arrays[name(key)] for key in checkpoint.flatten(like) if name(key) in arrays}
    return checkpoint.unflatten(found, like, f"the checkpoint of {str(where)!r}")
