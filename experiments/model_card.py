"""The model card of an exported network, in the form that Hugging Face uses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import provenance
from experiments.provenance import Provenance
from experiments.schema import flat
from kdjax import Classifier, networks, references

# Columns of the table of figures: their titles, and the keys of a split's figures.
_FIGURES = {
    "accuracy": "accuracy", "top-5": "top5", "NLL": "nll", "ECE": "ece",
    "agreement with the teacher": "agreement", "KL to teacher": "kl",
}  # fmt: skip
_SHARES = ("accuracy", "top5", "agreement")
# What is told of the data and of how a phase was trained, beside objective and teachers, where it
# is not empty.
_DATA = ("name", "train_split", "test_split", "train_examples", "validation", "resize")
_SETTINGS = (
    "epochs", "steps", "batch_size", "optimizer.name", "optimizer.learning_rate",
    "optimizer.momentum", "optimizer.weight_decay", "schedule.name", "augment.crop",
    "augment.flip", "augment.policy", "augment.mixup", "augment.teacher_view", "ema_decay",
    "init_from", "shots", "select", "dtype",
)  # fmt: skip


def make(classifier: Classifier, known: Provenance | None, written: Sequence[str]) -> str:
    """Writes the card.

    Args:
      classifier: the network.
      known: where it comes from; None if it is not in the folder of a run.
      written: names of the exported files.

    Returns:
      Markdown with YAML front matter. The licence is left to whoever publishes the network.
    """
    parts = [_front_matter(classifier, known, written), _introduction(classifier, known)]
    if known is not None:
        parts += [_figures(known), _training(known)]
    parts += [_input(classifier), _classes(classifier), _usage(classifier, written)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _title(classifier: Classifier, known: Provenance | None) -> str:
    if known is None:
        return classifier.title
    how = "distilled" if _is_distilled(known) else "trained"
    data = known.config["data"]["name"]
    return f"{classifier.title} {how} on {data}" if data else f"{classifier.title} {how}"


def _front_matter(classifier: Classifier, known: Provenance | None, written: Sequence[str]) -> str:
    tags = ["image-classification", "jax", *(["onnx"] if "model.onnx" in written else [])]
    if known is not None and _is_distilled(known):
        tags.insert(1, "knowledge-distillation")
    lines = [
        "---",
        "# license: to be added by whoever publishes these weights",
        "library_name: kdjax",
        "pipeline_tag: image-classification",
        f"tags: {json.dumps(tags)}",
        "metrics: [accuracy]",
    ]
    accuracy = known.result.get("test", {}).get("accuracy") if known else None
    if known is not None and accuracy is not None:
        data = known.config["data"]["name"] or known.config["evaluation"]["name"]
        lines += [
            "model-index:",
            f"- name: {json.dumps(_title(classifier, known))}",
            "  results:",
            "  - task: {type: image-classification}",
            f"    dataset: {json.dumps({'name': data, 'type': data, 'split': 'test'})}",
            f"    metrics: [{{type: accuracy, value: {accuracy:.6f}}}]",
        ]
    return "\n".join([*lines, "---"])


def _introduction(classifier: Classifier, known: Provenance | None) -> str:
    side, colours = classifier.image_size, {1: "grey", 3: "colour"}.get(classifier.channels)
    parameters = networks.count_parameters(classifier.variables)
    text = (
        f"# {_title(classifier, known)}\n\n`{classifier.model}`{_reused(classifier)} with "
        f"{parameters:,} parameters "
        f"classifies {side}x{side} {colours or f'{classifier.channels}-channel'} images into "
        f"{classifier.num_classes} classes. "
    )
    if known is None:
        return f"{text}It was exported by kdjax."
    text += f"It is the network of phase `{known.folder.name}` of a run of kdjax."
    teachers = " and ".join(_teacher(name, folder) for name, folder in known.teachers.items())
    if not teachers:
        return text
    role = "was distilled from" if _is_distilled(known) else "learned on its own, beside"
    return f"{text} It {role} {teachers}."


def _reused(classifier: Classifier) -> str:
    """What the network consists of, if not of its model alone."""
    if classifier.title == classifier.model:
        return ""
    return ", followed by a projector and the classifier of its teacher in place of its own,"


def _is_distilled(known: Provenance) -> bool:
    """Whether a teacher, to which a network may only be compared, has a part in its objective."""
    phase = known.phase
    terms = phase["objective"].items()
    methods = {term.get("method", name) for name, term in terms} - {"cross_entropy"}
    return bool(known.member.teachers and (methods or phase["adversarial"]))


def _teacher(name: str, folder: Path) -> str:
    """A teacher in a few words."""
    described, found = networks.read_description(folder), provenance.read(folder)
    model = described["model"]
    accuracy = found.result.get("test", {}).get("accuracy") if found else None
    reused = " with its own teacher's classifier" if described.get("reused_classifier") else ""
    return f"`{name}`, a `{model}`{reused}" + (
        f" with a test accuracy of {accuracy:.2%}" if accuracy is not None else ""
    )


def _figures(known: Provenance) -> str:
    splits = {
        split: known.result[split]
        for split in ("test", "validation", "train")
        if split in known.result
    }
    if not splits:
        return "## Figures\n\nThese weights have not been evaluated on their own."
    titles = {
        title: key
        for title, key in _FIGURES.items()
        if any(key in figures for figures in splits.values())
    }
    rows = [
        [split, *(_figure(key, figures) for key in titles.values())]
        for split, figures in splits.items()
    ]
    text = _table(["split", *titles], rows)
    text += "\n\nNLL and KL are in nats; ECE is the expected calibration error."
    if "agreement with the teacher" in titles:
        text += " Agreement is the share of images to which both give the same class."
    return f"## Figures\n\n{text}"


def _figure(key: str, figures: Mapping[str, float]) -> str:
    if key not in figures:
        return ""
    return f"{figures[key]:.2%}" if key in _SHARES else f"{figures[key]:.4f}"


def _training(known: Provenance) -> str:
    config, phase, parts = known.config, known.phase, ["## Training"]
    if phase["checkpoint"]:
        parts.append(
            f"The network was not trained by kdjax but loaded from `{phase['checkpoint']}`."
        )
    else:
        data = [f"`{key}` {_shown(config['data'][key])}" for key in _DATA if config["data"][key]]
        parts.append(f"Data: {', '.join(data) or 'none'}.")
        terms = [
            [
                name,
                term.get("method", name),
                _shown(term.get("weight", 1.0)),
                ", ".join(
                    f"{key} {_shown(value)}"
                    for key, value in flat(term)
                    if key not in ("weight", "method")
                ),
            ]
            for name, term in phase["objective"].items()
        ]
        if not phase["adversarial"]:
            parts.append("The objective is the weighted sum of")
            parts.append(_table(["term", "method", "weight", "arguments"], terms))
        keys = dict(flat(phase))
        kept = [key for key in keys if key.startswith("adversarial.")]
        kept += [key for key in _SETTINGS if keys.get(key)]
        if phase["steps"]:
            kept = [key for key in kept if key != "epochs"]
        rows = [[f"`{key}`", f"`{_shown(keys[key])}`"] for key in kept]
        rows.append(["`seed`", f"`{known.member.seed}`"])
        parts.append(_table(["key", "value"], rows))
    command = known.summary.get("command")
    parts.append(
        f"The command was\n\n```bash\n{command}\n```"
        if command
        else "`config.json` has every key of the run."
    )
    versions = known.summary.get("versions", {})
    made = [f"{name} {version}" for name, version in sorted(versions.items())]
    if made:
        parts.append(f"Made with {', '.join(made)}, on {known.summary.get('device', 'a device')}.")
    return "\n\n".join(parts)


def _input(classifier: Classifier) -> str:
    side, c = classifier.image_size, classifier.channels
    resize = classifier.resize or side
    mean, std = (
        ", ".join(f"{value:.6g}" for value in values)
        for values in (classifier.network.mean, classifier.network.std)
    )
    crop = f" The central {side}x{side} pixels of that are used." if resize != side else ""
    return (
        f"## Input\n\nImages are resized to {resize} pixels on their shorter side (bilinear), and "
        f"the central square is taken.{crop} Pixels in [0, 1] are normalised with mean ({mean}) "
        f"and standard deviation ({std}), channel by channel. `model.onnx` and `model.stablehlo` "
        f"take uint8 [b, {side}, {side}, {c}] and normalise them themselves; a PyTorch model takes "
        f"normalised float32 [b, {c}, {side}, {side}]."
    )


def _classes(classifier: Classifier) -> str:
    if not classifier.class_names:
        return ""
    names = ", ".join(f"{i} {name}" for i, name in enumerate(classifier.class_names))
    return f"## Classes\n\n{names}"


def _usage(classifier: Classifier, written: Sequence[str]) -> str:
    side, c = classifier.image_size, classifier.channels
    # What the keys of the state dict belong to.
    implementation = (
        "an implementation with the same names of layers"
        if references.is_reference(classifier.model)
        else f"the PyTorch implementation that kdjax's {classifier.model} follows"
    )
    images = f"images = np.zeros((1, {side}, {side}, {c}), np.uint8)"
    code = {
        "model.onnx": f"""import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
{images}
(logits,) = session.run(None, {{"images": images}})""",
        "model.stablehlo": f"""import jax
import numpy as np
from jax import export

with open("model.stablehlo", "rb") as file:
    program = export.deserialize(bytearray(file.read()))
{images}
logits = jax.jit(program.call)(images)""",
        "model.safetensors": f"""# PyTorch; `model` is {implementation}.
from safetensors.torch import load_file

model.load_state_dict(load_file("model.safetensors"))

# JAX:
import kdjax

classifier = kdjax.load({_reference(classifier, "model.safetensors")})""",
        "model.pth": f"""# PyTorch; `model` is {implementation}.
import torch

model.load_state_dict(torch.load("model.pth"))

# JAX:
import kdjax

classifier = kdjax.load({_reference(classifier, "model.pth")})""",
    }
    blocks = [f"`{name}`:\n\n```python\n{code[name]}\n```" for name in code if name in written]
    return "\n\n".join(["## Use\n\nAll files compute in float32.", *blocks])


def _reference(classifier: Classifier, file: str) -> str:
    """The arguments with which `kdjax.load` loads a state dict."""
    network = classifier.network
    options = f", options={dict(classifier.options)}" if classifier.options else ""
    return (
        f'"{classifier.model}={file}", num_classes={classifier.num_classes}, '
        f"in_channels={classifier.channels}, mean={network.mean}, std={network.std}, "
        f"image_size={classifier.image_size}{options}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
