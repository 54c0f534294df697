"""Recipes of "On the Efficacy of Knowledge Distillation": KD and teachers that stop early.

    python -m experiments.main --config=configs/recipes.py:eskd[,data=cifar10][,ARGUMENT=VALUE]

Cho & Hariharan 2019 recommend short distillation from an early-stopped teacher. `teacher=` and
`student=` are any models; `data`, `alpha`, `temperature`, the protocol and what "KD error" means
are described in `configs/recipes_capacity.py`.

- `eskd`: early-stopped KD. `stops=.25/.5/.75` are shares of the schedule at which KD ends. The
  student goes on by cross-entropy alone, with a weight of 1; optimiser and place in the schedule
  are carried over, and the teacher is not run any more. There is a student for each share of
  `teacher`, and one of `teacher_early`, which is the paper's recommendation: it has learned for
  `early=.25` of the epochs, with a schedule as much shorter (`early=0` leaves it out). The paper's
  numbers are for ImageNet. When its KD stops, and its settings there, were not found.
- `early_teacher`: a student by KD of each of several teachers, `epochs=20/35/50/...`. With
  `source=short` each has a schedule of its own that is annealed to its end, as in the paper; with
  `source=checkpoint` they are networks of one run, kept on its way. `stop=.5` adds students by
  early-stopped KD. The paper names lengths of 35 and 50 out of 200, and large teachers such as
  WRN16-8 (`teacher=wrn_16_8`). Its numbers were not found.
"""

import math

from ml_collections import ConfigDict

from configs import common, tables
from configs.recipes_capacity import NOT_FOUND, Recipes, base, build, by_kd, check, from_scratch
from configs.tables import measured
from kdjax.types import UserError

# A ResNet18 on ImageNet, as printed. Teacher and its error; error by full and by early-stopped KD;
# and for full -> early-stopped KD the CE on train, and the KD on train and on test.
_ESKD = [
    ["ResNet18", "30.24", "30.57", "29.01", ".146 -> .123", "2.916 -> 2.234", "3.358 -> 2.491"],
    ["ResNet34", "26.70", "30.79", "29.16", ".145 -> .123", "1.357 -> 2.359", "1.503 -> 2.582"],
    ["ResNet50", "23.85", "30.95", "29.35", ".146 -> .124", "1.553 -> 2.659", "1.721 -> 2.940"],
    ["ResNet152", "", "", "29.45", "", "", ""],
]


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a recipe; `arg` is its name and its arguments."""
    return build(arg, RECIPES)


def _numbers(what: str, given: str) -> tuple[float, ...]:
    """The positive numbers of an argument such as `1/2.5`, in ascending order."""
    try:
        numbers = {float(number) for number in given.split("/")}
    except ValueError:
        numbers = set()
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise UserError(f"{what} is {given!r}: it is positive numbers, joined by /")
    return tuple(sorted(numbers))


def _named(prefix: str, number: float) -> str:
    """A phase's name with a number, such as `kd_0_5`; names have no dots."""
    return f"{prefix}_{number:g}".replace(".", "_")


def add_eskd(config: ConfigDict, name: str, teacher: str, stop: float, args: ConfigDict) -> None:
    """Adds a student by KD, `NAME_kd`, that goes on as `NAME` by labels alone.

    Args:
      config: with a phase for the teacher.
      name: of the phase.
      teacher: name of its phase.
      stop: share of the student's epochs after which KD ends, between 0 and 1.
      args: with `alpha` and `temperature`.

    Raises:
      UserError: if `stop` is no such share.
    """
    if not 0 < stop < 1:
        raise UserError(f"KD stops at {stop:g} of the schedule: a stop is between 0 and 1")
    epochs = config.student.get_ref("epochs")
    # Both are parts of one schedule, which is laid out over all epochs.
    schedule = {"horizon": config.student.get_oneway_ref("epochs")}
    config.phases[f"{name}_kd"] = by_kd(
        config.student, teacher, args, epochs=epochs * stop, schedule=schedule
    )
    config.phases[name] = common.inherit(
        config.student, continue_from=f"{name}_kd", compared_with=(teacher,),
        epochs=epochs * (1 - stop), schedule=schedule,
    )  # fmt: skip


def _eskd(args: ConfigDict) -> ConfigDict:
    stops = _numbers("stops", args.stops)
    if not 0 <= args.early < 1:
        raise UserError(f"early is {args.early:g}: it is a share of the epochs, below 1")
    config = base(args, args.teacher, args.student)
    config.phases.teacher = common.inherit(config.teacher)
    taught = {"teacher": ""}
    if args.early:
        # Its schedule is as much shorter: the rate is annealed to its end.
        config.phases.teacher_early = common.inherit(
            config.teacher, epochs=config.teacher.get_ref("epochs") * args.early
        )
        taught["teacher_early"] = "_early"
    config.phases.scratch = from_scratch(config, "teacher")
    for teacher, suffix in taught.items():
        config.phases[f"kd{suffix}"] = by_kd(config.student, teacher, args)
        for stop in stops:
            add_eskd(config, _named(f"eskd{suffix}", 100 * stop), teacher, stop, args)
    _add_eskd_table(config, stops, taught)
    series = {
        f"of {teacher}": {
            stop: measured(_named(f"eskd{suffix}", 100 * stop)) for stop in stops
        } | {0.0: measured("scratch"), 1.0: measured(f"kd{suffix}")}
        for teacher, suffix in taught.items()
    }  # fmt: skip
    tables.add_figure(
        config, "stop", caption="Early-stopped KD, from labels alone (0) to full KD (1)",
        x_label="share of the schedule with KD", series=series,
    )  # fmt: skip
    return config


def _add_eskd_table(config: ConfigDict, stops: tuple[float, ...], taught: dict[str, str]) -> None:
    rows = [[row[0], "", row[1], "30.24", *row[2:]] for row in _ESKD]
    for teacher, suffix in taught.items():
        full = f"kd{suffix}"
        for stop in stops:
            early = _named(f"eskd{suffix}", 100 * stop)
            nll = [measured(one, "nll", ".3f", "train") for one in (full, early)]
            # The student that goes on has no teacher any more, and is compared with it.
            kl = [
                [measured(full, "kl", ".4f", split),
                 measured(early, f"kl_from_{teacher}", ".4f", split)]
                for split in ("train", "test")
            ]  # fmt: skip
            rows.append(
                [
                    f"{config.teacher.model}, {teacher}", f"{100 * stop:g} %",
                    *(measured(one, "error") for one in (teacher, "scratch", full, early)),
                    *(" -> ".join(pair) for pair in (nll, *kl)),
                ]
            )  # fmt: skip
    tables.add_table(
        config, "paper",
        caption="Tables 1 and 3: a ResNet18 on ImageNet, error in percent (Cho & Hariharan 2019), "
        "above ours. CE and KD are losses, for full -> early-stopped KD. The paper's CE looks "
        "multiplied by its weight of 0.1 (inferred), and how its KD is scaled was not found; ours "
        "are NLL and the KL from the teacher at T = 1. When the paper's KD stops was not found, "
        "nor were the other numbers of ResNet152.",
        columns=[
            "teacher", "KD until", "its error", "student from scratch", "full KD",
            "early-stopped KD", "CE, train", "KD, train", "KD, test",
        ],
        rows=rows,
    )  # fmt: skip


def _early_teacher(args: ConfigDict) -> ConfigDict:
    check("source", args.source, ("short", "checkpoint"))
    default = "1/2/4/8/15" if args.data == "digits" else "20/35/50/65/80/100/150/200"
    lengths = _numbers("epochs", args.epochs or default)
    config = base(args, args.teacher, args.student)
    if args.source == "short":
        teachers = {length: _named("teacher", length) for length in lengths}
        for length, name in teachers.items():
            config.phases[name] = common.inherit(config.teacher, epochs=length)
    else:
        config.phases.teacher = common.inherit(
            config.teacher, epochs=lengths[-1], keep=lengths[:-1]
        )
        teachers = {length: f"teacher@{length:g}" for length in lengths[:-1]}
        teachers[lengths[-1]] = "teacher"
    config.phases.scratch = from_scratch(config, teachers[lengths[-1]])
    for length, teacher in teachers.items():
        config.phases[_named("kd", length)] = by_kd(config.student, teacher, args)
        if args.stop:
            add_eskd(config, _named("eskd", length), teacher, args.stop, args)
    kd, eskd = ({length: _named(name, length) for length in lengths} for name in ("kd", "eskd"))
    tables.add_table(
        config, "paper",
        caption="Section 4.5: early-stopped teachers (Cho & Hariharan 2019), errors in percent. "
        f"{NOT_FOUND} It says that \"all early-stopped teachers produce better students than the "
        "optimal fully-trained teacher\".",
        columns=[
            "teacher", "epochs", "its error", "student's error", "KD error, train",
            "KD error, test", "student by early-stopped KD",
        ],
        rows=[
            [config.teacher.model, f"{length:g}", measured(kd[length], "teacher_error"),
             measured(kd[length], "error"), measured(kd[length], "disagreement", split="train"),
             measured(kd[length], "disagreement"), measured(eskd[length], "error")]
            for length in lengths
        ] + [["none", "", "", measured("scratch", "error"), "", "", ""]],
    )  # fmt: skip
    tables.add_figure(
        config, "length", caption=f"Teachers of different lengths ({args.source})",
        x_label="epochs of the teacher",
        series={
            "student": {length: measured(kd[length]) for length in lengths},
            "student by early-stopped KD": {length: measured(eskd[length]) for length in lengths},
            "from scratch": {length: measured("scratch") for length in lengths},
            "teacher": {length: measured(kd[length], "teacher_accuracy") for length in lengths},
        },
    )  # fmt: skip
    return config


RECIPES: Recipes = {
    "eskd": (_eskd, dict(stops=".25/.5/.75", early=0.25, teacher="", student="")),
    "early_teacher": (
        _early_teacher, dict(source="short", epochs="", stop=0.0, teacher="", student="")
    ),
}  # fmt: skip
