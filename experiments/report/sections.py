"""What a page says of predictions: who is right, which classes are confused, which images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.report import agreement, thumbnails
from experiments.report.agreement import Pair, Prediction
from experiments.report.predictions import Compared, Predictions
from experiments.report.tables import Cells

# A confusion of more classes is a picture, and only some of them are in a table.
_LARGEST_TABLE = 20
_PAIRS, _IMAGES = 12, 12


class Confusion(NamedTuple):
    """The confusion between a phase and its teacher.

    Attributes:
      counts: [k, k], over all members.
      heat: [k, k], shares in [0, 1] of the largest count off the diagonal; 0 on it.
      picture: a PNG of `heat` as a data URI, where a table would be too large; else "".
      pairs: the most frequent pairs of different classes.
    """

    counts: np.ndarray
    heat: np.ndarray
    picture: str
    pairs: list[Pair]


class Example(NamedTuple):
    """An image on which teacher and student disagree.

    Attributes:
      position: in the test split.
      picture: a PNG as a data URI.
      label: the name of its class; "" if unknown.
      teacher: the name of the class that the teacher predicts.
      teacher_probability: in [0, 1].
      student: the same for the student.
      student_probability: in [0, 1].
    """

    position: int
    picture: str
    label: str
    teacher: str
    teacher_probability: float
    student: str
    student_probability: float


class Student(NamedTuple):
    """A phase beside its teacher.

    Attributes:
      phase: its name.
      teachers: what the run calls its teachers.
      seeds: number of members.
      images: of the test split.
      apart: share of images on which they disagree, the mean over members.
      outcomes: who is right; None without labels.
      confusion: between them.
      member: the member of which `examples` are.
      examples: images on which it disagrees with its teacher.
    """

    phase: str
    teachers: str
    seeds: int
    images: int
    apart: float
    outcomes: agreement.Outcomes | None
    confusion: Confusion
    member: str
    examples: list[Example]


def students(found: Predictions) -> list[Student]:
    """All phases that have a teacher of the same classes."""
    compared = {
        phase: [(one, one.teacher) for one in members if one.teacher is not None]
        for phase, members in found.phases.items()
    }
    return [_student(phase, pairs, found) for phase, pairs in compared.items() if pairs]


def _student(
    phase: str, pairs: Sequence[tuple[Compared, Prediction]], found: Predictions
) -> Student:
    apart = [teacher.classes != one.own.classes for one, teacher in pairs]
    outcomes = None
    if (found.labels >= 0).any():
        each = [
            agreement.outcomes(teacher.classes, one.own.classes, found.labels)
            for one, teacher in pairs
        ]
        outcomes = agreement.Outcomes(*map(float, np.mean(each, axis=0)))
    first, teacher = pairs[0]
    return Student(
        phase=phase,
        teachers=" + ".join(first.teachers),
        seeds=len(pairs),
        images=len(found.split),
        apart=float(np.mean(apart)),
        outcomes=outcomes,
        confusion=_confusion(pairs, found.num_classes),
        member=first.member,
        examples=_examples(first.own, teacher, found),
    )


def _confusion(pairs: Sequence[tuple[Compared, Prediction]], num_classes: int) -> Confusion:
    counts = sum(
        agreement.confusion(teacher.classes, one.own.classes, num_classes) for one, teacher in pairs
    )
    assert isinstance(counts, np.ndarray)
    apart = np.where(np.eye(num_classes, dtype=bool), 0, counts)
    heat = apart / max(apart.max(), 1)
    picture = thumbnails.heat_map(heat) if num_classes > _LARGEST_TABLE else ""
    return Confusion(counts, heat, picture, agreement.frequent_pairs(counts, _PAIRS))


def _examples(own: Prediction, teacher: Prediction, found: Predictions) -> list[Example]:
    chosen = agreement.disagreements(teacher, own, _IMAGES)
    if not len(chosen):
        return []
    names = found.class_names
    return [
        Example(
            position=i,
            picture=thumbnails.data_uri(image),
            label=names[found.labels[i]] if found.labels[i] >= 0 else "",
            teacher=names[teacher.classes[i]],
            teacher_probability=float(teacher.probabilities[i]),
            student=names[own.classes[i]],
            student_probability=float(own.probabilities[i]),
        )
        for i, image in zip(chosen.tolist(), found.split.split.images[chosen], strict=True)
    ]


def per_class(found: Predictions) -> Cells:
    """Accuracy on the images of each class, the mean over members; without rows if unknown.

    Of many classes only those are shown on which networks differ most.
    """
    columns = {
        name: agreement.per_class(own.classes, found.labels, found.num_classes)
        for name, own in found.elsewhere.items()
    }
    for phase, members in found.phases.items():
        each = [
            agreement.per_class(one.own.classes, found.labels, found.num_classes) for one in members
        ]
        columns[phase] = np.mean(each, axis=0)
    figures = np.stack(list(columns.values()), axis=1)
    images = np.bincount(found.labels[found.labels >= 0], minlength=found.num_classes)
    shown = np.flatnonzero(images)
    caption = "Accuracy on the images of each class of the test split, the mean over seeds."
    if len(shown) > _LARGEST_TABLE:
        spread = np.ptp(figures[shown], axis=1)
        shown = np.sort(shown[np.argsort(-spread, kind="stable")[:_LARGEST_TABLE]])
        caption = (
            f"The {len(shown)} of {int((images > 0).sum())} classes on which the networks differ "
            "most: accuracy on their images of the test split, the mean over seeds."
        )
    rows = [
        [found.class_names[i], f"{images[i]:,}", *(_percent(value) for value in figures[i])]
        for i in shown.tolist()
    ]
    return Cells(caption, ["class", "images", *columns], rows)


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.1%}"


def outcome_table(found: Sequence[Student]) -> Cells:
    """Who is right, a row for each phase."""
    headings = (
        "phase", "teacher", "disagree", "both right", "only the teacher", "only the student",
        "same mistake", "different mistakes",
    )  # fmt: skip
    rows = [
        [one.phase, one.teachers, f"{one.apart:.2%}"]
        + ([f"{share:.2%}" for share in one.outcomes] if one.outcomes else [""] * 5)
        for one in found
    ]
    return Cells("Shares of the images of the test split, the mean over seeds.", headings, rows)
