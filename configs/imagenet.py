"""ImageNet: resnet34 to resnet18 and resnet50 to mobilenetv1, as published and here.

    python -m experiments.main --config=configs/imagenet.py[:pair=resnet50/mobilenetv1] \\
        --config.data.dir=DIR --config.phases.teacher.checkpoint=resnet50.pth

DIR holds `imagenet2012` as prepared by tensorflow-datasets; `data=folder:/data/imagenet` reads
`train/CLASS/*.jpg` and `val/CLASS/*.jpg` instead. The papers' teachers are torchvision's first
weights (IMAGENET1K_V1). Without a checkpoint the teacher is trained as the students are. The
student is trained from scratch, too (`scratch=0` leaves it out), and `methods=kd/crd` has these
rows alone.

All train for 100 epochs by SGD with momentum 0.9 and weight decay 1e-4 of all parameters, and
divide the learning rate by ten after 30, 60 and 90. It is 0.1 for 256 images a step, and where
mdistiller has 512 images, 0.2. Images are crops of 8 to 100 % of the whole image at 224 pixels,
mirrored at random; networks are evaluated on the central 224 of 256 pixels. Where the sources of a
method's weights differ:

- `kd`: mdistiller's, T = 1, half of each loss, 512 images. RepDistiller has no ImageNet code.
- `at`: mdistiller's, weight 1000 as on CIFAR, 512 images.
- `ofd`: its authors', weight 1e-4, margins from the teacher's batch norms, 256 images
  (clovaai/overhaul-distillation). mdistiller has 128 images and 0.05, and leaves out the first
  stage.
- `crd`: mdistiller's, weight 0.8, 16,384 negatives, 256 images. The banks take 1.3 GB.
- `review`: ReviewKD's (dvlab-research/ReviewKD, ImageNet), without the warm-up of CIFAR: weight 1
  for resnet18 with fusions of 512 channels and 8 for mobilenetv1 with 256, both networks' maps
  before their activations. mdistiller names 256 channels and does not use them.
- `dkd`: mdistiller's, T = 1, beta 0.5 for resnet18 and 2 for mobilenetv1, 512 images. Its warm-up
  of one epoch has no effect there, as epochs count from 1.
- `dist`: T = 1, weight 2 for both of its losses together, 256 images (hunto/DIST_KD).
- `nkd`: gamma 1.5, T = 1 (yzd-v/cls_KD).

Crops here are bilinear without anti-aliasing, where torchvision's have it. `dtype`, batch and
memory: results/gpu_programs.md. Nothing of this has been run on ImageNet here: it needs a GPU and
the data. `--config.debug=True` makes two steps on generated images of this size.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import common
from configs.tables import add_table, measured
from kdjax.types import UserError

Pair = tuple[str, str]

_RESNET: Pair = ("resnet34", "resnet18")
_MOBILENET: Pair = ("resnet50", "mobilenetv1")
PAIRS = (_RESNET, _MOBILENET)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EPOCHS = 100.0
# The last batch norm of each stage, before its activation.
_NORMS = {
    "resnet34": ("layer1_2_bn2", "layer2_3_bn2", "layer3_5_bn2", "layer4_2_bn2"),
    "resnet50": ("layer1_2_bn3", "layer2_3_bn3", "layer3_5_bn3", "layer4_2_bn3"),
}


class Row(NamedTuple):
    """A row of the table.

    Attributes:
      label: as the table prints it.
      accuracies: as published, in percent, in the order of `PAIRS`; "" where none was found.
      objective: of the student, for the first pair.
      terms: changes to the method's term, by pair.
      times: 256 images in a step, and 0.1 of the learning rate.
    """

    label: str
    accuracies: tuple[str, str]
    objective: Mapping[str, Mapping[str, Any]]
    terms: Mapping[Pair, Mapping[str, Any]] = {}
    times: int = 1


_LABELS = {"cross_entropy": {"weight": 1.0}}
_NETWORKS = {"teacher": ("73.31", "76.16"), "student": ("69.76", "68.87")}
# Accuracies as the README of TTM lists them (zkxufo/TTM); OFD's is of its authors' README.
ROWS = {
    "kd": Row(
        "KD", ("70.66", "70.50"),
        {"cross_entropy": {"weight": 0.5}, "kd": {"weight": 0.5, "temperature": 1.0}}, times=2,
    ),
    "at": Row("AT", ("", ""), {**_LABELS, "at": {"weight": 1000.0}}, times=2),
    "ofd": Row(
        "OFD", ("", "71.25"), {**_LABELS, "ofd": {"weight": 1e-4}},
        {pair: {"norms": _NORMS[pair[0]]} for pair in PAIRS},
    ),
    "crd": Row("CRD", ("71.17", "71.37"), {**_LABELS, "crd": {"weight": 0.8}}),
    "review": Row(
        "Knowledge review", ("71.61", "72.56"),
        {**_LABELS, "review": {"weight": 1.0, "preactivation": "both"}},
        {_MOBILENET: {"weight": 8.0, "mid_channels": 256}},
    ),
    "dkd": Row(
        "DKD", ("71.70", "72.05"),
        {**_LABELS, "dkd": {"weight": 1.0, "beta": 0.5, "temperature": 1.0}},
        {_MOBILENET: {"beta": 2.0}}, times=2,
    ),
    "dist": Row(
        "DIST", ("72.07", "73.24"), {**_LABELS, "dist": {"weight": 2.0, "temperature": 1.0}}
    ),
    "nkd": Row(
        "NKD", ("71.96", "72.58"),
        {**_LABELS, "nkd": {"weight": 1.0, "gamma": 1.5, "temperature": 1.0}},
    ),
}  # fmt: skip


def get_config(arg: str | None = None) -> ConfigDict:
    args = common.arguments(
        arg, pair="/".join(_RESNET), methods="all", data="tfds:imagenet2012", scratch=1
    )
    pair = tuple(args.pair.split("/"))
    if pair not in PAIRS:
        raise UserError(
            f"unknown pair {args.pair!r}: choose from {', '.join(map('/'.join, PAIRS))}"
        )
    chosen = list(ROWS) if args.methods == "all" else args.methods.split("/")
    if unknown := [name for name in chosen if name not in ROWS]:
        raise UserError(f"unknown method {unknown[0]!r}: choose from {', '.join(ROWS)}")
    config = common.base()
    _set_training(config, pair, args.data)
    config.phases.teacher = common.inherit(config.teacher)
    if args.scratch:
        config.phases.scratch = common.inherit(config.student, teachers=("teacher",))
    for name in chosen:
        _add(config, name, pair)
    _add_table(config, pair, chosen)
    return config


def _set_training(config: ConfigDict, pair: Pair, data: str) -> None:
    """Sets the data, the views and the schedule that all phases have."""
    config.data.update(name=data, resize=256, image_size=224, whole=True)
    config.data.test_split = "val" if data.startswith("folder:") else "validation"
    # Images come from the host: more of a call would be in the device's memory at once.
    config.steps_per_call = 1
    for layer, model in zip((config.teacher, config.student), pair, strict=True):
        layer.model = model
        if model.startswith("resnet"):
            layer.model_options = ConfigDict({"stem": "imagenet"})
    config.train.update(epochs=_EPOCHS, batch_size=256, mean=_MEAN, std=_STD)
    config.train.optimizer.update(learning_rate=0.1, weight_decay=1e-4)
    config.train.schedule.update(name="step", boundaries=(0.3, 0.6, 0.9), unit="fraction")
    config.train.augment.update(crop="inception", scale=(0.08, 1.0))
    config.eval_every = 5.0


def _add(config: ConfigDict, name: str, pair: Pair) -> None:
    """Adds the student of a row, a phase with the row's name."""
    row = ROWS[name]
    objective = {term: dict(arguments) for term, arguments in row.objective.items()}
    objective[name].update(row.terms.get(pair, {}))
    phase = common.inherit(config.student, teachers=("teacher",), objective=objective)
    if row.times != 1:
        phase.batch_size = config.student.get_ref("batch_size") * row.times
        rate = config.student.optimizer.get_ref("learning_rate")
        phase.optimizer.learning_rate = rate * row.times
    config.phases[name] = phase


def _add_table(config: ConfigDict, pair: Pair, chosen: list[str]) -> None:
    column = PAIRS.index(pair)
    rows = [
        ["Teacher", _NETWORKS["teacher"][column], measured("teacher")],
        ["Student", _NETWORKS["student"][column], measured("scratch")],
        *([ROWS[name].label, ROWS[name].accuracies[column], measured(name)] for name in chosen),
    ]
    add_table(
        config,
        "imagenet",
        caption=(
            f"Published top-1 accuracies on ImageNet in percent, {pair[0]} to {pair[1]}, with ours "
            "beside them. Those of a paper's own method are by its own code; ours are of the last "
            "epoch."
        ),
        columns=["Method", "published", "here"],
        rows=rows,
    )
