"""How papers train on CIFAR, and how every config trains on the digits."""

from typing import NamedTuple

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
      boundaries: shares of the run at which the learning rate falls to a tenth.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    light_learning_rate: float
    nesterov: bool
    boundaries: tuple[float, ...]


# After 150, 180 and 210 of 240 epochs.
_LATE = (150 / 240, 180 / 240, 210 / 240)
PROTOCOLS = {
    # Tian et al. 2020: RepDistiller, and mdistiller after it.
    "crd": Protocol(240.0, 64, 0.05, 0.01, False, _LATE),
    # The CIFAR-10 survey (karanchahal/distiller).
    "survey": Protocol(200.0, 128, 0.1, 0.1, True, (0.33, 0.66)),
    # Chen et al. 2021: ReviewKD.
    "review": Protocol(240.0, 128, 0.1, 0.02, True, _LATE),
}
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
    if data == "digits":
        digits(config)
        if not name:
            return
    else:
        config.data.name = f"tfds:{data}" if data in _TFDS else data
        config.eval_every = 6.0
    chosen = PROTOCOLS[name or "crd"]
    config.train.update(epochs=chosen.epochs, batch_size=chosen.batch_size)
    config.train.optimizer.update(learning_rate=chosen.learning_rate, nesterov=chosen.nesterov)
    config.train.schedule.update(
        name="step", boundaries=chosen.boundaries, decay_rate=0.1, unit="fraction"
    )
    for network in (config.teacher, config.student):
        if network.model.startswith(("mobilenet", "shufflenet")):
            network.optimizer.learning_rate *= chosen.light_learning_rate / chosen.learning_rate


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
