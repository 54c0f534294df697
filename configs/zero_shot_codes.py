"""Whose data-free transfer it is: the paper's, its authors', its reproduction's, or a successor's.

Micaelli & Storkey 2019 (paper), polo5/ZeroShotKnowledgeTransfer and
polo5/FewShotKnowledgeTransfer (authors), Nicolini, Tadiello & Zamboni 2019 with
SZamboni/advanceddeep (report). Choi et al. 2020 as in zju-vipa/CMI (DFQ), and Fang et al. 2022 with
zju-vipa/Fast-Datafree (Fast).
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import common, protocols
from kdjax.adversarial import DFQ, FAST, GeneratorObjective

Changes = dict[str, Any]


class DataSet(NamedTuple):
    """A data set of these experiments.

    Attributes:
      source: as `data.name` takes it.
      side: of the images, in pixels.
      channels: of the images.
      classes: k.
      pseudo_batches: of a student without data.
      images: for training.
    """

    source: str
    side: int
    channels: int
    classes: int
    pseudo_batches: int
    images: int


DATA = {
    "digits": DataSet("digits", 16, 1, 10, 300, 1_201),
    "mnist": DataSet("tfds:mnist", 32, 1, 10, 25_000, 60_000),
    "fashion_mnist": DataSet("tfds:fashion_mnist", 32, 1, 10, 35_000, 60_000),
    "svhn": DataSet("tfds:svhn_cropped", 32, 3, 10, 50_000, 73_257),
    "cifar10": DataSet("tfds:cifar10", 32, 3, 10, 80_000, 50_000),
    "cifar100": DataSet("tfds:cifar100", 32, 3, 100, 80_000, 50_000),
}


class Training(NamedTuple):
    """How a network is trained on all images of a data set.

    Attributes:
      epochs: of SGD, with a rate that falls to a fifth at 30, 60 and 80 % of them.
      mean: of the normalisation, per channel.
      std: of the normalisation, per channel.
      augment: what differs from padded crops with flips.
      validation: share of the training images that is not used.
    """

    epochs: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Changes
    validation: float = 0.0

    def changes(self) -> Changes:
        """The changes to a layer of the config."""
        return {
            "epochs": self.epochs, "mean": self.mean, "std": self.std, "augment": self.augment
        }  # fmt: skip


_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
_SVHN = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
_MNIST = ((0.1307,), (0.3081,))
_UNCROPPED = {"crop": "none", "rotation": 20.0}
_REPORT = {
    "mnist": Training(10.0, *_MNIST, _UNCROPPED, 0.05),
    "fashion_mnist": Training(30.0, (0.5,), (0.5,), _UNCROPPED, 0.05),
    "svhn": Training(100.0, (0.5,) * 3, (0.5,) * 3, {"rotation": 20.0}, 0.01),
    "cifar10": Training(352.0, *_CIFAR10, {"rotation": 20.0, "jitter": 0.03}, 0.01),
    "cifar100": Training(450.0, *_CIFAR10, {"rotation": 20.0}, 0.01),
}
# The authors have no MNIST and no Fashion-MNIST; their SVHN is not augmented.
_AUTHORS = {
    **_REPORT,
    "svhn": Training(100.0, *_SVHN, {"crop": "none", "flip": False}),
    "cifar10": Training(200.0, *_CIFAR10, {}),
    "cifar100": Training(200.0, *_CIFAR100, {}),
}


class Code(NamedTuple):
    """What differs between the three.

    Attributes:
      adversarial: the loss and the loop of the phase without data.
      networks: options of student and teachers.
      training: of networks on data.
      kd_per_class: whether the KL of KD+AT is twice the mean over classes, not their sum.
    """

    adversarial: Changes
    networks: Changes
    training: dict[str, Training]
    kd_per_class: bool


CODES = {
    # The report reads the paper as having one learning rate for student and generator.
    "paper": Code({"distance": "kl", "learning_rate": 2e-3}, {}, _AUTHORS, False),
    "authors": Code({"distance": "kl_class_mean"}, {}, _AUTHORS, True),
    # What its authors did not notice when they compared their code with the original.
    "report": Code(
        {"distance": "kl_class_mean", "stale_teacher": True},
        {"raw_shortcut": True, "pytorch_init": True, "last_momentum": 0.1},
        _REPORT,
        True,
    ),
}


class Method(NamedTuple):
    """What a successor of zero-shot transfer has in place of `Code.adversarial`.

    Attributes:
      adversarial: the loss and the loop.
      student: changes to the student's phase.
      student_steps: updates of the student per pseudo-batch, and on the digits.
      pseudo_batches: of a student, and on the digits.
    """

    adversarial: Changes
    student: Changes
    student_steps: tuple[int, int]
    pseudo_batches: tuple[int, int]


def _student(learning_rate: float, **schedule: Any) -> Changes:
    """KD at a temperature of 20 by SGD, as in both code bases."""
    return {
        "objective": {"kd": {"weight": 1.0, "temperature": 20.0}},
        "optimizer": {
            "name": "sgd", "learning_rate": learning_rate, "momentum": 0.9, "weight_decay": 1e-4,
            "grad_clip_norm": 0.0,
        },
        "schedule": schedule,
    }  # fmt: skip


def _weights(objective: GeneratorObjective) -> Changes:
    """The keys of a generator's objective."""
    return {f"{term}_weight": weight for term, weight in objective._asdict().items()}


# What both have: the student learns from KD alone, and images are pixels.
_SUCCESSOR = {
    "distance": "kl", "student_distance": False, "student_eval": True, "stale_teacher": False,
    "optimizer": "adam", "momentum": 0.5, "latent_dim": 256, "sigmoid": True,
}  # fmt: skip
METHODS = {
    # scripts/dfq/dfq_cifar10_wrn402_wrn161.sh: 200 epochs of 400 updates of the student.
    "dfq": Method(
        _SUCCESSOR | _weights(DFQ) | {
            "fresh_images": True, "learning_rate": 1e-3, "features": 256,
        },
        _student(0.1), (10, 10), (8_000, 300),
    ),
    # scripts/fast_cifar.sh, wrn-10: 220 epochs of ten steps for a batch and, but in the first 20,
    # 400 updates of the student. With a rate of 0 these leave it as it is.
    "fast": Method(
        _SUCCESSOR | _weights(FAST) | {
            "generator_steps": (10,), "learning_rate": 2e-3, "latent_learning_rate": 0.01,
            "moments_decay": 0.9, "pool": 220, "warmup": 1 / 11,
        },
        _student(0.2, warmup=1 / 11, unit="fraction", num_stairs=1), (400, 50), (220, 60),
    ),
}  # fmt: skip
METHOD_BATCH_SIZE = 256


def set_up(config: ConfigDict, data: str, code: Code, steps: int) -> None:
    """Sets the data, and the layers of networks trained on it and of students without it.

    Args:
      config: from `configs.common.base`.
      data: one of `DATA`.
      code: whose experiment it is.
      steps: pseudo-batches of a student without data.
    """
    chosen = DATA[data]
    if data == "digits":
        protocols.digits(config)
    else:
        config.eval_every = 10.0
        training = code.training[data]
        config.train.mean, config.train.std = training.mean, training.std
        config.teacher.epochs = training.epochs
        config.teacher.augment.update(training.augment)
        config.data.validation = training.validation
        config.teacher.schedule.update(
            name="step", boundaries=(0.3, 0.6, 0.8), decay_rate=0.2, unit="fraction"
        )
    config.data.update(
        name=chosen.source, resize=chosen.side, image_size=chosen.side,
        channels=chosen.channels, num_classes=chosen.classes,
    )  # fmt: skip
    config.evaluation.update(resize=chosen.side, image_size=chosen.side)
    for layer in (config.teacher, config.student):
        layer.model_options = ConfigDict(code.networks)
    config.student.update(steps=steps, batch_size=64 if data == "digits" else 128, shots=0)
    config.student.optimizer.update(
        name="adam", learning_rate=2e-3, nesterov=False, weight_decay=0.0, grad_clip_norm=5.0
    )


def add_data_free(
    config: ConfigDict, name: str, code: Code, teacher: str = "teacher", **changes: Any
) -> None:
    """Adds a student without data.

    Args:
      config: after `set_up`.
      name: of the phase.
      code: whose loop it is; the networks are those of the layer unless changed.
      teacher: the phase that teaches it.
      **changes: to the phase; those of `adversarial` and `model_options` are added to `code`'s.
    """
    steps = config.student.steps
    adversarial = {
        "distance": "kl",
        "generator_steps": (1,),
        "student_steps": (10,),
        "learning_rate": 1e-3,
        "latent_dim": 100,
        "spectral_norm": False,
        "stale_teacher": False,
        "eval_every": max(1, steps // 80) if steps > 1000 else max(1, steps // 12),
    }
    adversarial |= code.adversarial | changes.pop("adversarial", {})
    options = code.networks | changes.pop("model_options", {})
    config.phases[name] = common.inherit(
        config.student,
        **{"teachers": (teacher,), "objective": {"at": {"weight": 250.0}}} | changes,
        adversarial=adversarial,
        model_options=options,
    )


def add_few_shot(
    config: ConfigDict,
    name: str,
    code: Code,
    data: str,
    *,
    shots: int,
    teacher: str = "teacher",
    init_from: str = "",
    **changes: Any,
) -> None:
    """Adds a student by KD and attention transfer on a few real images (KD+AT).

    Alone it makes as many updates as on all images, as in polo5/FewShotKnowledgeTransfer, and
    each seed draws images of its own. After `init_from` it makes a tenth of them at a tenth of
    the learning rate; that is our choice, since the authors' code does not have this experiment.

    Args:
      config: after `set_up`.
      name: of the phase.
      code: whose loss it is.
      data: one of `DATA`.
      shots: M, images per class; 0 for all.
      teacher: the phase that teaches it.
      init_from: the phase whose student it starts from.
      **changes: to the phase.
    """
    updates = round(config.teacher.epochs * DATA[data].images / config.train.batch_size)
    # The authors write 2 * 0.9 * T^2 times PyTorch's kl_div, which is a mean over classes, too.
    weight = 1.8 / DATA[data].classes if code.kd_per_class else 0.9
    config.phases[name] = common.inherit(
        config.student,
        **dict(
            teachers=(teacher,),
            objective={
                "cross_entropy": {"weight": 0.1},
                "kd": {"weight": weight, "temperature": 4.0},
                "at": {"weight": 1000.0},
            },
            shots=shots,
            shots_per_seed=True,
            steps=max(1, updates // 10) if init_from else updates,
            batch_size=config.train.batch_size,
            init_from=init_from,
            optimizer={
                "name": "sgd", "learning_rate": 0.01 if init_from else 0.1, "weight_decay": 5e-4,
                "grad_clip_norm": 0.0,
            },
            schedule={
                "name": "step", "boundaries": (0.3, 0.6, 0.8), "decay_rate": 0.2,
                "unit": "fraction",
            },
        )
        | changes,
    )  # fmt: skip
