"""What every config starts from, and how its parts inherit from each other.

A config is `data`, how often to report, and three layers of the same keys: `train`
holds what all phases share, `teacher` and `student` inherit from it, and each of
the `phases` inherits from one of those two. Setting a key on the command line sets
it for everything below: `--config.train.batch_size=64` for all phases,
`--config.student.epochs=5` for all students, `--config.phases.kd.epochs=5` for one.
"""

from typing import Any

from ml_collections import ConfigDict

from kdjax.types import UserError


def base() -> ConfigDict:
    """A config without phases, with every key that a run understands."""
    config = ConfigDict(sort_keys=False)
    config.seed = 0
    # Two steps a phase on the digits, whatever the config: does it run at all?
    config.debug = False
    # Devices that share a batch; 0 uses as many as divide it.
    config.devices = 0
    # Steps in one compiled call; 0 leaves it to the platform (1 on CPU, 32 on a GPU).
    config.steps_per_call = 0
    config.log_every = 50  # steps
    config.eval_every = 1.0  # epochs; 0 only at the end
    config.checkpoint_every = 5.0  # minutes, beside one at every evaluation
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
            model="",
            model_options=ConfigDict(),  # the model's own, such as stem="imagenet"
            dtype="float32",  # of the computation: float32 or bfloat16
            mean=(),  # normalisation, per channel in [0, 1]; () measures it
            std=(),
            checkpoint="",  # take the network from here and do not train it
            start="",  # train it from here, or from an earlier phase
            teachers=(),  # earlier phases, or other runs' phase folders
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
    config.teacher = inherit(config.train)
    config.student = inherit(config.train)
    config.phases = ConfigDict(sort_keys=False)
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


def crd_protocol(config: ConfigDict, data: str) -> None:
    """The protocol of Tian et al. 2020 (RepDistiller), on a data set by its name."""
    if data == "digits":
        digits(config)
        return
    # The sets that the papers use go by their bare names.
    known = ("cifar10", "cifar100", "imagenet100x32", "mnist", "fashion_mnist")
    config.data.name = f"tfds:{data}" if data in known else data
    config.eval_every = 6.0
    config.train.update(epochs=240.0, batch_size=64)
    config.train.optimizer.learning_rate = 0.05
    config.train.schedule.update(
        name="step", boundaries=(150 / 240, 180 / 240, 210 / 240), factor=0.1, unit="fraction"
    )


def tune_for(network: ConfigDict, model: str) -> None:
    """RepDistiller trains the mobile and shuffle networks at a fifth of the learning rate."""
    if model.startswith(("mobilenet", "shufflenet")):
        network.optimizer.learning_rate /= 5


# Weight and arguments of each method, and of the cross-entropy beside it when it is
# alone, in RepDistiller's protocol.
_USUAL: dict[str, tuple[dict[str, Any], float]] = {
    "cross_entropy": ({"weight": 1.0}, 1.0),
    "kd": ({"weight": 0.9, "temperature": 4.0}, 0.1),
}


def objective(methods: list[str]) -> dict[str, dict[str, Any]]:
    """The methods with their usual weights, and cross-entropy with the labels.

    Raises:
      UserError: on an unknown method.
    """
    for method in methods:
        if method not in _USUAL:
            raise UserError(f"unknown method {method!r}: choose from {', '.join(_USUAL)}")
    cross_entropy = _USUAL[methods[0]][1] if len(methods) == 1 else 1.0
    terms = {"cross_entropy": {"weight": cross_entropy}}
    return terms | {method: dict(_USUAL[method][0]) for method in methods}


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
