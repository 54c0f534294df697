"""What students have of their teacher beside its accuracy.

    python -m experiments.properties --teacher=RUN/PHASE --students=RUN/PHASE,RUN/PHASE,...
        --probe=adversarial|color|crop|shift|domains|cam|cka|plane [--data=NAME] [--split=test]
        [--images=N] [--seed=0] [--table]

The probes of "What knowledge gets distilled in knowledge distillation?" (Ojha et al. 2023):

- `adversarial`: images that fool the teacher (iterative FGSM, `--eps`, `--alpha`, `--steps`), and
  the share of these that fool each student.
- `color`, `crop`, `shift`: agreement of each network with itself on an image and the image with
  its colours changed, on two crops of a share of its area, on two copies shifted by pixels;
  `--strengths=.3,.4` says by how much.
- `domains`: consensus of student and teacher, and accuracy, on images of other domains, made of
  the given images or other data sets: `--domains=edges,noise,tfds:mnist`.
- `cam`: cosine of the Grad-CAMs of student and teacher, and with `--independent=RUN/PHASE` the
  share of images on which it is larger than that student's.
- `cka`: centered kernel alignment of all layers (`--kernel=linear|rbf`, `--features=flat|mean`).
- `plane`: share of equal decisions on planes through three images (`--triplets`, `--grid`).

Networks, data and splits are named as for `experiments.evaluate`; the data are by default those of
the teacher's run. `--images` are a random choice that depends on `--seed` alone: by default 5,000,
the paper's number, or all if there are fewer, and 100 for `cka`.

Prints one JSON object. With `--table`, a table on stderr: the paper's, if the students' run has one
(`configs/recipes.py:properties`), with means and deviations over the members of a phase.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli, evaluate
from kdjax.types import UserError

if TYPE_CHECKING:
    import numpy as np

    from experiments.data import PhaseData, PhaseSplit
    from experiments.probing import Images, Subject

PROBES = ("adversarial", "color", "crop", "shift", "domains", "cam", "cka", "plane")
_TEACHER = flags.DEFINE_string("teacher", "", "RUN/PHASE, or MODEL=FILE for a PyTorch file.")
_STUDENTS = flags.DEFINE_list("students", [], "The students, in the same form.")
_PROBE = flags.DEFINE_string("probe", "", f"One of {', '.join(PROBES)}.")
_IMAGES = flags.DEFINE_integer("images", 0, "At most so many images; 0 is the probe's default.")
_SEED = flags.DEFINE_integer("seed", 0, "Of all random choices.")
_TABLE = flags.DEFINE_bool("table", False, "Print a table on stderr as well.")
_EPS = flags.DEFINE_float("eps", 8 / 255, "Largest change of a pixel (adversarial).")
_ALPHA = flags.DEFINE_float("alpha", 2 / 255, "Size of a step (adversarial).")
_STEPS = flags.DEFINE_integer("steps", 5, "Steps (adversarial).")
_STRENGTHS = flags.DEFINE_string(
    "strengths", "", "Of color and crop (default .3,.4,.5,.6) and of shift (1,2,3,4 pixels)."
)
_DOMAINS = flags.DEFINE_list("domains", [], "Made domains and data sets; all that are made.")
_INDEPENDENT = flags.DEFINE_string("independent", "", "Another student, not of the teacher (cam).")
_KERNEL = flags.DEFINE_string("kernel", "linear", "linear or rbf (cka).")
_FEATURES = flags.DEFINE_string("features", "flat", "flat, or mean over positions (cka).")
_TRIPLETS = flags.DEFINE_integer("triplets", 50, "Planes (plane).")
_GRID = flags.DEFINE_integer("grid", 50, "Points of a plane along each axis (plane).")


def main() -> None:
    """Measures the networks that the flags name."""
    _check_flags()
    from experiments import probing

    data, split, name = evaluate.load_data(_TEACHER.value)
    images = _images(data, split)
    teacher, *students = (
        probing.Subject.of(evaluate.load_network(reference, data))
        for reference in (_TEACHER.value, *_STUDENTS.value)
    )
    settings, figures, found = _measure(teacher, students, images, data)
    result: dict[str, Any] = {
        "probe": _PROBE.value,
        "data": name,
        "split": evaluate.SPLIT.value,
        "images": len(images.labels),
        "seed": _SEED.value,
        **settings,
        "teacher": {"network": _TEACHER.value, "model": teacher.trained.name, **figures},
        "students": [
            {"network": reference, "model": student.trained.name, **one}
            for reference, student, one in zip(_STUDENTS.value, students, found, strict=True)
        ],
    }
    print(json.dumps(result, indent=2))
    if _TABLE.value:
        _show(result)


def _check_flags() -> None:
    """Raises UserError on flags that no network is needed for to refuse."""
    if not _TEACHER.value or not _STUDENTS.value or not all(_STUDENTS.value):
        raise UserError(
            "--teacher=RUN/PHASE and --students=RUN/PHASE,... are needed, or MODEL=FILE for "
            "PyTorch files"
        )
    for flag, allowed in (
        (_PROBE, PROBES),
        (_KERNEL, ("linear", "rbf")),
        (_FEATURES, ("flat", "mean")),
    ):
        if flag.value not in allowed:
            raise UserError(f"--{flag.name} is {flag.value!r}: choose from {', '.join(allowed)}")
    for number, least in ((_IMAGES, 0), (_SEED, 0), (_STEPS, 1), (_TRIPLETS, 1), (_GRID, 2)):
        if number.value < least:
            raise UserError(f"--{number.name} is {number.value}: it is at least {least}")
    for size in (_EPS, _ALPHA):
        if not 0 <= size.value <= 1:
            raise UserError(f"--{size.name} is {size.value}: pixels are in [0, 1]")


def _images(data: "PhaseData", split: str) -> "Images":
    """The images that the flags ask for."""
    from experiments import probing

    positions, pixels = _choose(data.splits[split], data.image_size)
    labels = data.splits[split].labels[positions]
    if _PROBE.value in ("adversarial", "cam") and (labels < 0).any():
        raise UserError(f"--probe={_PROBE.value} needs labels, which some images do not have")
    return probing.Images.at(positions, pixels, labels, _SEED.value)


def _choose(split: "PhaseSplit", size: int) -> "tuple[np.ndarray, np.ndarray]":
    """Positions [n] of a random choice of images, and what networks see of these."""
    import jax.numpy as jnp
    import numpy as np

    from kdjax.data import views

    count = _IMAGES.value or (100 if _PROBE.value == "cka" else 5000)
    positions = np.sort(np.random.default_rng(_SEED.value).permutation(len(split))[:count])
    images = jnp.asarray(split.split.images[positions])
    return positions, np.asarray(views.evaluation_view(images, size))


def _measure(
    teacher: "Subject", students: "Sequence[Subject]", images: "Images", data: "PhaseData"
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """The probe's settings, and the figures of the teacher and of each student."""
    from experiments import probing

    match _PROBE.value:
        case "adversarial":
            attack: Any = {"eps": _EPS.value, "alpha": _ALPHA.value, "steps": _STEPS.value}
            return attack, *probing.adversarial(teacher, students, images, **attack)
        case "color" | "crop" | "shift" as view:
            strengths = _STRENGTHS.value or ("1,2,3,4" if view == "shift" else ".3,.4,.5,.6")
            return {}, *probing.self_agreement(
                teacher, students, images, view=view, strengths=strengths
            )
        case "domains":
            made, others = _domains(data)
            return {}, *probing.domains(teacher, students, images, made=made, others=others)
        case "cam":
            independent = None
            if _INDEPENDENT.value:
                trained = evaluate.load_network(_INDEPENDENT.value, data)
                independent = probing.Subject.of(trained)
            return {"independent": _INDEPENDENT.value}, *probing.cam(
                teacher, students, images, independent=independent
            )
        case "cka":
            kernel = {"kernel": _KERNEL.value, "features": _FEATURES.value}
            return kernel, *probing.cka(teacher, students, images, **kernel)
        case _:
            planes = {"triplets": _TRIPLETS.value, "grid": _GRID.value}
            return planes, *probing.plane(teacher, students, images, **planes)


def _domains(data: "PhaseData") -> "tuple[list[str], dict[str, Images]]":
    """The domains that are made, and images of the data sets, as the networks take them."""
    import numpy as np

    from experiments import data as datasets
    from experiments import probing
    from kdjax import probes
    from kdjax.data import sources

    given = _DOMAINS.value or list(probes.DOMAINS)
    made = [name for name in given if name in probes.DOMAINS]
    others: dict[str, probing.Images] = {}
    for name in given:
        if name in made:
            continue
        if ":" not in name and name != "digits":
            raise UserError(
                f"unknown domain {name!r}: choose from {', '.join(probes.DOMAINS)}, or a data set "
                f"({sources.KINDS})"
            )
        found = datasets.read(
            name,
            dir=evaluate.DATA_DIR.value,
            resize=data.resize or data.image_size,
            image_size=data.image_size,
        )
        chosen, pixels = _choose(found.splits["test"], data.image_size)
        if pixels.shape[-1] == 1:
            pixels = np.repeat(pixels, data.channels, axis=-1)
        if pixels.shape[-1] != data.channels:
            raise UserError(f"{name!r} has coloured images, which the networks do not take")
        labels = found.splits["test"].labels[chosen]
        if found.num_classes != data.num_classes:
            labels = np.full_like(labels, -1)
        others[name] = probing.Images.at(chosen, pixels, labels, _SEED.value)
    return made, others


def _show(result: Mapping[str, Any]) -> None:
    """Prints the paper's tables of the students' run, or the figures, on stderr."""
    from experiments import report, stored

    run = Path(result["students"][0]["network"]).parent
    tables = []
    if (run / "config.json").exists() and (run / "summary.json").exists():
        members = stored.summary(run)["phases"]
        measured = {}
        for one in (result["teacher"], *result["students"]):
            folder = Path(one["network"])
            if folder.parent == run and folder.name in members:
                phase = members[folder.name]["phase"]
                measured[folder.name] = {"phase": phase, result["probe"]: one}
        described = stored.config(run)["report"]
        tables = report.probe_tables(result["probe"], measured, described)
    if not tables:
        figures = [_flat(one) for one in (result["teacher"], *result["students"])]
        headings = list(dict.fromkeys(name for one in figures for name in one))
        rows = [[str(one.get(name, "")) for name in headings] for one in figures]
        tables = [report.Cells(result["probe"], headings, rows)]
    report.show_tables(tables, cli.Console(stderr=True))


def _flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested figures by joined names, without matrices."""
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name} ")
        elif not isinstance(value, list):
            flat[prefix + name] = value
    return flat


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
