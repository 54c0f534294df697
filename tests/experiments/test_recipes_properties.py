"""The recipes of Ojha et al. 2023, and the tables that probes fill."""

import re

import pytest
from small_run import execute, refusal

from configs import recipes
from experiments import plan, report, run
from experiments.log import read_metrics
from kdjax.types import UserError

PROBES = {
    "table_2": "adversarial", "table_8": "color", "table_10": "crop", "table_11": "domains",
    "figure_2": "cam", "table_13": "domains", "table_1": "plane",
}  # fmt: skip


@pytest.mark.parametrize("arg", ["properties", "properties_mnist"])
def test_tables_name_phases_that_there_are_and_the_probe_that_measures_them(arg):
    config = recipes.get_config(arg)
    for name, table in config.report.items():
        cells = [cell for row in table.rows for cell in row if "{" in cell]
        named = [re.match(r"{(\w+)\[(\w+)\]", cell).groups() for cell in cells]
        assert {phase for phase, _ in named} <= set(config.phases)
        assert {key for _, key in named} == {PROBES.get(name, "test")}
        assert table.get("probe") == PROBES.get(name)


def test_figures_of_a_domain_whose_name_has_colons_fill_their_cells():
    config = recipes.get_config("properties_mnist")
    domains = {"images": 0.9, "domains:color:digits": 0.5, "domains:texture:digits": 0.25}
    measured = {"kd": {"phase": "kd", "domains": {"accuracy": domains}}}
    (table,) = report.probe_tables("domains", measured, config.report.to_dict())
    assert table.rows[1] == [
        "KL", "98.90 (98.9)", "91.76 (89.4)", "67.92 (66.6)", "90.00%", "50.00%", "25.00%",
    ]  # fmt: skip


def test_only_the_teacher_has_seen_all_domains():
    plans, _ = plan.plan_all(run.resolve(recipes.get_config("properties_mnist")))
    teacher, *students = (one.data for one in plans)
    assert len(teacher.train) == 3 * 1201
    assert {len(one.train) for one in students} == {40}
    assert {len(one.splits["test"]) for one in (teacher, *students)} == {596}
    phases = recipes.get_config("properties_mnist,data=mnist").phases
    assert phases.teacher.images.name == "domains:plain+color+texture:tfds:mnist@tfds:cifar10"
    assert (phases.kd.model, phases.kd.optimizer.name) == ("mnist_cnn", "adadelta")


def test_only_the_teachers_colours_change():
    phases = recipes.get_config("properties,jitter=0.4").phases
    jittered = {name: phase.augment.jitter for name, phase in phases.items()}
    assert jittered.pop("teacher") == 0.4
    assert set(jittered.values()) == {0.0}
    # RepDistiller's weights.
    assert [phases[name].objective[name].weight for name in ("kd", "fitnet", "crd")] == [
        0.9, 100.0, 0.8,
    ]  # fmt: skip


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="unknown config argument 'jiter': choose from recipe"):
        recipes.get_config("properties,jiter=1")
    with pytest.raises(UserError, match="unknown config argument 'teacher'"):
        recipes.get_config("properties_mnist,teacher=lenet")
    config = recipes.get_config("properties_mnist,textures=digits")
    assert "textures 'digits' are 8x8" in refusal(config, tmp_path / "run")


@pytest.mark.parametrize("arg", ["properties", "properties_mnist"])
def test_every_student_but_the_independent_ones_learns_from_the_teacher(arg, tmp_path):
    config = recipes.get_config(arg)
    config.debug = True
    for phase in config.phases.values():
        phase.model = "lenet"
    execute(config, tmp_path / "run")
    for name in set(config.phases) - {"teacher"}:
        rows = read_metrics(tmp_path / "run" / name / "metrics.jsonl")
        terms = {key for key in rows[-1] if key in ("train/kd", "train/fitnet", "train/crd")}
        assert bool(terms) != name.startswith("independent"), (name, rows[-1])
