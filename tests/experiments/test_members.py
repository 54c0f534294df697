"""Several seeds of a phase: its members, and that each is what it would be alone."""

import re

import pytest
from small_run import execute, small_config

from configs import common
from experiments import members, run, train_loop
from experiments.log import PhaseLog, read_metrics
from experiments.running import RunningMember
from kdjax import checkpoint
from kdjax.types import UserError

PHASE = {
    "seed": 7, "seeds": (), "checkpoint": "", "teachers": (), "init_from": "",
    "init_methods_from": "",
    "continue_from": "",
    "compared_with": (),
    "ensemble": (),
}  # fmt: skip


def config_of(**changes):
    """A teacher, and students by kd of two seeds."""
    config = small_config()
    del config.phases["scratch"]
    config.seeds = (0, 1)
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Folder and summary of a run with two seeds of its student."""
    workdir = tmp_path_factory.mktemp("seeds") / "run"
    summary, printed = execute(config_of(), workdir)
    return workdir, summary, printed


def figures(workdir, name):
    """The logged figures of a phase that do not depend on the time, without names."""
    rows = read_metrics(workdir / name / "metrics.jsonl")
    return [
        [value for key, value in row.items() if key.startswith(("train/", "test/", "step"))]
        for row in rows
    ]


def test_a_phase_without_seeds_has_one_member_of_its_name():
    phases = {"teacher": PHASE, "kd": PHASE | {"teachers": ("teacher", "runs/a/b")}}
    (teacher,), (kd,) = members.expand(phases).values()
    assert (teacher.phase, teacher.name, teacher.seed) == ("teacher", "teacher", 7)
    assert (kd.name, kd.teachers) == ("kd", ("teacher", "runs/a/b"))
    assert kd.needs == {"teacher", "runs/a/b"}


def test_a_member_takes_what_it_needs_from_members_of_its_own_seed():
    several = PHASE | {"seeds": (3, 5)}
    phases = {
        "one": PHASE,
        "assistant": several | {"teachers": ("one",)},
        "last": several | {"teachers": ("one", "assistant"), "init_from": "assistant"},
    }
    expanded = members.expand(phases)
    assert {phase: [one.name for one in own] for phase, own in expanded.items()} == {
        "one": ["one"],
        "assistant": ["assistant_seed3", "assistant_seed5"],
        "last": ["last_seed3", "last_seed5"],
    }
    assert [one.seed for own in expanded.values() for one in own] == [7, 3, 5, 3, 5]
    assert expanded["last"][1].teachers == ("one", "assistant_seed5")
    assert expanded["last"][0].init_from == "assistant_seed3"


def test_a_network_from_a_checkpoint_has_one_member_for_all_seeds():
    several = PHASE | {"seeds": (0, 1)}
    phases = {
        "teacher": several | {"checkpoint": "a.pth"},
        "kd": several | {"init_from": "teacher"},
    }
    expanded = members.expand(phases)
    assert [one.name for one in expanded["teacher"]] == ["teacher"]
    assert [one.name for one in expanded["kd"]] == ["kd_seed0", "kd_seed1"]
    assert expanded["kd"][1].init_from == "teacher"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(seeds=(1, 1)),
            "seeds is (1, 1): it must be a tuple of different values",
        ),
        (
            lambda c: c.update(seeds=(0, -1)),
            "seeds is (0, -1): it must be a tuple of different values, each a whole number",
        ),
        (lambda c: c.update(seeds=(0.5,)), "seeds is (0.5): it must be"),
        (lambda c: c.teacher.update(seeds=(0, 2)), "'kd' of seed 1 needs 'teacher', which has"),
        (lambda c: (c.update(seeds=()), c.teacher.update(seeds=(0, 2))), "without seeds needs"),
        (
            lambda c: setattr(c.phases, "kd_seed1", common.inherit(c.student, seeds=())),
            "phase 'kd_seed1' has the name of a seed of phase 'kd'",
        ),
    ],
)
def test_mistakes_are_one_line(change, message):
    config = config_of()
    change(config)
    with pytest.raises(UserError, match=re.escape(message)):
        run.resolve(config)


def test_seeds_have_folders_of_their_own_and_share_a_row(together):
    workdir, summary, printed = together
    assert list(summary["phases"]) == ["teacher", "kd_seed0", "kd_seed1"]
    for name in summary["phases"]:
        assert (workdir / name / "result.json").exists()
    accuracies = [summary["phases"][f"kd_seed{seed}"]["test"]["accuracy"] for seed in (0, 1)]
    assert accuracies[0] != accuracies[1]
    row = next(line for line in printed.splitlines() if "kd (2 seeds)" in line)
    assert f"{sum(accuracies) / 2:.2%} ±" in row


def test_a_seed_is_what_it_is_alone(together, tmp_path):
    config = config_of(seeds=())
    config.phases.kd.seed = 1
    execute(config, tmp_path / "run")
    alone, beside = figures(tmp_path / "run", "kd"), figures(together[0], "kd_seed1")
    assert len(alone) == len(beside)
    for one, other in zip(alone, beside, strict=True):
        # Another program rounds differently.
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_each_seed_may_have_a_teacher_of_its_own(together, tmp_path):
    config = config_of()
    config.teacher.seeds = (0, 1)
    summary, _ = execute(config, tmp_path / "run")
    assert list(summary["phases"]) == ["teacher_seed0", "teacher_seed1", "kd_seed0", "kd_seed1"]
    first, second = (figures(tmp_path / "run", f"kd_seed{seed}")[0] for seed in (0, 1))
    assert first == pytest.approx(figures(together[0], "kd_seed0")[0], rel=1e-3, abs=1e-5)
    assert second != pytest.approx(figures(together[0], "kd_seed1")[0], rel=1e-3, abs=1e-5)


def test_members_that_stopped_at_different_steps_resume_from_a_common_one(together, tmp_path):
    """As if the process had been killed between the saves of two members."""

    def kill(self, row):
        if self._name == "kd_seed0" and row["step"] == 6:
            raise KeyboardInterrupt
        write(self, row)

    write = PhaseLog.write
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseLog, "write", kill)
        with pytest.raises(KeyboardInterrupt):
            execute(config_of(), workdir)
    stores = [workdir / f"kd_seed{seed}" / "checkpoints" for seed in (0, 1)]
    saved = [checkpoint.Checkpoints(folder, read_only=True).steps() for folder in stores]
    assert saved[0] == saved[1] == [2, 4]
    ahead = checkpoint.Checkpoints(stores[1])
    ahead.delete(4)
    ahead.close()
    with pytest.MonkeyPatch.context() as patch:
        begun = []
        bar = train_loop.Bar
        patch.setattr(
            train_loop,
            "Bar",
            lambda name, **more: begun.append((name, more["start"])) or bar(name, **more),
        )
        summary, _ = execute(config_of(), workdir)
    assert begun == [("kd", 2)]
    for name in ("kd_seed0", "kd_seed1"):
        assert figures(workdir, name) == figures(together[0], name)
        assert summary["phases"][name]["test"] == together[1]["phases"][name]["test"]


def test_a_seed_that_diverges_does_not_end_the_others(together, tmp_path):
    add = RunningMember.add

    def spoil(self, metrics, steps):
        spoilt = self.member.name == "kd_seed0"
        add(self, metrics | {"loss": float("nan")} if spoilt else metrics, steps)

    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunningMember, "add", spoil)
        with pytest.raises(UserError, match=re.escape("phase 'kd_seed0': the loss is nan")):
            execute(config_of(), workdir)
    assert "kd (2 seeds, 1 diverged)" in (workdir / "table.md").read_text()
    assert figures(workdir, "kd_seed1")[-1] == pytest.approx(
        figures(together[0], "kd_seed1")[-1], rel=1e-3, abs=1e-5
    )


def test_with_shared_views_seeds_differ_only_in_initialisation(together, tmp_path):
    workdir = tmp_path / "run"
    execute(config_of(share_views=True), workdir)
    own, shared = (figures(folder, "kd_seed0") for folder in (together[0], workdir))
    assert shared[-1] == pytest.approx(own[-1], rel=1e-3, abs=1e-5)
    assert figures(workdir, "kd_seed1") != figures(together[0], "kd_seed1")
    assert figures(workdir, "kd_seed1") != shared
