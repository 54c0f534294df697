"""What two networks' predictions have in common: pure functions of classes, without models."""

from typing import NamedTuple

import numpy as np


class Prediction(NamedTuple):
    """What a network predicts for n images.

    Attributes:
      classes: int [n], the most probable class.
      probabilities: float32 [n], that of this class.
    """

    classes: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray) -> "Prediction":
        """The prediction of logits [n, k]."""
        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        return cls(logits.argmax(-1), 1 / shifted.sum(-1))


class Pair(NamedTuple):
    """How often two networks predict one pair of classes.

    Attributes:
      teacher: the teacher's class.
      student: the student's.
      images: how many.
    """

    teacher: int
    student: int
    images: int


def confusion(teacher: np.ndarray, student: np.ndarray, num_classes: int) -> np.ndarray:
    """int [k, k], how often the teacher predicts the row's class and the student the column's.

    Args:
      teacher: int [n], the teacher's classes.
      student: int [n], the student's.
      num_classes: k.
    """
    flat = np.bincount(teacher * num_classes + student, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def frequent_pairs(counts: np.ndarray, at_most: int) -> list[Pair]:
    """The pairs of different classes that are most frequent in a confusion [k, k], in order."""
    apart = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-apart, axis=None, kind="stable")[:at_most]
    pairs = ((int(i) // len(counts), int(i) % len(counts)) for i in order)
    return [Pair(*pair, int(apart[pair])) for pair in pairs if apart[pair]]


def per_class(classes: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """float [k], the accuracy on the images of each class; NaN for a class without images.

    Args:
      classes: int [n], predicted.
      labels: int [n], -1 where unknown; these images are left out.
      num_classes: k.
    """
    known = labels >= 0
    images = np.bincount(labels[known], minlength=num_classes)
    right = np.bincount(labels[known & (classes == labels)], minlength=num_classes)
    return np.where(images, right / np.maximum(images, 1), np.nan)


def disagreements(teacher: Prediction, student: Prediction, at_most: int) -> np.ndarray:
    """int [m], the images on which two networks disagree, those of which both are surest first."""
    apart = np.flatnonzero(teacher.classes != student.classes)
    sureness = np.minimum(teacher.probabilities, student.probabilities)[apart]
    return apart[np.argsort(-sureness, kind="stable")[:at_most]]


class Outcomes(NamedTuple):
    """Shares of images by who is right.

    Attributes:
      both: teacher and student.
      teacher: the teacher alone.
      student: the student alone.
      same_mistake: neither, with the same class.
      other_mistake: neither, with different classes.
    """

    both: float
    teacher: float
    student: float
    same_mistake: float
    other_mistake: float


def outcomes(teacher: np.ndarray, student: np.ndarray, labels: np.ndarray) -> Outcomes:
    """Who is right how often; images whose label is -1, unknown, are left out."""
    known = labels >= 0
    teacher, student, labels = teacher[known], student[known], labels[known]
    first, second, same = teacher == labels, student == labels, teacher == student
    parts = (
        first & second, first & ~second, ~first & second, ~first & ~second & same,
        ~first & ~second & ~same,
    )  # fmt: skip
    return Outcomes(*(float(part.mean()) if len(labels) else 0.0 for part in parts))
