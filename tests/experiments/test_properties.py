"""Properties of networks whose properties are known, and the command."""

import json
import subprocess
import sys

import numpy as np
import pytest
from small_run import small_config

from configs.tables import add_table
from experiments import probing, report
from kdjax import networks
from kdjax.types import UserError


@pytest.fixture(scope="module")
def subjects(finished):
    """Teacher and an independent student of the small run."""
    return [probing.Subject.of(networks.load(str(finished / name))) for name in ("teacher", "kd")]


def images(n=9, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, 8, 8, 1)).astype(np.float32) / 255
    return probing.Images.at(np.arange(n), pixels, np.arange(n, dtype=np.int32) % 10, seed)


def test_a_student_that_is_its_teacher_has_all_of_its_properties(subjects):
    teacher, other = subjects
    both = [teacher, other]
    figures, (same, different) = probing.adversarial(
        teacher, both, images(), eps=0.5, alpha=0.2, steps=3
    )
    assert same["fooling_rate"] == 1
    assert same["images"] == different["images"] == round(figures["fooling_rate"] * 9) > 0
    _, (same, different) = probing.domains(teacher, both, images(), made=["noise"], others={})
    assert set(same["consensus"].values()) == {1.0}
    assert min(different["consensus"].values()) < 1
    _, (same, different) = probing.cam(teacher, both, images(), independent=other)
    assert same["cosine"] == pytest.approx(1, abs=1e-5)
    assert different["cosine"] < 0.999
    # No cosine is larger than itself.
    assert different["closer"] == 0 < same["closer"]
    _, (same, _) = probing.plane(teacher, both, images(), triplets=2, grid=4)
    assert same == {"agreement": 1.0, "deviation": 0.0}
    for features in ("flat", "mean"):
        _, (same, different) = probing.cka(
            teacher, both, images(), kernel="linear", features=features
        )
        assert set(same["corresponding"].values()) == {1.0}
        assert max(different["corresponding"].values()) < 1


def test_an_attack_without_strength_fools_nobody(subjects):
    teacher, other = subjects
    figures, (found,) = probing.adversarial(teacher, [other], images(), eps=0.0, alpha=0.1, steps=1)
    assert figures["fooling_rate"] == 0
    assert figures["accuracy"] == figures["attacked_accuracy"]
    assert found == {"images": 0}


@pytest.mark.parametrize(
    ("view", "strengths"), [("color", "0,1"), ("crop", "1,.2"), ("shift", "0,4")]
)
def test_networks_agree_with_themselves_on_the_same_image(subjects, view, strengths):
    teacher, other = subjects
    measured = [
        probing.self_agreement(teacher, [other], images(), view=view, strengths=strengths)
        for _ in range(2)
    ]
    assert measured[0] == measured[1]
    figures, (found,) = measured[0]
    for one in (figures, found):
        still, strong = one["agreement"].values()
        assert still == 1
        assert 0 <= strong <= 1


@pytest.mark.parametrize(
    ("view", "strength", "allowed"),
    [
        ("crop", "0", r"in \(0, 1\]"),
        ("shift", "1.5", r"whole numbers in \[0, 8\)"),
        ("color", "much", r"in \[0, 1\]"),
    ],
)
def test_a_strength_that_is_none_is_refused(subjects, view, strength, allowed):
    with pytest.raises(UserError, match=f"--strengths has '{strength}': for {view} .*{allowed}"):
        probing.self_agreement(subjects[0], [], images(), view=view, strengths=strength)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.properties", "--trust=small_run", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_prints_json_and_a_table(finished):
    teacher, student = finished / "teacher", finished / "kd"
    done = command(
        f"--teacher={teacher}", f"--students={teacher},{student}", "--probe=plane", "--table",
        "--images=20", "--triplets=2", "--grid=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["probe"], result["data"], result["images"]) == ("plane", "digits", 20)
    same, _ = result["students"]
    assert (same["network"], same["agreement"]) == (str(teacher), 1.0)
    assert same["model"] == "small_run:Tiny"
    assert "agreement" in done.stderr


def test_a_mistake_is_one_line():
    done = command("--teacher=a", "--students=b", "--probe=colour")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "--probe is 'colour': choose from adversarial, color" in line


def test_a_table_of_a_probe_is_filled_by_its_figures_and_not_by_the_run():
    config = small_config()
    row = ["kd", "48.62", "{kd[adversarial][fooling_rate]:.2%}"]
    add_table(
        config, "fooling", caption="", columns=["", "paper", "here"], rows=[row],
        probe="adversarial",
    )  # fmt: skip
    members = {
        f"kd_seed{seed}": {"phase": "kd", "adversarial": {"fooling_rate": rate}}
        for seed, rate in enumerate((0.4, 0.6))
    }
    described = config.report.to_dict()
    (table,) = report.probe_tables("adversarial", members, described)
    assert table.rows == [["kd", "48.62", "50.00% ± 14.14%"]]
    assert report.probe_tables("color", members, described) == []
    assert len(report.tables({"phases": {}, "config": {"report": described}})) == 1
