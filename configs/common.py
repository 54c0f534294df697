"""What every config starts from, and how its parts inherit from each other.

A config is `data`, how often to report, and three layers of the same keys: `train`
holds what all phases share, `teacher` and `student` inherit from it, and each of
the `phases` inherits from one of those two. Setting a key on the command line sets
it for everything below: `--config.train.batch_size=64` for all phases,
`--config.student.epochs=5` for all students, `--config.phases.kd.epochs=5` for one.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from kdjax.types import UserError


def base() -> ConfigDict:
    """A config without phases, with every key that a run understands."""
    config = ConfigDict(sort_keys=False)
    config.seed = 0
    # 0,1,2: students of these seeds instead, trained together; tables show mean and deviation.
    config.seeds = ()
    # The seeds differ in their beginning alone: all see the first one's batches and views, and
    # the teacher looks at them once.
    config.share_views = False
    # Two steps a phase on the digits, whatever the config: does it run at all?
    config.debug = False
    # Devices that share a batch; 0 uses as many as divide it.
    config.devices = 0
    # Steps in one compiled call; 0 leaves it to the platform (1 on CPU, 32 on a GPU).
    config.steps_per_call = 0
    config.log_every = 50  # steps
    config.eval_every = 1.0  # epochs; 0 only at the end
    config.checkpoint_every = 5.0  # minutes, beside one at every evaluation
    # FIRST:LAST, steps of every phase to trace for TensorBoard and Perfetto.
    config.profile = ""
    config.data = ConfigDict(
        dict(
            name="digits",
            dir="",
            train_split="train",
            test_split="test",
            resize=0,  # side of the images when read; 0 as they are
            image_size=0,  # side of what networks see; 0 the same
            validation=0.0,  # share of the training split to hold out
            train_examples=0,  # fixed random subset of it; 0 all
            memory=4.0,  # GB up to which a split is kept on the device
            workers=0,  # processes that decode a split larger than that
            # Where name is empty, what networks are made for (beside image_size): a run
            # without data, whose teachers come from checkpoints.
            channels=0,
            num_classes=0,
        )
    )
    # What phases without data are evaluated on, and nothing else; its training split is
    # never used. Where its name is empty, the test split of `data`.
    config.evaluation = ConfigDict(
        dict(name="", dir="", test_split="test", resize=0, image_size=0, memory=4.0)
    )
    config.train = ConfigDict(
        dict(
            seed=config.get_oneway_ref("seed"),
            seeds=config.get_oneway_ref("seeds"),
            model="",
            model_options=ConfigDict(),  # the model's own, such as stem="imagenet"
            dtype="float32",  # of the computation: float32 or bfloat16
            mean=(),  # normalisation, per channel in [0, 1]; () measures it
            std=(),
            checkpoint="",  # take the network from here and do not train it
            start="",  # train it from here: a file, a phase's folder or an earlier phase
            start_methods="",  # the methods' variables likewise, from a phase
            teachers=(),  # earlier phases, or other runs' phase folders
            teacher_batch_norm="running",  # averages, as in evaluation, or the batch's
            objective=ConfigDict({"cross_entropy": {"weight": 1.0}}, sort_keys=False),
            # Not empty: learn without data, from a generator. `experiments.work.Settings`
            # lists the keys.
            adversarial=ConfigDict(sort_keys=False),
            shots=0,  # training images a class, a fixed random subset; 0 all
            epochs=10.0,
            steps=0,  # instead of epochs, where positive
            batch_size=128,
            accumulate=1,  # parts into which a batch is cut to save memory
            sync_batch_norm=True,
            ema=0.0,
            select="last",  # or best, on the validation split
            optimizer=dict(
                name="sgd",
                learning_rate=0.1,
                momentum=0.9,
                nesterov=False,
                weight_decay=5e-4,
                decoupled=False,
                decay_mask="all",
                clip=0.0,
            ),
            schedule=dict(name="cosine", warmup=0.0, boundaries=(), factor=0.1, unit="epochs"),
            augment=dict(
                teacher_view="consistent",
                crop="padded",
                padding=4,
                area=(0.05, 1.0),
                flip=True,
                cutout=0,
                mixup=0.0,
                mixup_weight="batch",
            ),
        )
    )
    # One for all students, unless `--config.teacher.seeds` has one for each.
    config.teacher = inherit(config.train, seeds=())
    config.student = inherit(config.train)
    config.phases = ConfigDict(sort_keys=False)
    # A paper's tables, by name, to print beside its numbers (`add_table`).
    config.report = ConfigDict(sort_keys=False)
    return config


def inherit(parent: ConfigDict, **changes: Any) -> ConfigDict:
    """A copy of `parent` in which what is not changed follows the parent.

    A change to a nested group is a dict of what differs in it; an `objective`,
    `adversarial` and `model_options` are replaced as a whole.
    """
    child = ConfigDict(sort_keys=False)
    for key in parent:
        value = parent[key]
        if key in ("objective", "adversarial", "model_options"):
            child[key] = ConfigDict(changes.pop(key, value.to_dict()), sort_keys=False)
        elif isinstance(value, ConfigDict):
            child[key] = inherit(value, **changes.pop(key, {}))
        else:
            child[key] = parent.get_oneway_ref(key)
    for key, value in changes.items():
        if key not in child:
            raise KeyError(f"no such key: {key}")
        child[key] = value
    return child


def digits(config: ConfigDict) -> None:
    """Sets what every config does on the digits: they need no network and little time."""
    config.data.name = "digits"
    config.data.resize = 16
    # With all 1,201 every network is right on 98.5 % and more, and 596 test images do not
    # tell them apart.
    config.data.train_examples = 300
    config.train.batch_size = 64
    config.train.epochs = 60.0
    config.eval_every = 4.0
    # A mirrored digit is another digit or none.
    config.train.augment.update(flip=False, padding=2)
    config.train.optimizer.nesterov = True


def teacher_scratch_kd(config: ConfigDict) -> None:
    """Adds the phases that most comparisons begin with: teacher, scratch and kd.

    The student from scratch names the teacher, without learning from it, so that its
    agreement is measured too.
    """
    config.phases.teacher = inherit(config.teacher)
    config.phases.scratch = inherit(config.student, teachers=("teacher",))
    config.phases.kd = inherit(
        config.student,
        teachers=("teacher",),
        objective={
            "cross_entropy": {"weight": 0.1},
            "kd": {"weight": 0.9, "temperature": 4.0},
        },
    )


class Protocol(NamedTuple):
    """How a paper's code trains on CIFAR.

    Attributes:
      epochs: of everything.
      batch_size: examples a step.
      learning_rate: at the start.
      light_rate: the same for MobileNets and ShuffleNets.
      nesterov: whether the momentum is Nesterov's.
      boundaries: where the learning rate falls to a tenth, as shares of the run.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    light_rate: float
    nesterov: bool
    boundaries: tuple[float, ...]


# Epochs after which the rate falls: 150, 180 and 210 of 240; a third and two thirds.
_LATE = (150 / 240, 180 / 240, 210 / 240)
PROTOCOLS = {
    # Tian et al. 2020: RepDistiller, and mdistiller after it.
    "crd": Protocol(240.0, 64, 0.05, 0.01, False, _LATE),
    # The CIFAR-10 survey (karanchahal/distiller).
    "survey": Protocol(200.0, 128, 0.1, 0.1, True, (0.33, 0.66)),
    # Chen et al. 2021: ReviewKD.
    "review": Protocol(240.0, 128, 0.1, 0.02, True, _LATE),
}


def protocol(config: ConfigDict, data: str, name: str = "") -> None:
    """Sets data, teacher's and student's models being set, and how a paper trains on it.

    Args:
      config: from `base`, its `teacher.model` and `student.model` set.
      data: a data set by the papers' name or as `data.name` takes it; `digits` has a
        protocol of its own.
      name: one of `PROTOCOLS`; by default `crd`, on the digits their own.

    Raises:
      UserError: on an unknown protocol.
    """
    if name and name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}: choose from {', '.join(PROTOCOLS)}")
    if data == "digits":
        digits(config)
        if not name:
            return
    else:
        # The sets that the papers use go by their bare names.
        known = ("cifar10", "cifar100", "imagenet100x32", "mnist", "fashion_mnist")
        config.data.name = f"tfds:{data}" if data in known else data
        config.eval_every = 6.0
    what = PROTOCOLS[name or "crd"]
    config.train.update(epochs=what.epochs, batch_size=what.batch_size)
    config.train.optimizer.update(learning_rate=what.learning_rate, nesterov=what.nesterov)
    config.train.schedule.update(
        name="step", boundaries=what.boundaries, factor=0.1, unit="fraction"
    )
    for network in (config.teacher, config.student):
        if network.model.startswith(("mobilenet", "shufflenet")):
            network.optimizer.learning_rate *= what.light_rate / what.learning_rate


def pair(teacher: str, student: str, data: str, name: str = "") -> ConfigDict:
    """A config with a teacher's phase: what most comparisons of a pair begin with.

    Args:
      teacher: the model's name.
      student: likewise.
      data: as for `protocol`.
      name: likewise.
    """
    config = base()
    config.teacher.model, config.student.model = teacher, student
    protocol(config, data, name)
    config.phases.teacher = inherit(config.teacher)
    return config


# Weight and arguments of each method beside cross-entropy at 1, in RepDistiller's
# protocol; of DKD, OFD (mdistiller's) and SFD (the survey's) in theirs.
_USUAL: dict[str, dict[str, Any]] = {
    "ab": {"weight": 1.0},
    "at": {"weight": 1000.0},
    "cc": {"weight": 0.02},
    "crd": {"weight": 0.8},
    "dkd": {"weight": 1.0, "schedule": {"name": "constant", "warmup": 1 / 12, "unit": "fraction"}},
    "fitnet": {"weight": 100.0},
    "fsp": {"weight": 1.0},
    "ft": {"weight": 200.0},
    "kd": {"weight": 1.0, "temperature": 4.0},
    "nst": {"weight": 50.0},
    "ofd": {"weight": 1e-3},
    "pkt": {"weight": 30000.0},
    "review": {
        "weight": 1.0,
        "schedule": {
            "name": "constant",
            "warmup": 1 / 12,
            "unit": "fraction",
            "stairs": 20,
        },
    },
    "rkd": {"weight": 1.0},
    "sfd": {"weight": 1.0},
    "sp": {"weight": 3000.0},
    "vid": {"weight": 1.0},
}
# Of knowledge review, by (teacher, student): what Tables 1 and 2 of its reproduction print
# (Verma et al. 2022); 0.7 is 0.6 in its text and in Chen et al.'s script.
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
# What these methods train first, alone, for an eighth of the epochs (30 of 240).
_FIRST: dict[str, dict[str, Any]] = {
    "ab": _USUAL["ab"],
    "fsp": _USUAL["fsp"],
    "ft": {"weight": 1.0, "stage": "paraphraser"},
}


def objective(
    methods: list[str], teacher: str = "", student: str = "", protocol: str = ""
) -> dict[str, Any]:
    """The methods with their usual weights, and cross-entropy with the labels.

    Args:
      methods: by name; `cross_entropy` alone is training from scratch.
      teacher: the model's name; some weights depend on the pair.
      student: likewise.
      protocol: the survey has its own weights of KD.

    Raises:
      UserError: on an unknown method.
    """
    for method in methods:
        if method not in (*_USUAL, "cross_entropy"):
            raise UserError(f"unknown method {method!r}: choose from {', '.join(_USUAL)}")
    if methods == ["kd"]:
        survey = protocol == "survey"
        labels, weight, temperature = (0.5, 0.5, 5.0) if survey else (0.1, 0.9, 4.0)
        return {
            "cross_entropy": {"weight": labels},
            "kd": {"weight": weight, "temperature": temperature},
        }
    terms = {method: dict(_USUAL[method]) for method in methods if method != "cross_entropy"}
    if "dkd" in terms:
        terms["dkd"]["beta"] = _dkd_beta(teacher, student)
    if "review" in terms:
        terms["review"]["weight"] = REVIEW_WEIGHTS.get((teacher, student), 1.0)
    return {"cross_entropy": {"weight": 1.0}} | terms


def _dkd_beta(teacher: str, student: str) -> float:
    """mdistiller's: the surer the teacher, the larger."""
    if (teacher, student) in (("resnet56", "resnet20"), ("resnet110", "resnet32")):
        return 2.0
    if all(model.startswith(("wrn", "vgg")) for model in (teacher, student)):
        return 6.0
    return 8.0


def add_methods(
    config: ConfigDict,
    methods: list[str],
    *,
    suffix: str = "",
    joint: bool = False,
    protocol: str = "",
    **changes: Any,
) -> None:
    """Adds the phases of a student taught by `methods`: one, or two where a method needs it.

    AB and FSP train the student alone first, which then goes on by the labels; Factor
    Transfer its paraphraser, which is then kept.

    Args:
      config: with a phase `teacher`.
      methods: by name.
      suffix: of the phases' names, which are the methods' (`crd_kd`, `ab_init`, `ab`).
      joint: whether those methods, too, go beside the labels from the start.
      protocol: as for `objective`.
      **changes: to the phases, as for `inherit`.
    """
    terms = objective(methods, config.teacher.model, config.student.model, protocol)
    first = {} if joint else {m: _FIRST[m] for m in methods if m in _FIRST}
    changes = {"teachers": ("teacher",)} | changes
    name = "_".join(methods)
    before = f"{name}_init{suffix}"
    if first:
        start = inherit(config.student, objective=first, schedule={"name": "constant"}, **changes)
        start.epochs = config.student.get_ref("epochs") / 8
        if "ft" in first:
            # RepDistiller's rate for the paraphraser beside 0.05 for the networks.
            start.optimizer.learning_rate = config.student.optimizer.get_ref("learning_rate") / 5
            terms["ft"]["stage"] = "translator"
            changes["start_methods"] = before
        if set(first) - {"ft"}:
            changes["start"] = before
        config.phases[before] = start
        terms = {method: term for method, term in terms.items() if method not in {"ab", "fsp"}}
    config.phases[name + suffix] = inherit(config.student, objective=terms, **changes)


def add_table(
    config: ConfigDict, name: str, *, caption: str, columns: list[str], rows: list[list[str]]
) -> None:
    """Adds a table that the run prints at its end, and writes to `table.md` of its folder.

    Args:
      config: from `base`.
      name: of the table in the config.
      caption: what it shows, and where the paper's numbers are from.
      columns: headings.
      rows: of cells; `measured` gives those with this run's figures.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{len(columns)} columns, but a row of {row}")
    config.report[name] = ConfigDict({"caption": caption, "columns": columns, "rows": rows})


def measured(phase: str, figure: str = "accuracy", form: str = ".2%", split: str = "test") -> str:
    """A cell of `add_table` with a figure of a phase, or of its seeds; empty without the phase."""
    return f"{{{phase}[{split}][{figure}]:{form}}}"


def arguments(arg: str | None, **defaults: Any) -> ConfigDict:
    """Parses what follows the colon of `configs/file.py:a=1,b=x` against typed defaults.

    A first word without `=` is the value of the first default.

    Raises:
      UserError: on an argument that is not among the defaults or not of their type.
    """
    parsed = dict(defaults)
    for i, item in enumerate(filter(None, (arg or "").split(","))):
        key, equals, value = item.partition("=")
        if not equals and i == 0:
            key, value = next(iter(defaults)), key
        if key not in defaults:
            raise UserError(f"unknown config argument {key!r}: choose from {', '.join(defaults)}")
        kind = type(defaults[key])
        try:
            parsed[key] = kind(value)
        except ValueError:
            raise UserError(f"config argument {key}={value!r} is not {kind.__name__}") from None
    return ConfigDict(parsed)
