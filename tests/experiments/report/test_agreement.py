"""What two predictions have in common, counted by hand."""

import numpy as np
import pytest

from experiments.report import agreement
from experiments.report.agreement import Pair, Prediction

TEACHER = np.array([0, 0, 1, 1, 2, 2])
STUDENT = np.array([0, 2, 1, 0, 0, 1])
LABELS = np.array([0, 2, 2, 1, 1, -1])


def test_a_prediction_is_the_largest_probability():
    logits = np.log(np.array([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]], np.float32)) + 100
    found = Prediction.of(logits)
    assert found.classes.tolist() == [1, 0]
    np.testing.assert_allclose(found.probabilities, [0.5, 0.9], rtol=1e-5)


def test_a_confusion_has_the_teachers_class_in_its_rows():
    counts = agreement.confusion(TEACHER, STUDENT, 3)
    assert counts.tolist() == [[1, 0, 1], [1, 1, 0], [1, 1, 0]]
    assert np.trace(counts) == (TEACHER == STUDENT).sum()


def test_frequent_pairs_are_of_different_classes_in_order():
    counts = np.array([[9, 0, 2], [3, 9, 0], [0, 0, 9]])
    assert agreement.frequent_pairs(counts, 5) == [Pair(1, 0, 3), Pair(0, 2, 2)]
    assert agreement.frequent_pairs(counts, 1) == [Pair(1, 0, 3)]


def test_accuracy_by_class_leaves_out_what_is_not_known():
    found = agreement.per_class(TEACHER, LABELS, 4)
    assert found[:3].tolist() == [1.0, 0.5, 0.0]
    assert np.isnan(found[3])


def test_the_surest_disagreements_come_first():
    teacher = Prediction(TEACHER, np.array([0.9, 0.6, 0.9, 0.9, 0.5, 0.99]))
    student = Prediction(STUDENT, np.array([0.9, 0.7, 0.9, 0.4, 0.9, 0.95]))
    assert agreement.disagreements(teacher, student, 3).tolist() == [5, 1, 4]
    assert agreement.disagreements(teacher, teacher, 3).tolist() == []


def test_outcomes_are_shares_of_the_labelled_images():
    found = agreement.outcomes(TEACHER, STUDENT, LABELS)
    assert found == agreement.Outcomes(
        both=1 / 5, teacher=1 / 5, student=1 / 5, same_mistake=1 / 5, other_mistake=1 / 5
    )
    assert sum(found) == pytest.approx(1)
