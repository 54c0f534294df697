"""Converts state dicts to variables and back: names and layouts of the arrays."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import models
from kdjax.types import UserError, Variables

Shapes = Mapping[str, tuple[int, ...]]
LeafPath = tuple[str, str, str]  # collection, module, leaf

# Names of a module's leaves, in Flax and in PyTorch, in the order of PyTorch's state dicts.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# By number of dimensions: the transposition from Flax's layout to PyTorch's, in which kernels
# are [out, in] or [out, in, h, w].
_AXES = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


def convert(
    name: str, state_dict: Mapping[str, Any], *, resolution: int = 32, **attributes: Any
) -> Variables:
    """Converts a PyTorch state dict to variables of `models.create(name, **attributes)`.

    Submodules have their PyTorch names with `_` for `.`. Other spellings that published files
    use are translated by the model's `torch_aliases`. The counters of batch norm
    (`num_batches_tracked`) have no counterpart and are dropped.

    Args:
      name: one of `models.names()`.
      state_dict: arrays by key, as returned by `load`.
      resolution: height and width of the images, in pixels. The shapes of the weights of
        `lenet`, `lenet5`, `mnist_cnn` and `distiller_resnet*` depend on it.
      **attributes: `num_classes`, `in_channels` and the other arguments of `models.create`.

    Returns:
      `{"params", "batch_stats"}` of float32 NumPy arrays.

    Raises:
      UserError: if keys or shapes do not fit the model. The message, a single line, lists
        every missing key, every unexpected key and every mismatched shape, and names the option
        of the model with which they would fit, if there is one.
    """
    model, template = _template(name, attributes, state_dict, resolution)
    fit = _fit(model, template, state_dict)
    if not fit.fits:
        state_dict = _without_prefix(state_dict, template)
        fit = _fit(model, template, state_dict)
    if not fit.fits:
        channels = getattr(model, "in_channels", None)
        hints = _hints(fit.given, fit.wanted, attributes.get("num_classes"), channels)
        hints += _option_that_fits(name, attributes, state_dict, resolution)
        listed = mismatches(fit.given, fit.wanted, fit.unexpected)
        raise UserError(f"state dict does not fit {name}: {hints}{listed}")
    variables: Variables = {}
    for key, ((collection, module, leaf), _) in template.items():
        value = fit.found[key].transpose(np.argsort(_AXES[fit.found[key].ndim]))
        layers = variables.setdefault(collection, {})
        layers.setdefault(module, {})[leaf] = np.ascontiguousarray(value, np.float32)
    return variables


def export(
    name: str,
    variables: Variables,
    *,
    num_batches_tracked: int = 0,
    resolution: int = 32,
    **attributes: Any,
) -> dict[str, np.ndarray]:
    """Converts a model's variables to a PyTorch state dict; the inverse of `convert`.

    Keys and their order are those of the PyTorch implementation that the model follows. To
    write a file, use
    `torch.save({k: torch.from_numpy(v) for k, v in state_dict.items()}, path)` or
    `safetensors.numpy.save_file(state_dict, path)`.

    Args:
      name: one of `models.names()`.
      variables: `{"params", "batch_stats"}` of `models.create(name, **attributes)`.
      num_batches_tracked: value of the counters of batch norm, the number of training steps,
        which kdjax does not track. PyTorch uses it only with `momentum=None`.
      resolution: height and width of the images, in pixels. The shapes of the weights of
        `lenet`, `lenet5`, `mnist_cnn` and `distiller_resnet*` depend on it.
      **attributes: `num_classes`, `in_channels` and the other arguments of `models.create`.

    Returns:
      float32 arrays by key; the counters are int64 arrays of shape ().

    Raises:
      UserError: if the variables do not fit the model; the message is as for `convert`.
    """
    found = {key: leaf for key, (_, leaf) in _by_torch_key(variables).items()}
    given = {key: tuple(np.shape(leaf)) for key, leaf in found.items()}
    _, template = _template(name, attributes, given, resolution)
    wanted = {key: tuple(leaf.shape) for key, (_, leaf) in template.items()}
    if given != wanted:
        unexpected = [key for key in given if key not in wanted]
        raise UserError(f"variables do not fit {name}: {mismatches(given, wanted, unexpected)}")
    state_dict = {}
    for key in wanted:
        value = np.asarray(found[key], np.float32)
        state_dict[key] = np.ascontiguousarray(value.transpose(_AXES[value.ndim]))
        if key.endswith(".running_var"):
            state_dict[_counter(key)] = np.array(num_batches_tracked, np.int64)
    return state_dict


def count_classes(
    name: str, state_dict: Mapping[str, Any], *, resolution: int = 32, **attributes: Any
) -> int:
    """The number of classes of a state dict: the size of what makes the logits.

    Args:
      name: one of `models.names()`.
      state_dict: arrays by key, as returned by `load`.
      resolution: as for `convert`.
      **attributes: `in_channels` and the other arguments of `models.create` but `num_classes`.

    Raises:
      UserError: if the state dict lacks the layer that makes the logits.
    """
    (model, one), (_, two) = (
        _template(name, attributes | {"num_classes": classes}, state_dict, resolution)
        for classes in (1, 2)
    )
    found = (
        _fit(model, one, _without_prefix(state_dict, one)).found
        | _fit(model, one, state_dict).found
    )
    for key, (_, leaf) in one.items():
        ours, theirs = _to_torch_shape(leaf.shape), _to_torch_shape(two[key][1].shape)
        if ours != theirs and key in found and found[key].ndim == len(ours):
            axis = [a == b for a, b in zip(ours, theirs, strict=True)].index(False)
            return int(found[key].shape[axis])
    heads = [key for key, (_, leaf) in one.items() if leaf.shape != two[key][1].shape]
    raise UserError(f"state dict does not fit {name}: missing: {', '.join(heads)}")


class _Fit(NamedTuple):
    """A state dict beside what a model wants.

    Attributes:
      wanted: shapes by PyTorch key.
      found: those of the arrays whose keys the model has, under its own spelling.
      unexpected: the other keys.
    """

    wanted: Shapes
    found: dict[str, np.ndarray]
    unexpected: list[str]

    @property
    def given(self) -> Shapes:
        """Shapes of what was found."""
        return {key: value.shape for key, value in self.found.items()}

    @property
    def fits(self) -> bool:
        """Whether everything is there, in the right shape, and nothing else."""
        return self.given == self.wanted and not self.unexpected


def _fit(model: Any, template: Mapping[str, Any], state_dict: Mapping[str, Any]) -> _Fit:
    wanted = {key: _to_torch_shape(leaf.shape) for key, (_, leaf) in template.items()}
    counters = {_counter(key) for key in wanted if key.endswith(".running_var")}
    found: dict[str, np.ndarray] = {}
    unexpected = []
    for key, value in state_dict.items():
        translated = key
        if key not in wanted and key not in counters:
            for pattern, replacement in model.torch_aliases:
                translated = re.sub(pattern, replacement, translated)
        if translated in wanted and translated not in found:
            found[translated] = np.asarray(value)
        elif translated not in counters:
            unexpected.append(key)
    return _Fit(wanted, found, unexpected)


def _without_prefix(
    state_dict: Mapping[str, Any], template: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Without the name of an outer module, such as `net.`, that all keys share and no model has."""
    while state_dict:
        prefixes = {key.partition(".")[0] + "." for key in state_dict}
        prefix = prefixes.pop()
        if prefixes or any(key.startswith(prefix) for key in template):
            break
        state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    return state_dict


# Options of models with which published files were made, and their values.
_OPTIONS = {"stem": ("imagenet", "cifar")}


def _option_that_fits(
    name: str, attributes: Mapping[str, Any], state_dict: Mapping[str, Any], resolution: int
) -> str:
    """A hint at the option of the model with which the state dict fits, or ""."""
    fields = {field.name for field in dataclasses.fields(models.create(name, **attributes))}
    for option, values in _OPTIONS.items():
        for value in values if option in fields else ():
            changed = {**attributes, option: value}
            model, template = _template(name, changed, state_dict, resolution)
            if _fit(model, template, state_dict).fits:
                return f"it fits with model_options {option}={value!r}; "
    return ""


def _template(
    name: str, attributes: Mapping[str, Any], keys: Iterable[str], resolution: int
) -> tuple[Any, dict[str, tuple[LeafPath, Any]]]:
    """The variant of the model to which the keys belong, and its variables' shapes by key."""
    model: Any = models.create(name, **attributes).variant_for(keys)
    modules: list[str] = []

    def init(images: Any) -> Variables:
        variables = model.init(jax.random.key(0), images)
        modules.extend(variables["params"])  # In order of computation; eval_shape sorts keys.
        return variables

    shapes = jax.eval_shape(init, model.example(resolution))
    params = {module: shapes["params"][module] for module in modules}
    return model, _by_torch_key(shapes | {"params": params})


def _by_torch_key(variables: Mapping[str, Any]) -> dict[str, tuple[LeafPath, Any]]:
    """The path and value of every leaf by PyTorch key, in the order of the modules."""
    leaves = {}
    for module in variables.get("params", {}):
        for leaf, torch_leaf in _LEAVES.items():
            for collection in ("params", "batch_stats"):
                values = variables.get(collection, {}).get(module, {})
                if leaf in values:
                    key = f"{module.replace('_', '.')}.{torch_leaf}"
                    leaves[key] = (collection, module, leaf), values[leaf]
    return leaves


def _to_torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _AXES[len(shape)])


def _counter(key: str) -> str:
    return f"{key.rpartition('.')[0]}.num_batches_tracked"


def mismatches(given: Shapes, wanted: Shapes, unexpected: list[str]) -> str:
    """Lists every missing key, every unexpected key and every mismatched shape."""
    parts = {
        "missing": [key for key in wanted if key not in given],
        "unexpected": unexpected,
        "mismatched shapes": [
            f"{key} {list(given[key])} instead of {list(shape)}"
            for key, shape in wanted.items()
            if key in given and given[key] != shape
        ],
    }
    return "; ".join(f"{what}: {', '.join(keys)}" for what, keys in parts.items() if keys)


def _hints(given: Shapes, wanted: Shapes, num_classes: int | None, in_channels: int | None) -> str:
    """Likely causes where shapes differ only in the number of classes or channels."""
    hints = ""
    for key, shape in wanted.items():
        other = given.get(key, ())
        if len(shape) != len(other):
            continue
        differing = [axis for axis, size in enumerate(other) if size != shape[axis]]
        if len(differing) != 1:
            continue
        (axis,) = differing
        if (len(shape), axis, shape[axis]) == (2, 0, num_classes):
            hints += f"it has {other[axis]} classes, not num_classes={num_classes}; "
        if (len(shape), axis, shape[axis]) == (4, 1, in_channels):
            hints += f"it takes {other[axis]} channels, not in_channels={in_channels}; "
    return hints
