"""The tables and figures of "Understanding Teacher-Student Architectural Choices"."""

import re

import pytest

from configs import choices

# Table 2 as printed: teacher, mixup, learning rate, temperature, top-1 accuracy.
TABLE_2 = """
Trained from scratch | N | 0.001 | NA | 31.53
ResNet44 | Y | 0.001 | 5 | 40.67
VGG11_bn | Y | 0.001 | 5 | 37.26
MobileNetv2_x0_75 | Y | 0.001 | 5 | 42.22
MobileNetv2_x0_75 | Y | 0.001 | 2 | 39.14
MobileNetv2_x0_75 | Y | 0.001 | 10 | 43.42
MobileNetv2_x0_75 | Y | 0.01 | 10 | 40.97
MobileNetv2_x0_75 | Y | 0.003 | 5 | 42.3
MobileNetv2_x0_75 | N | 0.001 | 10 | 48.21
"""
TABLE_1 = """
ResNet44 | 71.63 | 91.58 | 0.67 | 97.44
VGG11_bn | 70.78 | 88.87 | 9.8 | 153.34
MobileNetv2_x0_75 | 73.61 | 92.61 | 1.48 | 59.43
MobileNet_v3_small | 73.69 | 92.31 | 1.61 | 17.6
"""


def printed(text):
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


@pytest.fixture(scope="module")
def config():
    return choices.get_config("table=2,data=cifar100")


def test_table_2_has_the_numbers_of_the_paper(config):
    table = config.report.table_2
    columns = [i for i, name in enumerate(table.columns) if name not in ("here", "agreement")]
    assert [[row[i] for i in columns] for row in table.rows] == printed(TABLE_2)


def test_table_1_has_the_numbers_of_the_paper_and_our_multiply_adds(config):
    table = config.report.table_1
    columns = [i for i, name in enumerate(table.columns) if "here" not in name]
    assert [[row[i] for i in columns] for row in table.rows] == printed(TABLE_1)
    ours = [float(row[-1]) for row in table.rows]
    assert ours == pytest.approx([97.44, 153.34, 59.43, 17.6], abs=0.005)


def test_every_student_has_its_cell_and_trains_as_its_row_says(config):
    cells = re.findall(r"{(\w+)\[test\]\[accuracy\]", str(config.report.table_2.rows))
    students = [name for name in config.phases if not name.startswith("teacher")]
    assert cells == students
    for name, row in zip(students, config.report.table_2.rows, strict=True):
        phase = config.phases[name]
        assert phase.optimizer.name == "adam"
        assert phase.optimizer.learning_rate == float(row[3])
        assert phase.schedule.name == "cosine"
        assert phase.augment.mixup == (row[2] == "Y")
        if name != "scratch":
            assert list(phase.objective) == ["kd"]
            assert phase.objective.kd.temperature == float(row[4])
            assert phase.epochs == (400 if name.startswith("from_teacher") else 300)


def test_only_the_student_from_scratch_stops_early_and_never_on_test(config):
    assert config.data.validation > 0
    assert {name: p.early_stopping for name, p in config.phases.items() if p.early_stopping} == {
        "scratch": 20
    }


@pytest.mark.parametrize("figure", choices.FIGURES)
def test_a_figure_has_its_rows_and_their_teachers_alone(figure):
    phases = choices.get_config(f"figure={figure},data=cifar100").phases
    students = [name for name in phases if not name.startswith("teacher")]
    assert tuple(students) == choices.FIGURES[figure]
    needed = {teacher for name in students for teacher in phases[name].teachers}
    assert needed == {name for name in phases if name.startswith("teacher")}
