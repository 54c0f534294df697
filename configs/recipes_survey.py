"""Recipes of the CIFAR-10 survey: assistants, ensembles, unlabelled images, dual training.

    python -m experiments.main --config=configs/recipes.py:takd[,data=cifar10][,ARGUMENT=VALUE]

"The State of Knowledge Distillation for Classification", Ruffy & Chahal 2019: KD with a weight of
0.5 (`alpha=`) and T = 5 (`temperature=`), beside cross-entropy with 1 - alpha, and the survey's
protocol. Beside its students, a run has the teacher, the student from scratch, and the student by
KD.

- `takd`: the student learns from an assistant that learned from the teacher; `assistants=` has
  any number of them, from large to small, joined by `/`.
- `mkd`: several teachers; `combine=losses` is the mean of their losses, `probabilities` the loss
  with their mean. By default they are three of the teacher's architecture with different seeds,
  as in the text; `others=` names the models of the second, third, ... instead. The code's is
  `others=wrn_22_4`.
- `uda`: each image in two views, cropped and flipped, and by an augmentation policy; the loss is
  the mean over both. `policy=autoaugment_cifar10` (default, as in the code, on the image as it
  is) or `randaugment` (as in the text). `uda_nokd` has the labels alone, in both views.
- `uda_unlabelled`: half of every batch are images without labels of another data set,
  `unlabelled=`, by default `tfds:stl10` (the survey calls it STL), and for the digits their own
  training images. On these KL at T = 1 is the loss. `split=` and `examples=` select some of them.
- `unlabelled`: the student sees nothing but those images, and no label. The survey's student is
  right on 83 % of CIFAR-10; it does not say by which networks.
- `ab`: activation boundaries for 60 % of the epochs, then KD, as in the text; `code=code` has AB
  for 10 epochs and KD for all of them.
- `feature_losses`: simple feature distillation by other distances, pools and layers, none of
  which "improved accuracy". A pool does something only where the maps of the networks differ in
  size, which those of the default pair do not (with `teacher=mobilenetv2_half` they do).
- `dual`: teacher and student take turns. The teacher learns until its validation accuracy is two
  points above the student's, the student by KD until it has caught up, for `rounds=` rounds of
  turns of at most `turn=` epochs. With `code=code`, the teacher's two points are counted from
  its own last turn, it also stops after 5 epochs without a gain, and the student also stops
  when it has fallen by ten points. Optimisers (Adam) go on from turn to turn.

`data` is `digits` (default, with the same networks), `cifar10` or anything that
`--config.data.name` takes; `teacher=` and `student=` take any models.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import common, protocols
from configs.methods import objective
from kdjax.types import UserError

POLICIES = ("autoaugment_cifar10", "randaugment")
# The mean and deviation by which the survey's code normalises CIFAR-10.
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
Term = dict[str, Any]


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a recipe; `arg` is its name and its arguments."""
    args = common.arguments(
        arg, recipe="takd", data="digits", teacher="distiller_resnet26",
        student="distiller_resnet8", alpha=0.5, temperature=5.0, assistants="distiller_resnet20",
        combine="losses", others="", policy="autoaugment_cifar10", unlabelled="",
        split="unlabelled", examples=0, code="text", rounds=8, turn=25.0,
    )  # fmt: skip
    for what, given, allowed in (
        ("policy", args.policy, POLICIES),
        ("code", args.code, ("text", "code")),
    ):
        if given not in allowed:
            raise UserError(f"unknown {what} {given!r}: choose from {', '.join(allowed)}")
    config = base(args.teacher, args.student, args.data)
    if args.recipe == "dual":
        _dual(config, args)
        return config
    config.phases.scratch = common.inherit(config.student, teachers=("teacher",))
    add_kd(config, "kd", args.alpha, args.temperature)
    RECIPES[args.recipe](config, args)
    return config


def base(teacher: str, student: str, data: str) -> ConfigDict:
    """A config with the phase `teacher`, by the survey's protocol.

    Args:
      teacher: name of the teacher's model.
      student: name of the student's model.
      data: as for `configs.protocols.protocol`.
    """
    config = protocols.pair(teacher, student, data, "" if data == "digits" else "survey")
    if data == "cifar10":
        config.train.mean, config.train.std = _CIFAR10
    return config


def kd_terms(alpha: float, temperature: float, **more: Any) -> dict[str, Term]:
    """(1 - alpha) CE + alpha T^2 KL, equation 1 of the survey.

    Args:
      alpha: in [0, 1].
      temperature: T.
      **more: of both terms, such as the part of the batch that they are on.
    """
    terms: dict[str, Term] = {}
    if alpha < 1:
        terms["cross_entropy"] = {"weight": 1 - alpha, **more}
    if alpha > 0:
        terms["kd"] = {"weight": alpha, "temperature": temperature, **more}
    return terms


def add_kd(
    config: ConfigDict,
    name: str,
    alpha: float,
    temperature: float,
    teachers: Sequence[str] = ("teacher",),
    **changes: Any,
) -> None:
    """Adds a student by KD."""
    config.phases[name] = common.inherit(
        config.student,
        **{"teachers": tuple(teachers), "objective": kd_terms(alpha, temperature)} | changes,
    )


def add_takd(
    config: ConfigDict, assistants: Sequence[str], alpha: float, temperature: float
) -> None:
    """Adds assistants, each taught by the one before, and the student `takd` of the last."""
    taught_by = "teacher"
    for model in assistants:
        name = f"assistant_{model}"
        add_kd(config, name, alpha, temperature, (taught_by,), model=model)
        taught_by = name
    add_kd(config, "takd", alpha, temperature, (taught_by,))


def add_mkd(
    config: ConfigDict,
    others: Sequence[str],
    combine: str,
    alpha: float,
    temperature: float,
) -> None:
    """Adds further teachers, and the student `mkd` of all of them.

    Args:
      config: with a phase `teacher`.
      others: models of the further teachers; () for two more of the teacher's, of other seeds.
      combine: as for `kdjax.distillers.kd`.
      alpha: weight of KD.
      temperature: T.
    """
    names = ["teacher"]
    if others:
        for model in others:
            names.append(f"teacher_{model}")
            config.phases[names[-1]] = common.inherit(config.teacher, model=model)
    else:
        # Members with the seeds 1 and 2; the teacher's own is 0 by default.
        config.phases.more_teachers = common.inherit(config.teacher, seeds=(1, 2))
        names += ["more_teachers_seed1", "more_teachers_seed2"]
    terms = kd_terms(alpha, temperature)
    terms["kd"]["combine"] = combine
    config.phases.mkd = common.inherit(config.student, teachers=tuple(names), objective=terms)


def policy_view(policy: str) -> dict[str, Term]:
    """The second view of `uda`: the image by a policy.

    AutoAugment is applied to the image as it is, as in the code; RandAugment has crops and
    flips, as its authors have.
    """
    if policy == "autoaugment_cifar10":
        return {"policy": {"policy": policy, "crop": "none", "flip": False}}
    return {"policy": {"policy": policy}}


def add_uda(config: ConfigDict, name: str, policy: str, alpha: float, temperature: float) -> None:
    """Adds a student on two views of each image; alpha = 0 is the labels alone."""
    add_kd(config, name, alpha, temperature, extra_views=policy_view(policy))


def unlabelled_images(args: ConfigDict) -> Term:
    """The source that `unlabelled=`, `split=` and `examples=` name."""
    name = args.unlabelled or ("digits" if args.data == "digits" else "tfds:stl10")
    split = "train" if name == "digits" else args.split
    return {"name": name, "split": split, "labels": False, "examples": args.examples}


def add_uda_unlabelled(
    config: ConfigDict, name: str, images: Term, alpha: float, temperature: float
) -> None:
    """Adds the survey's STL: `uda` on one half of a batch, unlabelled images on the other.

    Each of the four, two halves in two views, has the weight 1/4 in the code. Both views are
    cropped and flipped before the policy.
    """
    labelled = kd_terms(alpha, temperature, on="labelled")
    terms = {key: {**term, "weight": term["weight"] / 2} for key, term in labelled.items()}
    terms["unlabelled"] = {
        "method": "kd", "weight": 0.5, "temperature": 1.0, "on": "unlabelled"
    }  # fmt: skip
    config.phases[name] = common.inherit(
        config.student, teachers=("teacher",), objective=terms,
        more_images={**images, "share": 0.5},
        extra_views={"policy": {"policy": "autoaugment_cifar10"}},
    )  # fmt: skip


def _uda(config: ConfigDict, args: ConfigDict) -> None:
    add_uda(config, "uda", args.policy, args.alpha, args.temperature)
    add_uda(config, "uda_nokd", args.policy, 0.0, args.temperature)


def _unlabelled(config: ConfigDict, args: ConfigDict) -> None:
    config.phases.unlabelled = common.inherit(
        config.student, teachers=("teacher",), images=unlabelled_images(args),
        objective={"kd": {"weight": 1.0, "temperature": 1.0}}, shots=0,
    )  # fmt: skip


def add_ab(config: ConfigDict, code: str, alpha: float, temperature: float) -> None:
    """Adds `ab_init` and `ab`, in the text's shares or as in the code."""
    total = config.student.get_ref("epochs")
    shares = {"text": (total * 0.6, total * 0.4), "code": (min(10.0, config.student.epochs), total)}
    first, second = shares[code]
    config.phases.ab_init = common.inherit(
        config.student, teachers=("teacher",), objective={"ab": objective(["ab"])["ab"]}
    )
    config.phases.ab_init.epochs = first
    add_kd(config, "ab", alpha, temperature, init_from="ab_init")
    config.phases.ab.epochs = second


def _feature_losses(config: ConfigDict, args: ConfigDict) -> None:
    variants: dict[str, Term] = {
        "peak": {"form": "peak"},
        "map": {},
        "cosine": {"distance": "cosine"},
        "kl": {"distance": "kl"},
        "average": {"pool": "average"},
        "resize": {"pool": "resize"},
        "deconvolution": {"pool": "deconvolution"},
        "last_2": {"layers": "last:2"},
        "first_2": {"layers": "first:2"},
        "every_2": {"layers": "every:2"},
    }
    for name, arguments in variants.items():
        config.phases[f"sfd_{name}"] = common.inherit(
            config.student, teachers=("teacher",),
            objective={"cross_entropy": {"weight": 1.0}, "sfd": {"weight": 1.0, **arguments}},
        )  # fmt: skip


def _dual(config: ConfigDict, args: ConfigDict) -> None:
    """Turns of a teacher and a student, unrolled into phases."""
    del config.phases["teacher"]
    # Nothing is decided on the test split.
    config.data.validation = 0.1
    for layer in (config.teacher, config.student):
        layer.update(epochs=args.turn, eval_every=1.0, shots=0)
        layer.optimizer.update(name="adam", learning_rate=1e-3, weight_decay=0.0, nesterov=False)
        layer.schedule.name = "constant"
    # A student that has made one step stands for one that has made none.
    config.phases.student_0 = common.inherit(config.student, steps=1, eval_every=0.0)
    for turn in range(1, args.rounds + 1):
        before, student = f"teacher_{turn - 1}", f"student_{turn - 1}"
        from_itself = args.code == "code" and turn > 1
        rival = before if from_itself else student
        config.phases[f"teacher_{turn}"] = common.inherit(
            config.teacher,
            continue_from=before if turn > 1 else "",
            compared_with=(rival,),
            until={"ahead": {"over": rival, "margin": 0.02}},
            early_stopping=5 if args.code == "code" else 0,
        )
        teacher = f"teacher_{turn}"
        until: dict[str, Term] = {"level": {"over": teacher, "margin": 0.0}}
        if args.code == "code" and turn > 1:
            until["fallen"] = {"over": student, "margin": -0.1, "below": True}
        config.phases[f"student_{turn}"] = common.inherit(
            config.student,
            teachers=(teacher,),
            continue_from=student,
            compared_with=(teacher, student),
            until=until,
            objective=kd_terms(args.alpha, args.temperature),
        )


RECIPES: dict[str, Any] = {
    "takd": lambda config, args: add_takd(
        config, args.assistants.split("/"), args.alpha, args.temperature
    ),
    "mkd": lambda config, args: add_mkd(
        config,
        tuple(filter(None, args.others.split("/"))),
        args.combine,
        args.alpha,
        args.temperature,
    ),
    "uda": _uda,
    "uda_unlabelled": lambda config, args: add_uda_unlabelled(
        config, "uda_unlabelled", unlabelled_images(args), args.alpha, args.temperature
    ),
    "unlabelled": _unlabelled,
    "ab": lambda config, args: add_ab(config, args.code, args.alpha, args.temperature),
    "feature_losses": _feature_losses,
    "dual": _dual,
}
