"""The recipe of each method: usual weight and arguments, and a first phase where it has one."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import common
from kdjax.types import UserError

Term = dict[str, Any]


class FirstPhase(NamedTuple):
    """A phase that a method trains alone, before the student learns from the labels.

    Attributes:
      term: the objective of that phase.
      then: changes to the method's term in the second phase; None if that phase learns
        from the labels without the method.
      hands_on: what the second phase is initialised with, `init_from` (the student) or
        `init_methods_from` (the methods' variables).
      learning_rate_divisor: by which the learning rate is smaller in that phase; a function of
        the student's name where it depends on the student.
    """

    term: Term
    then: Term | None
    hands_on: str
    learning_rate_divisor: float | Callable[[str], float] = 1.0

    def divisor(self, student: str) -> float:
        """The divisor of the learning rate for a student's model."""
        given = self.learning_rate_divisor
        return given(student) if callable(given) else given


class Recipe(NamedTuple):
    """How a method is usually used.

    Attributes:
      weight: beside cross-entropy at 1.
      schedule: that the weight is multiplied by.
      arguments: of the method; a function of the names of teacher and student where they
        depend on the pair.
      first: the method's first phase.
      alone: the whole objective if the method is the only one, by protocol; "" is the
        default.
      views: further views of each image in a step, by name, as `extra_views` of a phase.
    """

    weight: float = 1.0
    schedule: Term | None = None
    arguments: Term | Callable[[str, str], Term] = {}  # noqa: RUF012
    first: FirstPhase | None = None
    alone: dict[str, dict[str, Term]] = {}  # noqa: RUF012
    views: dict[str, Term] = {}  # noqa: RUF012

    def term(self, teacher: str, student: str) -> Term:
        """The method's term of an objective, for a pair of models."""
        term: Term = {"weight": self.weight}
        if self.schedule:
            term["schedule"] = dict(self.schedule)
        given = self.arguments
        return term | (given if isinstance(given, dict) else given(teacher, student))


# Knowledge review by (teacher, student), as Tables 1 and 2 of its reproduction print it
# (Verma et al. 2022). The 0.7 is 0.6 in its text and in Chen et al.'s script.
REVIEW_WEIGHTS = {
    ("resnet56", "resnet20"): 0.7,
    ("resnet110", "resnet32"): 1.0,
    ("resnet32x4", "resnet8x4"): 5.0,
    ("wrn_40_2", "wrn_16_2"): 5.0,
    ("wrn_40_2", "wrn_40_1"): 5.0,
    ("resnet32x4", "shufflenetv1"): 5.0,
    ("wrn_40_2", "shufflenetv1"): 5.0,
    ("resnet32x4", "shufflenetv2"): 8.0,
}


def _review_weight(teacher: str, student: str) -> Term:
    return {"weight": REVIEW_WEIGHTS.get((teacher, student), 1.0)}


# CAT-KD by (teacher, student), from its authors' configs: weight, side of the pooled maps, and
# whether these are normalised.
CAT_ARGUMENTS: dict[tuple[str, str], tuple[float, int, bool]] = {
    ("resnet56", "resnet20"): (0.7, 2, False),
    ("resnet110", "resnet32"): (1.8, 2, False),
    ("resnet32x4", "resnet8x4"): (15.0, 2, False),
    ("wrn_40_2", "wrn_16_2"): (12.0, 2, False),
    ("wrn_40_2", "wrn_40_1"): (1.5, 2, False),
    ("vgg13", "vgg8"): (4.5, 2, False),
    ("vgg13", "mobilenetv2_half"): (15.0, 2, True),
    ("resnet50", "mobilenetv2_half"): (40.0, 2, True),
    ("wrn_40_2", "shufflenetv1"): (80.0, 4, True),
    ("resnet32x4", "shufflenetv1"): (600.0, 4, True),
    ("resnet32x4", "shufflenetv2"): (600.0, 4, True),
}


def _class_attention(teacher: str, student: str) -> Term:
    """The authors' choice; their smallest weight for pairs that they do not have."""
    weight, size, normalize = CAT_ARGUMENTS.get((teacher, student), (0.7, 2, False))
    return {"weight": weight, "size": size, "normalize": normalize}


def _dkd_beta(teacher: str, student: str) -> Term:
    """mdistiller's choice: the more confident the teacher, the larger."""
    if (teacher, student) in (("resnet56", "resnet20"), ("resnet110", "resnet32")):
        return {"beta": 2.0}
    if teacher.startswith("vgg") and student.startswith("mobilenetv2"):
        return {"beta": 6.0}
    if all(model.startswith(("wrn", "vgg")) for model in (teacher, student)):
        return {"beta": 6.0}
    return {"beta": 8.0}


def _paraphraser_divisor(student: str) -> float:
    """RepDistiller's 0.01 beside 0.05 for ResNets and Wide ResNets, the student's rate otherwise.

    That is 0.05 for VGG, and 0.01 for ShuffleNets and MobileNets.
    """
    return 5.0 if student.startswith(("resnet", "wrn")) else 1.0


def _kd_alone(labels: float, weight: float, temperature: float) -> dict[str, Term]:
    return {
        "cross_entropy": {"weight": labels},
        "kd": {"weight": weight, "temperature": temperature},
    }


def _warmup(**more: Any) -> Term:
    """A linear rise over the first twelfth of the run: 20 of 240 epochs."""
    return {"name": "constant", "warmup": 1 / 12, "unit": "fraction", **more}


# CTKD's lambda: half a cosine over a 24th of the run, 10 of 240 epochs.
_REVERSAL = {
    "name": "constant", "warmup": 1 / 24, "unit": "fraction", "rise": "cosine", "of": "reversal",
}  # fmt: skip


# Weights and arguments are RepDistiller's; those of DKD and OFD are mdistiller's, those of
# SFD the survey's, those of knowledge review Chen et al.'s, and those of methods since 2022 their
# authors'.
RECIPES = {
    "kd": Recipe(
        1.0,
        arguments={"temperature": 4.0},
        alone={"": _kd_alone(0.1, 0.9, 4.0), "survey": _kd_alone(0.5, 0.5, 5.0)},
    ),
    "fitnet": Recipe(100.0),
    "at": Recipe(1000.0),
    "sp": Recipe(3000.0),
    "cc": Recipe(0.02),
    "pkt": Recipe(30000.0),
    "rkd": Recipe(1.0),
    "crd": Recipe(0.8),
    "vid": Recipe(1.0),
    "nst": Recipe(50.0),
    "fsp": Recipe(1.0, first=FirstPhase({"weight": 1.0}, None, "init_from")),
    "ft": Recipe(
        200.0,
        first=FirstPhase(
            {"weight": 1.0, "stage": "paraphraser"},
            {"stage": "translator"},
            "init_methods_from",
            learning_rate_divisor=_paraphraser_divisor,
        ),
    ),
    "ab": Recipe(1.0, first=FirstPhase({"weight": 1.0}, None, "init_from")),
    "ofd": Recipe(1e-3),
    "review": Recipe(1.0, schedule=_warmup(num_stairs=20), arguments=_review_weight),
    "dkd": Recipe(1.0, schedule=_warmup(), arguments=_dkd_beta),
    "sfd": Recipe(1.0),
    "dist": Recipe(2.0, arguments={"temperature": 4.0}),
    # Their authors choose the pair of weight and gamma for each pair of networks; these are of the
    # commands in their README, that of WTTM beside CRD.
    "ttm": Recipe(45.0, arguments={"gamma": 0.1}),
    "wttm": Recipe(4.0, arguments={"gamma": 0.2}),
    "nkd": Recipe(1.0, arguments={"gamma": 1.5, "temperature": 1.0}),
    "rld": Recipe(1.0, schedule=_warmup()),
    # Twice the weights of the authors' code, which sums over both views: the step takes the mean.
    "mlkd": Recipe(
        1.0,
        alone={"": {"cross_entropy": {"weight": 0.2}, "mlkd": {"weight": 1.8}}},
        views={"strong": {"policy": "randaugment", "policy_ops": 2, "policy_magnitude": 10.0}},
    ),
    "simkd": Recipe(1.0, alone={"": {"simkd": {"weight": 1.0}}}),
    "sdd": Recipe(1.0, alone={"": {"cross_entropy": {"weight": 0.1}, "sdd": {"weight": 0.9}}}),
    "ctkd": Recipe(
        1.0,
        schedule=_REVERSAL,
        arguments={"reversal": 1.0},
        alone={
            "": {
                "cross_entropy": {"weight": 0.1},
                "ctkd": {"weight": 0.9, "reversal": 1.0, "schedule": _REVERSAL},
            }
        },
    ),
    "cat": Recipe(1.0, arguments=_class_attention),
}


def objective(
    methods: list[str], teacher: str = "", student: str = "", protocol: str = ""
) -> dict[str, Term]:
    """The methods with their usual weights, beside cross-entropy with the labels.

    Args:
      methods: by name; `cross_entropy` alone is training from scratch.
      teacher: name of the teacher's model, on which some recipes depend.
      student: name of the student's model.
      protocol: name of the protocol, on which some recipes depend.

    Raises:
      UserError: on an unknown method.
    """
    for method in methods:
        if method not in (*RECIPES, "cross_entropy"):
            raise UserError(f"unknown method {method!r}: choose from {', '.join(RECIPES)}")
    chosen = {method: RECIPES[method] for method in methods if method != "cross_entropy"}
    if len(methods) == 1 and chosen:
        alone = chosen[methods[0]].alone
        if alone:
            return alone.get(protocol, alone[""])
    terms = {method: recipe.term(teacher, student) for method, recipe in chosen.items()}
    return {"cross_entropy": {"weight": 1.0}} | terms


def add_methods(
    config: ConfigDict,
    methods: list[str],
    *,
    suffix: str = "",
    joint: bool = False,
    protocol: str = "",
    **changes: Any,
) -> None:
    """Adds the phases of a student that is taught by `methods`.

    There are two if a method has a first phase, which is an eighth as long (30 of 240
    epochs in RepDistiller).

    Args:
      config: with a phase `teacher`.
      methods: by name.
      suffix: of the phases' names, which are the methods' (`crd_kd`, `ab_init`, `ab`).
      joint: whether methods with a first phase are trained beside the labels instead.
      protocol: as for `objective`.
      **changes: to the phases, as for `configs.common.inherit`.

    Raises:
      UserError: on an unknown method.
    """
    terms = objective(methods, config.teacher.model, config.student.model, protocol)
    firsts = {} if joint else {m: f for m in methods if m in RECIPES and (f := RECIPES[m].first)}
    changes = {"teachers": ("teacher",)} | changes
    name = "_".join(methods)
    if firsts:
        before = f"{name}_init{suffix}"
        first = common.inherit(
            config.student,
            objective={method: dict(one.term) for method, one in firsts.items()},
            schedule={"name": "constant"},
            **changes,
        )
        first.epochs = config.student.get_ref("epochs") / 8
        divisor = max(one.divisor(config.student.model) for one in firsts.values())
        if divisor != 1:
            rate = config.student.optimizer.get_ref("learning_rate")
            first.optimizer.learning_rate = rate / divisor
        config.phases[before] = first
        for method, one in firsts.items():
            changes[one.hands_on] = before
            if one.then is None:
                del terms[method]
            else:
                terms[method] |= one.then
    views = {k: v for m in methods if m in RECIPES for k, v in RECIPES[m].views.items()}
    if views:
        changes = {"extra_views": views} | changes
    config.phases[name + suffix] = common.inherit(config.student, objective=terms, **changes)


def teacher_scratch_kd(config: ConfigDict) -> None:
    """Adds the phases that most comparisons start with: teacher, scratch and kd.

    The student from scratch names the teacher without learning from it, so that its
    agreement is measured too.
    """
    config.phases.teacher = common.inherit(config.teacher)
    config.phases.scratch = common.inherit(config.student, teachers=("teacher",))
    add_methods(config, ["kd"])
