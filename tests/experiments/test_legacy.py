"""Renamed config keys, and a run folder made before they were renamed.

`old_run/run.zip` is a run that kdjax at commit 5ebfbff began with `old_config` in the keys of
then and that a SIGTERM ended in its second phase; `old_run/expected.json` is what that
commit's undisturbed run measured.
"""

import json
import zipfile
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from small_run import execute, small_config

from configs import common
from experiments import legacy, run, workdir
from experiments.log import read_metrics
from kdjax import networks
from kdjax.types import UserError

OLD_RUN = Path(__file__).parent / "old_run"


def old_config():
    """Renamed keys of a phase, of its optimiser and of a schedule are not at their defaults."""
    config = small_config(grad_accum_steps=2, ema_decay=0.9)
    config.data.train_examples, config.eval_every = 0, 0.06
    config.train.optimizer.update(learning_rate=0.1, grad_clip_norm=1.0)
    for group in (config.teacher, config.student, *config.phases.values()):
        group.model, group.model_options = "resnet8", ConfigDict({"widths": (4, 4, 4, 4)})
    del config.phases["scratch"]
    config.phases.kd.init_from = "teacher"
    config.phases.kd.objective.kd.schedule = dict(
        name="constant", warmup=2.0, unit="steps", num_stairs=2
    )
    config.seeds = (0, 1)
    return config


@pytest.fixture
def old_run(tmp_path):
    with zipfile.ZipFile(OLD_RUN / "run.zip") as archive:
        archive.extractall(tmp_path / "run")
    return tmp_path / "run"


def test_an_old_run_is_resumed_and_ends_with_the_figures_of_then(old_run):
    summary, printed = execute(old_config(), old_run)
    # The teacher was finished, and the students had made four of six steps. The signal came
    # before the evaluation of the fourth, which was lost then.
    assert "teacher  " not in printed.split("run folder")[1].split("phase   ")[0]
    rows = read_metrics(old_run / "kd_seed1" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 6]
    expected = json.loads((OLD_RUN / "expected.json").read_text())
    assert list(summary["phases"]) == list(expected)
    for name, result in expected.items():
        ours = summary["phases"][name]
        assert (ours["model"], ours["parameters"], ours["steps"]) == (
            result["model"],
            result["parameters"],
            result["steps"],
        )
        for split in ("test", "train"):
            # Other machines round differently.
            measured = {key: ours[split][key] for key in result[split]}
            assert measured == pytest.approx(result[split], rel=2e-2, abs=2e-3)
    assert summary["phases"]["kd_seed1"]["phase"] == "kd"
    _, printed = execute(old_config(), old_run)
    assert "is finished; nothing was changed" in printed
    assert "kd (2 seeds)" in printed


def test_another_config_is_refused_in_the_keys_of_today(old_run):
    config = old_config()
    config.phases.kd.ema_decay = 0.5
    with pytest.raises(UserError, match=r"phases\.kd\.ema_decay \(0\.9 there, 0\.5 here\)"):
        workdir.check(run.resolve(config), old_run)


def test_an_old_phase_is_loaded(old_run):
    trained = networks.load(str(old_run / "teacher"))
    assert trained.name == "resnet8"


def test_a_config_of_today_is_not_upgraded():
    config = run.resolve(old_config()).to_dict()
    assert legacy.upgrade(config) is config


def test_keys_that_groups_have_got_since_are_added():
    config = run.resolve(old_config()).to_dict()
    before = json.loads(json.dumps(config))
    del before["data"]["whole"]
    for layer in (before["train"], before["student"], *before["phases"].values()):
        del layer["augment"]["teacher_size"], layer["augment"]["teacher_crops"]
    assert legacy.upgrade(before) == json.loads(json.dumps(config))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train.accumulate", "train.grad_accum_steps"),
        ("student.start", "student.init_from"),
        ("phases.kd.start_methods", "phases.kd.init_methods_from"),
        ("teacher.optimizer.clip", "teacher.optimizer.grad_clip_norm"),
        ("train.augment.area", "train.augment.scale"),
        ("phases.kd.schedule.factor", "phases.kd.schedule.decay_rate"),
        ("phases.kd.objective.crd.schedule.stairs", "phases.kd.objective.crd.schedule.num_stairs"),
    ],
)
def test_a_renamed_key_is_named(old, new):
    assert legacy.new_name(old) == new
    assert legacy.new_name(new) == new
    with pytest.raises(UserError, match=f"^config key {old} is now {new}$"):
        legacy.check_renamed([new, old])


@pytest.mark.parametrize("key", ["phases.kd.objective.mine.start", "data.name", "train", "start"])
def test_other_keys_keep_their_names(key):
    assert legacy.new_name(key) == key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c.student, "ema", 0.9), "config key student.ema is now student.ema_dec"),
        (
            lambda c: c.phases.kd.objective.kd.update(schedule={"name": "constant", "stairs": 2}),
            "config key phases.kd.objective.kd.schedule.stairs is now",
        ),
    ],
)
def test_a_config_file_with_a_renamed_key_is_refused(change, message):
    config = small_config()
    change(config)
    with pytest.raises(UserError, match=message):
        run.resolve(config)


def test_inheriting_with_a_renamed_key_is_refused():
    config = common.base()
    with pytest.raises(UserError, match=r"config key train\.start is now train\.init_from"):
        common.inherit(config.student, start="teacher")
