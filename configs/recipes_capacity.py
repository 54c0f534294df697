"""Recipes of "On the Efficacy of Knowledge Distillation": which network is a good teacher.

    python -m experiments.main --config=configs/recipes.py:capacity[,data=cifar10][,ARGUMENT=VALUE]

Cho & Hariharan 2019 find that a better teacher need not make a better student. Every recipe ends in
the paper's table with its numbers beside ours. Errors are in percent; "KD error" is the share of
images on which the student's class is not the teacher's. Ours is measured on images without
augmentation; whether the paper's is was not found.

- `capacity`: teachers of increasing width or depth (`vary=width|depth`), a student by KD of each,
  and one from scratch. `student=` is any model, and `teachers=` are any, joined by `/`; by default
  they are WRNs that differ from the student in width or depth alone. Students of the paper are
  WRN16-1 (the default but on the digits) and WRN28-1. It says that a higher temperature does not
  help (`temperature=20`). Which depths it has was not found, nor which DenseNets.
- `born_again`: `generations=3` networks of one architecture, `student=`, each by KD of the one
  before, the first from labels alone; as many from scratch, of which the first is the same; and of
  both the ensembles of the first two, three, ... The numbers were not found.
- `chain`: `models=LARGE/MEDIUM/SMALL`, each by KD of the one before, against the small one by KD of
  a medium one from scratch, by KD of the large one, and from scratch. There may be more than one
  in between. The numbers were not found.

Two more, `eskd` and `early_teacher`, are in `configs/recipes_early.py`. All have these arguments:

- `data`: `digits` (default, with small networks), `cifar10`, or anything that `--config.data.name`
  takes.
- `alpha=.9`, `temperature=4`: the loss is (1 - alpha) CE + alpha T^2 KL. Which term has the paper's
  weight of 0.9 is not clear. Its formula has it on the labels (`alpha=.1`), and the code of its
  protocol on KD. So has the default: the CE that the paper prints for a ResNet18, 0.146 at an
  error of 30 %, is about a tenth of what a cross-entropy would be (inferred).

Training is that of Zagoruyko & Komodakis 2017 (AT): SGD at 0.1 without Nesterov's momentum, batches
of 128, weight decay 5e-4, and a fifth of the rate at 60, 120 and 160 of 200 epochs. That the paper
has all of this is inferred from its first drop at 60 of 200. AT pads images by reflection, and we
pad them with zeros. The paper has five seeds: `--config.seeds=0,1,2,3,4`.
"""

import re
from collections.abc import Callable, Collection
from typing import Any

from ml_collections import ConfigDict

from configs import common, protocols, tables
from configs.recipes_survey import kd_terms
from configs.tables import measured
from kdjax.types import UserError

# By name, how a recipe is made, and its own arguments.
Recipes = dict[str, tuple[Callable[[ConfigDict], ConfigDict], dict[str, Any]]]
NOT_FOUND = "The paper's numbers were not found."
# By student and teacher, in percent: the student's error, and KD error on train and test.
_CAPACITY: dict[str, dict[str, tuple[str, str, str]]] = {
    "wrn_16_1": {
        "wrn_16_3": ("7.681", "1.70", "6.32"),
        "wrn_16_4": ("7.733", "1.69", "6.52"),
        "wrn_16_6": ("", "1.94", "6.91"),
        "wrn_16_8": ("8.028", "1.69", "7.01"),
    },
    "wrn_28_1": {
        "wrn_28_3": ("", ".23", "4.05"),
        "wrn_28_4": ("", ".25", "4.53"),
        "wrn_28_6": ("", ".23", "4.54"),
        "wrn_28_8": ("", ".31", "4.81"),
    },
}
_VARIED = {
    # By what varies and whether the data are digits: widths or depths of the teachers.
    "width": {True: (1, 2, 3, 4), False: (1, 2, 3, 4, 6, 8)},
    "depth": {True: (10, 16, 22, 28), False: (16, 22, 28, 34, 40)},
}


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a recipe; `arg` is its name and its arguments."""
    return build(arg, RECIPES)


def build(arg: str | None, recipes: Recipes) -> ConfigDict:
    """The config of one of a family's recipes, with the arguments that all of them have."""
    name = (arg or next(iter(recipes))).split(",")[0].removeprefix("recipe=")
    make, defaults = recipes[name]
    args = common.arguments(arg, recipe=name, data="digits", alpha=0.9, temperature=4.0, **defaults)
    if not 0 < args.alpha <= 1:
        raise UserError(f"alpha is {args.alpha:g}: it is the weight of KD, above 0 and at most 1")
    return make(args)


def base(args: ConfigDict, teacher: str, student: str) -> ConfigDict:
    """A config without phases, by AT's protocol; models that are "" are the default."""
    small = args.data == "digits"
    config = common.base()
    config.teacher.model = teacher or ("wrn_16_2" if small else "wrn_40_2")
    config.student.model = student or ("wrn_10_1" if small else "wrn_16_1")
    protocols.protocol(config, args.data, "" if small else "at")
    return config


def from_scratch(config: ConfigDict, teacher: str) -> ConfigDict:
    """The student from labels alone, whose agreement with a teacher is measured."""
    return common.inherit(config.student, teachers=(teacher,))


def by_kd(layer: ConfigDict, teacher: str, args: ConfigDict, **changes: Any) -> ConfigDict:
    """A phase that learns from another by KD."""
    terms = kd_terms(args.alpha, args.temperature)
    return common.inherit(layer, teachers=(teacher,), objective=terms, **changes)


def check(what: str, given: str, allowed: Collection[str]) -> None:
    """Refuses the value of an argument that is not among those allowed."""
    if given not in allowed:
        raise UserError(f"unknown {what} {given!r}: choose from {', '.join(allowed)}")


def _capacity(args: ConfigDict) -> ConfigDict:
    check("vary", args.vary, _VARIED)
    config = base(args, "", args.student)
    student = config.student.model
    teachers = tuple(filter(None, args.teachers.split("/"))) or _varied(args, student)
    for model in teachers:
        config.phases[f"teacher_{model}"] = common.inherit(config.teacher, model=model)
    config.phases.scratch = from_scratch(config, f"teacher_{teachers[0]}")
    for model in teachers:
        config.phases[f"kd_{model}"] = by_kd(config.student, f"teacher_{model}", args)
    _add_capacity_table(config, student, teachers)
    _add_capacity_figures(config, student, teachers, args.vary)
    return config


def _sizes(model: str) -> dict[str, int]:
    """Depth and width of a wrn; {} of another model."""
    parts = re.fullmatch(r"wrn_(\d+)_(\d+)", model)
    return {"depth": int(parts[1]), "width": int(parts[2])} if parts else {}


def _varied(args: ConfigDict, student: str) -> tuple[str, ...]:
    """The student's architecture in other widths or depths."""
    sizes = _sizes(student)
    if not sizes:
        raise UserError(f"student {student!r} is not a wrn: name its teachers, teachers=A/B/C")
    return tuple(
        "wrn_{depth}_{width}".format(**sizes | {args.vary: size})
        for size in _VARIED[args.vary][args.data == "digits"]
    )


def _add_capacity_table(config: ConfigDict, student: str, teachers: tuple[str, ...]) -> None:
    # The paper's rows for which there is no phase have its numbers alone.
    paper = {student: _CAPACITY[student]} if student in _CAPACITY else _CAPACITY
    pairs = [(student, model) for model in teachers]
    pairs += [(one, model) for one in paper for model in paper[one]]
    rows = []
    for one, model in dict.fromkeys(pairs):
        error, train, test = paper.get(one, {}).get(model, ("", "", ""))
        kd, teacher = f"kd_{model}", f"teacher_{model}"
        here = [
            measured(teacher, "error"), measured(kd, "error"),
            measured(kd, "disagreement", split="train"), measured(kd, "disagreement"),
        ] if one == student else [""] * 4  # fmt: skip
        rows.append([one, model, here[0], error, here[1], train, here[2], test, here[3]])
    rows.append([student, "none", "", "", measured("scratch", "error"), "", "", "", ""])
    tables.add_table(
        config, "paper",
        caption="Figure 2 and Table 2: error of the student and KD error (Cho & Hariharan 2019), "
        "CIFAR-10, in percent, beside ours; where the paper's columns are empty, its numbers were "
        "not found",
        columns=[
            "student", "teacher", "its error, here", "student's error", "here",
            "KD error, train", "here", "KD error, test", "here",
        ],
        rows=rows,
    )  # fmt: skip


def _add_capacity_figures(
    config: ConfigDict, student: str, teachers: tuple[str, ...], vary: str
) -> None:
    x = {model: _sizes(model).get(vary, 0) for model in teachers}
    label = f"{vary} of the teacher"
    printed = _CAPACITY.get(student, {}) if vary == "width" else {}
    if not all(x.values()) or len(set(x.values())) < len(x):
        x = {model: place for place, model in enumerate(teachers, 1)}
        label, printed = "teacher, in the order given", {}
    # The paper's, where its error is known: agreement and accuracy.
    points = {
        model: (1 - float(test) / 100, 1 - float(error) / 100)
        for model, (error, _, test) in printed.items()
        if error
    }
    tables.add_figure(
        config, "capacity", caption=f"{student} by KD of different teachers", x_label=label,
        series={
            "student": {x[model]: measured(f"kd_{model}") for model in teachers},
            "from scratch": {x[model]: measured("scratch") for model in teachers},
            "teacher": {x[model]: measured(f"teacher_{model}") for model in teachers},
            "student, the paper's": {
                _sizes(model)[vary]: accuracy for model, (_, accuracy) in points.items()
            },
        },
    )  # fmt: skip
    tables.add_scatter(
        config, "fidelity", caption=f"{student} by KD, a point for each teacher",
        x_label="agreement with the teacher on test images", y_label="test accuracy",
        series={
            "here": [
                (measured(f"kd_{model}", "agreement"), measured(f"kd_{model}"))
                for model in teachers
            ],
            "the paper's": [*points.values()],
        },
    )  # fmt: skip


def _born_again(args: ConfigDict) -> ConfigDict:
    if args.generations < 2:
        raise UserError(f"generations is {args.generations}: there are at least 2")
    config = base(args, args.student, args.student)
    numbers = range(1, args.generations + 1)
    generations = {number: f"generation_{number}" for number in numbers}
    # The first generation is a network from scratch.
    scratch = {number: f"scratch_{number}" for number in numbers} | {1: "generation_1"}
    config.phases.generation_1 = common.inherit(config.student)
    for number in numbers[1:]:
        # Networks of an ensemble see the images in different orders.
        seed = config.student.get_ref("seed") + number - 1
        config.phases[generations[number]] = by_kd(
            config.student, generations[number - 1], args, seed=seed
        )
        config.phases[scratch[number]] = common.inherit(
            config.student, seed=seed, teachers=("generation_1",)
        )
    ensembles = {"generations": generations, "scratch": scratch}
    for name, networks in ensembles.items():
        for number in numbers[1:]:
            config.phases[f"ensemble_{name}_{number}"] = common.inherit(
                config.student, ensemble=tuple(networks[one] for one in numbers[:number])
            )
    columns = {
        "generation": generations,
        "ensemble of generations": {n: f"ensemble_generations_{n}" for n in numbers},
        "from scratch": scratch,
        "ensemble from scratch": {n: f"ensemble_scratch_{n}" for n in numbers},
    }
    tables.add_table(
        config, "paper",
        caption="Table 5: generations of one network, and ensembles of the first of them (Cho & "
        f"Hariharan 2019), errors in percent. {NOT_FOUND} It says that ensembles of a sequence are "
        "no better than those of networks from scratch.",
        columns=["number", *columns],
        rows=[
            [f"{number}", *(measured(names[number], "error") for names in columns.values())]
            for number in numbers
        ],
    )  # fmt: skip
    tables.add_figure(
        config, "generations", caption=f"Generations of {config.student.model}",
        x_label="generation, or number of networks",
        series={
            label: {number: measured(names[number]) for number in numbers}
            for label, names in columns.items()
        },
    )  # fmt: skip
    return config


def _chain(args: ConfigDict) -> ConfigDict:
    default = ("wrn_16_2", "wrn_10_2", "wrn_10_1") if args.data == "digits" else (
        "wrn_16_8", "wrn_16_3", "wrn_16_1"
    )  # fmt: skip
    models = tuple(filter(None, args.models.split("/"))) or default
    if len(models) < 3:
        raise UserError(f"models is {args.models!r}: a chain has at least 3, joined by /")
    config = base(args, models[0], models[-1])
    config.phases.teacher = common.inherit(config.teacher)
    # Those in between are teachers, too, and learn from as many images.
    before = "teacher"
    for number, model in enumerate(models[1:-1], 1):
        config.phases[f"medium_{number}"] = by_kd(config.teacher, before, args, model=model)
        before = f"medium_{number}"
    config.phases.medium_scratch = common.inherit(config.teacher, model=models[-2])
    config.phases.scratch = from_scratch(config, "teacher")
    rows = {
        "chain": (before, " -> ".join(models)),
        "direct": ("medium_scratch", " -> ".join(models[-2:])),
        "large": ("teacher", f"{models[0]} -> {models[-1]}"),
    }
    for name, (teacher, _) in rows.items():
        config.phases[name] = by_kd(config.student, teacher, args)
    tables.add_table(
        config, "paper",
        caption="Section 4.4: sequences of KD (Cho & Hariharan 2019), errors in percent. "
        f"{NOT_FOUND} It says that \"sequential distillation cannot help make large models better "
        "teachers\".",
        columns=["networks", "phase", "teacher's error", "student's error", "KD error, test"],
        rows=[
            [networks, name, measured(name, "teacher_error"), measured(name, "error"),
             measured(name, "disagreement")]
            for name, (_, networks) in rows.items()
        ] + [[models[-1], "scratch", "", measured("scratch", "error"), ""]],
    )  # fmt: skip
    return config


RECIPES: Recipes = {
    "capacity": (_capacity, dict(vary="width", student="", teachers="")),
    "born_again": (_born_again, dict(generations=3, student="")),
    "chain": (_chain, dict(models="")),
}
