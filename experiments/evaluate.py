"""Evaluates a trained network on any data set and split; compares two networks.

    python -m experiments.evaluate --a=RUN/PHASE [--b=RUN/PHASE] [--data=NAME] [--split=test]

`--a` and `--b` are folders of phases, or PyTorch files as `MODEL=FILE`, which need `--data`.
Prints one JSON object: the metrics of each network and, for two, their `agreement`,
`agreement_top5` (b's class is among the five best of a) and `kl`, which is KL(b || a) in nats:
b is the reference.

A run folder may name a model or data of one's own (`module:name`), which are code. Its module is
imported with `--trust=module`, from the path (the working directory and PYTHONPATH are on it) or
from `--import_from=DIR`.
"""

import ast
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli, own_code
from kdjax import parallel
from kdjax.types import UserError

A = flags.DEFINE_string("a", "", "RUN/PHASE, or MODEL=FILE for a PyTorch file.")
B = flags.DEFINE_string("b", "", "A second network, the reference of the comparison.")
DATA = flags.DEFINE_string("data", None, "Data set; by default that of the run of --a.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder in which tfds keeps its data.")
SPLIT = flags.DEFINE_string("split", "test", "train, validation, test, or a split of tfds.")
_RESIZE = flags.DEFINE_integer("resize", None, "Side of the images; by default the network's.")
_MEAN = flags.DEFINE_list(
    "mean", [], "Mean of a PyTorch file's normalisation; by default measured."
)
_STD = flags.DEFINE_list(
    "std", [], "Deviation of a PyTorch file's normalisation; by default measured."
)
_MODEL_OPTIONS = flags.DEFINE_string(
    "model_options", "{}", "Attributes of a PyTorch file's model, such as \"{'stem': 'imagenet'}\"."
)

if TYPE_CHECKING:
    from experiments.data import PhaseData
    from kdjax.networks import TrainedNetwork

_OWN_SPLITS = ("train", "validation", "test")


def load_data(reference: str) -> "tuple[PhaseData, str, str]":
    """Reads the data that the flags name.

    Args:
      reference: of a network; by default its run says which data.

    Returns:
      The data, the name of the split in it, and the name of the data set.

    Raises:
      UserError: if the flags name no data or no split that can be read.
    """
    from experiments import data as datasets
    from experiments import stored
    from kdjax import networks
    from kdjax.data import sources

    own_code.allow()
    described: dict[str, Any] = {}
    options: dict[str, Any]
    folder = Path(reference)
    if (folder / "network.json").exists():
        described = networks.read_description(folder)
    if DATA.value:
        options = {"name": DATA.value, "dir": DATA_DIR.value}
        options |= {key: described[key] for key in ("resize", "image_size") if key in described}
    elif (folder.parent / "config.json").exists():
        config = stored.config(folder.parent)
        # A run without data may still have been evaluated on some.
        options = config["data"] if config["data"]["name"] else config["evaluation"]
        sources.check_trusted(options["name"])
        options["dir"] = DATA_DIR.value or options["dir"]
        if not options["name"]:
            raise UserError(f"the run of {reference} has no data: set --data")
    else:
        raise UserError(f"{reference} is not a phase of a run: set --data")
    # Evaluation looks at resized images only.
    options["whole"] = False
    if _RESIZE.value is not None:
        options |= {"resize": _RESIZE.value, "image_size": 0}
    split = SPLIT.value
    if split not in _OWN_SPLITS:
        options["test_split"], split = split, "test"
    data = datasets.read(**options)
    if split not in data.splits:
        raise UserError(f"no split {split!r}: choose from {', '.join(data.splits)}")
    return data, split, options["name"]


def load_network(reference: str, data: "PhaseData") -> "TrainedNetwork":
    """Loads the network that a flag names, for the data."""
    from kdjax import networks

    mean, std = ([_number(x) for x in flag.value] for flag in (_MEAN, _STD))
    measured = data.statistics if not (mean and std) and "=" in reference else ([], [])
    return networks.load(
        reference, num_classes=data.num_classes, in_channels=data.channels,
        mean=mean or measured[0], std=std or measured[1], image_size=data.image_size,
        options=_model_options(),
    )  # fmt: skip


def main() -> None:
    """Evaluates what the flags name."""
    from experiments.evaluation import Evaluator, summarize
    from kdjax import networks

    if not A.value:
        raise UserError("--a is missing: give RUN/PHASE, or MODEL=FILE for a PyTorch file")
    data, split, name = load_data(A.value)
    images = data.splits[split]
    devices = parallel.Devices.dividing(len(images))
    result: dict[str, Any] = {"data": name, "split": SPLIT.value, "images": len(images)}
    logits = {}
    for which, reference in (("a", A.value), ("b", B.value)):
        if not reference:
            continue
        trained = load_network(reference, data)
        evaluator = Evaluator(trained.network, data.image_size, devices)
        logits[which] = evaluator.logits(devices.replicate(trained.variables), images)
        model = networks.title(trained.name, trained.network)
        result[which] = {"network": reference, "model": model}
        result[which] |= summarize(logits[which], images.labels)
    if "b" in logits:
        compared = summarize(logits["a"], images.labels, logits["b"])
        result |= {key: compared[key] for key in ("agreement", "agreement_top5", "kl")}
    print(json.dumps(result, indent=2))


def _model_options() -> dict[str, Any]:
    try:
        options = ast.literal_eval(_MODEL_OPTIONS.value)
    except (SyntaxError, ValueError):
        options = None
    if not isinstance(options, dict):
        raise UserError(
            f"--model_options is {_MODEL_OPTIONS.value!r}: it is a dict, such as "
            "{'stem': 'imagenet'}"
        )
    return options


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--mean and --std take numbers, got {text!r}") from None


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
