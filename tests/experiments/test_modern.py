"""The table of methods since 2022: its published figures, and how its students are trained."""

import functools

import pytest

from configs import compare
from configs.modern import PAIRS, ROWS
from kdjax.types import UserError

# resnet56 to resnet20, resnet32x4 to resnet8x4, wrn_40_2 to wrn_16_2, resnet32x4 to shufflenetv2.
PRINTED = """
Teacher | 72.34 | 79.42 | 75.61 | 79.42
Student | 69.06 | 72.50 | 73.26 | 71.82
KD | 70.66 | 73.33 | 74.92 | 74.45
DKD | 71.97 | 76.32 | 76.24 | 77.07
DIST | 71.75 | 76.31 | 75.51 | 77.35
TTM | 71.83 | 76.17 | 76.23 | 76.57
WTTM | 71.92 | 76.06 | 76.37 | 76.55
NKD | | | | 76.26
RLD | | | |
MLKD | 72.19 | 77.08 | 76.63 | 78.44
KD, standardised | 71.43 | 76.62 | 76.11 | 75.56
DKD, standardised | 72.32 | 77.01 | 76.39 | 77.37
MLKD, standardised | 72.33 | 78.28 | 76.95 | 78.76
CTKD | 71.19 | 73.39 | 75.45 | 75.37
SDD | | | | 76.67
SimKD | | 78.08 | |
KD + DOT | | 75.12 | | 75.55
"""


@functools.cache
def _config():
    return compare.get_config("table=modern,data=cifar100")


def test_the_table_has_the_published_accuracies():
    rows = _config().report.modern.rows
    printed = [[c.strip() for c in line.split("|")] for line in PRINTED.strip().splitlines()]
    assert [[row[0], *row[1::2]] for row in rows] == printed
    config = compare.get_config("table=modern,teacher=wrn_40_2,methods=dist").report.modern
    assert config.columns == ["Method", "wrn_40_2 to wrn_16_2", "here"]
    assert [row[1] for row in config.rows] == ["75.61", "73.26", "75.51"]


def test_mlkd_has_its_authors_schedule_and_others_the_protocol():
    phases = _config().phases
    rates, lengths = {}, {}
    for pair in PAIRS:
        for method in ("kd", "mlkd"):
            phase = phases["_".join([method, *pair])]
            falls = [round(share * phase.epochs) for share in phase.schedule.boundaries]
            assert falls == [150, 180, 210]
            rates[method, pair[1]] = pytest.approx(phase.optimizer.learning_rate)
            lengths[method, pair[1]] = phase.epochs
    assert rates["kd", "resnet20"] == 0.05
    assert rates["mlkd", "resnet20"] == 0.025
    assert rates["kd", "shufflenetv2"] == rates["mlkd", "shufflenetv2"] == 0.01
    assert lengths["mlkd", "wrn_16_2"] == 480
    assert lengths["mlkd", "shufflenetv2"] == 960
    strong = phases.mlkd_resnet56_resnet20.extra_views.strong
    assert (strong.policy, strong.policy_ops, strong.policy_magnitude) == ("randaugment", 2, 10.0)
    assert not phases.kd_resnet56_resnet20.extra_views


def test_standardised_logits_have_the_temperature_and_weight_of_their_pair():
    for name, temperature, weight in (
        ("dkd_standardized_resnet56_resnet20", 3.0, 18.0),
        ("dkd_standardized_wrn_40_2_wrn_16_2", 2.0, 12.0),
        ("kd_standardized_resnet32x4_shufflenetv2", 2.0, 9.0),
        ("mlkd_standardized_resnet32x4_shufflenetv2", 2.0, 12.0),
    ):
        term = _config().phases[name].objective[name.split("_")[0]]
        assert (term.temperature, term.weight, term.standardize) == (temperature, weight, True)


def test_dot_differs_from_kd_by_the_optimizer():
    for pair, rate in (("resnet32x4_resnet8x4", 0.05), ("resnet32x4_shufflenetv2", 0.01)):
        kd, dot = (_config().phases[f"{name}_{pair}"] for name in ("kd", "kd_dot"))
        assert dot.objective == kd.objective
        changed = {key for key in kd.optimizer if kd.optimizer[key] != dot.optimizer[key]}
        assert changed == {"name"}
        assert dot.optimizer.name == "dot"
        assert dot.optimizer.delta == 0.075
        assert dot.optimizer.learning_rate == pytest.approx(rate)


def test_another_pair_has_the_weights_without_a_pair_and_no_published_figures():
    config = compare.get_config(
        "table=modern,teacher=resnet20,student=resnet8,data=cifar10,methods=mlkd/dkd_standardized"
    )
    table = config.report.modern
    assert table.columns == ["Method", "here"]
    assert [row[0] for row in table.rows] == ["Teacher", "Student", "MLKD", "DKD, standardised"]
    assert {len(row) for row in table.rows} == {2}
    assert table.caption == "Test accuracies of resnet20 to resnet8 in percent, last epoch."
    mlkd, dkd = (config.phases[f"{row}_resnet20_resnet8"] for row in ("mlkd", "dkd_standardized"))
    # The same budget for all.
    assert (mlkd.epochs, mlkd.optimizer.learning_rate) == (dkd.epochs, 0.05)
    assert (dkd.objective.dkd.temperature, dkd.objective.dkd.weight) == (2.0, 9.0)


def test_pairs_and_rows_that_are_not_in_the_table_are_named():
    for arg, message in (
        ("teacher=vgg13", "no vgg13 to student: name both networks, or choose from resnet56 to "),
        ("methods=crd", "no row 'crd': choose from kd, dkd, "),
    ):
        with pytest.raises(UserError, match=message):
            compare.get_config(f"table=modern,{arg}")
    with pytest.raises(UserError, match="no table=2: choose from table=modern"):
        compare.get_config("table=2")
    assert set(ROWS) >= {"dist", "ttm", "wttm", "nkd", "rld", "mlkd"}
