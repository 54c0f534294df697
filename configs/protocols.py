"""How papers train on CIFAR, and how every config trains on the digits."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import common
from kdjax.types import UserError


class Protocol(NamedTuple):
    """How a paper's code trains on CIFAR.

    Attributes:
      epochs: of every phase.
      batch_size: examples per step.
      learning_rate: initial.
      light_learning_rate: initial, for MobileNets and ShuffleNets.
      nesterov: whether momentum is Nesterov's.
      boundaries: shares of the run at which the learning rate is multiplied by `decay_rate`.
      mean: of the normalisation on CIFAR, per channel; () is that of the data set.
      std: as `mean`.
      decay_rate: see `boundaries`.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    light_learning_rate: float
    nesterov: bool
    boundaries: tuple[float, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    decay_rate: float = 0.1


PROTOCOLS = {
    # Tian et al. 2020: RepDistiller, and mdistiller after it.
    "crd": Protocol(240.0, 64, 0.05, 0.01, False, (150 / 240, 180 / 240, 210 / 240)),
    # The CIFAR-10 survey (karanchahal/distiller).
    "survey": Protocol(200.0, 128, 0.1, 0.1, True, (0.33, 0.66)),
    # Chen et al. 2021: ReviewKD. It counts epochs from 0 and lowers the rate after epoch 150, and
    # has the statistics of CIFAR-10 for CIFAR-100, too.
    "review": Protocol(
        240.0, 128, 0.1, 0.02, True, (151 / 240, 181 / 240, 211 / 240),
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
    ),
    # Zagoruyko & Komodakis 2017: attention transfer.
    "at": Protocol(
        200.0, 128, 0.1, 0.1, False, (0.3, 0.6, 0.8),
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
        decay_rate=0.2,
    ),
}  # fmt: skip
# Data sets of the papers, which go by their bare names.
_TFDS = ("cifar10", "cifar100", "imagenet100x32", "mnist", "fashion_mnist")


def digits(config: ConfigDict) -> None:
    """Sets the data and the training of every config on the digits.

    They need no network and little time. The teacher learns from all 1,201 training images
    and the students from four of each class, as a large model has usually seen more than
    those who distil it. With all images every network is correct on 98 % of the 596 test
    images, and these cannot tell methods apart.
    """
    config.data.name = "digits"
    config.data.resize = 16
    config.train.batch_size = 64
    # A mirrored digit is another digit or none.
    config.train.augment.update(flip=False, padding=2)
    config.train.optimizer.nesterov = True
    config.teacher.update(epochs=15.0, eval_every=5.0)
    # 400 steps, with an evaluation every 50.
    config.student.update(shots=4, epochs=640.0, eval_every=80.0)


def data_name(data: str) -> str:
    """What `data.name` calls a data set, which may go by the papers' bare name."""
    return f"tfds:{data}" if data in _TFDS else data


def protocol(config: ConfigDict, data: str, name: str = "") -> None:
    """Sets the data of a config and how a paper trains on it.

    Args:
      config: from `configs.common.base`, with `teacher.model` and `student.model` set.
      data: a data set by the papers' name, or as `data.name` takes it.
      name: one of `PROTOCOLS`; by default `crd`, or the digits' own.

    Raises:
      UserError: on an unknown protocol.
    """
    if name and name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}: choose from {', '.join(PROTOCOLS)}")
    if ":" not in data and data not in ("digits", *_TFDS):
        raise UserError(
            f"unknown data set {data!r}: choose from digits, {', '.join(_TFDS)}, or name another "
            "as data.name takes it (tfds:<name>, npz:<file>, folder:<dir>)"
        )
    if data == "digits":
        digits(config)
        if not name:
            return
    else:
        config.data.name = data_name(data)
        config.eval_every = 6.0
    config.train.update(training(name or "crd", data))
    for network in (config.teacher, config.student):
        if _is_light(network.model):
            chosen = PROTOCOLS[name or "crd"]
            network.optimizer.learning_rate *= chosen.light_learning_rate / chosen.learning_rate


def training(name: str, data: str, model: str = "") -> dict[str, Any]:
    """How a protocol trains, as changes for `configs.common.inherit`.

    Args:
      name: one of `PROTOCOLS`.
      data: as for `protocol`.
      model: name of the model, on which the learning rate depends.
    """
    chosen = PROTOCOLS[name]
    rate = chosen.light_learning_rate if _is_light(model) else chosen.learning_rate
    small = data in ("cifar10", "cifar100")
    return dict(
        epochs=chosen.epochs,
        batch_size=chosen.batch_size,
        mean=chosen.mean if small else (),
        std=chosen.std if small else (),
        optimizer=dict(learning_rate=rate, nesterov=chosen.nesterov),
        schedule=dict(
            name="step",
            boundaries=chosen.boundaries,
            decay_rate=chosen.decay_rate,
            unit="fraction",
        ),
    )


def _is_light(model: str) -> bool:
    return model.startswith(("mobilenet", "shufflenet"))


def pair(teacher: str, student: str, data: str, name: str = "") -> ConfigDict:
    """A config with a phase `teacher`, from which most comparisons of a pair start.

    Args:
      teacher: name of the teacher's model.
      student: name of the student's model.
      data: as for `protocol`.
      name: as for `protocol`.

    Raises:
      UserError: on an unknown protocol.
    """
    config = common.base()
    config.teacher.model, config.student.model = teacher, student
    protocol(config, data, name)
    config.phases.teacher = common.inherit(config.teacher)
    return config
