"""What a phase keeps, starts from, combines and records."""

import json
import re

import chex
import jax
import numpy as np
import pytest
from small_run import execute, refusal, small_config

from configs import common
from experiments import data, phase, running
from experiments.log import read_metrics
from kdjax import losses, networks
from kdjax.types import TrainState, UserError

MIX = 0.25


def understanding() -> object:
    """A teacher that is kept at moments, and phases that use these and the ensemble of both."""
    config = small_config()
    # 500 images in batches of 32, so that 0.1 epochs are 2 steps of 6.
    config.phases.teacher.keep = (0, 0.1, 6 / (500 / 32))
    config.phases.scratch.teachers = ("teacher@0.1",)
    config.phases.scratch.update(init_from="teacher@0", init_mix=MIX, keep=(0,))
    config.phases.kd.update(train_eval_images=40, steps=4)
    config.phases.both = common.inherit(
        config.student, ensemble=("teacher", "kd"), teachers=("teacher",)
    )
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("phase") / "run"
    summary, printed = execute(understanding(), workdir)
    return workdir, summary, printed


def variables(workdir, name):
    return networks.load(str(workdir / name)).variables


def logits(workdir, name):
    """Of the digits' test images."""
    images = data.read("digits", train_examples=500).splits["test"].split.images
    trained = networks.load(str(workdir / name))
    return np.asarray(trained.network.evaluate(trained.variables, images / np.float32(255)).logits)


def test_networks_are_kept_at_the_epochs_that_are_asked_for(finished):
    workdir, _, _ = finished
    chex.assert_trees_all_equal(variables(workdir, "teacher@0.384"), variables(workdir, "teacher"))
    first, later = variables(workdir, "teacher@0"), variables(workdir, "teacher@0.1")
    # Before the first step nothing has been averaged.
    for name, leaf in jax.tree.leaves_with_path(first["batch_stats"]):
        assert (leaf == (0 if "mean" in jax.tree_util.keystr(name) else 1)).all()
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, later)), strict=True))


def test_another_phase_learns_from_a_network_that_was_kept(finished):
    workdir, summary, _ = finished
    accuracy = (logits(workdir, "teacher@0.1").argmax(-1) == known_labels()).mean()
    assert summary["phases"]["scratch"]["test"]["teacher_accuracy"] == pytest.approx(accuracy)


def known_labels():
    return data.read("digits", train_examples=500).splits["test"].labels


def test_a_start_on_the_line_between_two_networks(finished):
    workdir, _, _ = finished
    kept = variables(workdir, "teacher@0")
    start = variables(workdir, "scratch@0")
    own = jax.tree.map(lambda x, there: (x - MIX * there) / (1 - MIX), start, kept)
    # The rest is an initialisation of its own: the convolutions have its deviation, and the scale
    # of batch norm is that of both.
    chex.assert_trees_all_close(own["batch_stats"], kept["batch_stats"], atol=1e-6)
    kernel, there = own["params"]["conv1"]["kernel"], kept["params"]["conv1"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.std(there), rel=0.5)
    assert abs(np.corrcoef(kernel.ravel(), there.ravel())[0, 1]) < 0.3


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_the_ends_of_the_line_are_the_two_networks_themselves(finished, mix):
    workdir, _, _ = finished
    there = variables(workdir, "teacher")
    own = jax.tree.map(lambda x: 3 * x + 1, there)

    def init(key, teachers, given):
        return TrainState.of_variables(own if given is None else given)

    *_, start = running._mixed(init, jax.random.key(0), (), there, mix)
    chex.assert_trees_all_equal(start, there if mix else own)


def test_an_ensemble_is_the_mean_of_its_networks_probabilities(finished):
    workdir, summary, printed = finished
    row = summary["phases"]["both"]
    each = np.stack([logits(workdir, name) for name in ("teacher", "kd")])
    mean = jax.nn.softmax(each).mean(0)
    assert row["test"]["accuracy"] == pytest.approx((mean.argmax(-1) == known_labels()).mean())
    agreement = (mean.argmax(-1) == each[0].argmax(-1)).mean()
    assert row["test"]["agreement"] == pytest.approx(agreement)
    parts = [summary["phases"][name]["parameters"] for name in ("teacher", "kd")]
    assert row["parameters"] == sum(parts)
    assert "ensemble of 2" in printed
    assert not (workdir / "both" / "checkpoints").exists()


def test_terms_of_the_objective_are_measured_on_every_split(finished):
    workdir, summary, _ = finished
    student, teacher = logits(workdir, "kd"), logits(workdir, "teacher")
    expected = losses.kd(student, teacher).mean()
    measured = summary["phases"]["kd"]["test"]
    assert measured["loss/kd"] == pytest.approx(float(expected), rel=1e-4)
    assert measured["loss/cross_entropy"] == pytest.approx(measured["nll"], rel=1e-4)
    assert "loss/kd" not in summary["phases"]["teacher"]["test"]


def test_training_images_are_measured_at_evaluations(finished):
    workdir, summary, _ = finished
    rows = [row for row in read_metrics(workdir / "kd" / "metrics.jsonl") if "test/nll" in row]
    for row in rows:
        assert row["train_eval/accuracy"] * 40 == pytest.approx(
            round(row["train_eval/accuracy"] * 40)
        )
    assert "train_eval" not in summary["phases"]["kd"]


def test_the_running_agreement_is_that_of_the_last_epoch(finished):
    workdir, summary, _ = finished
    rows = read_metrics(workdir / "kd" / "metrics.jsonl")
    assert len(rows) > 1
    steps = np.diff([0, *(row["step"] for row in rows)])
    mean = np.average([row["train/agreement"] for row in rows], weights=steps)
    assert summary["phases"]["kd"]["train"]["running_agreement"] == pytest.approx(mean)
    # Over an epoch of two steps only the last row counts.
    last = phase._running_means(rows, rows[-1]["step"] - 2)
    assert last["running_kl"] == rows[-1]["train/kl"]


def test_a_finished_run_is_resumed_with_what_it_kept(finished, tmp_path):
    workdir, _, _ = finished
    (workdir / "summary.json").rename(tmp_path / "summary.json")
    for name in ("scratch", "both"):
        (workdir / name / "result.json").unlink()
    again, _ = execute(understanding(), workdir)
    stored = json.loads((tmp_path / "summary.json").read_text())
    for name in ("scratch", "both"):
        assert again["phases"][name]["test"] == stored["phases"][name]["test"]


def test_members_refer_to_what_their_own_seed_kept(tmp_path):
    config = small_config()
    config.train.steps = 2
    config.data.train_examples = 64
    del config.phases["scratch"]
    config.phases.teacher.update(seeds=(3, 4), keep=(0,))
    config.phases.kd.update(
        seeds=(3, 4), init_from="teacher@0", init_mix=0.5, teachers=("teacher",)
    )
    config.phases.all = common.inherit(config.student, ensemble=("kd",), seeds=(3, 4))
    summary, _ = execute(config, tmp_path / "run")
    assert {"all_seed3", "all_seed4", "kd_seed3"} <= set(summary["phases"])
    first = networks.load(str(tmp_path / "run" / "teacher_seed3@0")).variables
    second = networks.load(str(tmp_path / "run" / "teacher_seed4@0")).variables
    assert not np.array_equal(first["params"]["fc"]["kernel"], second["params"]["fc"]["kernel"])
    of_one = summary["phases"]["all_seed3"]["test"]
    assert of_one["accuracy"] == summary["phases"]["kd_seed3"]["test"]["accuracy"]


def test_the_step_is_compiled_once_while_the_initialisation_is_compiled_in_a_thread(
    tmp_path, caplog
):
    config = small_config()
    del config.phases["scratch"], config.phases["kd"]
    # Other tests have compiled the same evaluation.
    jax.clear_caches()
    # Of this thread only.
    with jax.log_compiles():
        execute(config, tmp_path / "run")
    programs = re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
    # Mapped programs are the step, and the evaluation of two numbers of images.
    assert programs.count("_fun") == 3
    assert "init" not in programs


def test_batch_statistics_are_measured_again_before_the_first_step(tmp_path):
    config = small_config()
    config.train.steps = 10
    config.data.train_examples = 300
    config.train.augment.crop = "none"
    del config.phases["scratch"], config.phases["kd"]
    config.phases.teacher.update(reestimate_batch_norm=True, keep=(0,))
    execute(config, tmp_path / "run")
    renewed = networks.load(str(tmp_path / "run" / "teacher@0"))
    images = data.read("digits", train_examples=300).train.split.images / np.float32(255)
    _, after = renewed.network.train(renewed.variables, images, jax.random.key(0))
    before = renewed.variables["batch_stats"]["bn1"]["mean"]
    # Ten steps bring an average from zero to 1 - 0.9^10 of the statistic, here of all images.
    statistic = (after["bn1"]["mean"] - 0.9 * before) / 0.1
    np.testing.assert_allclose(
        before, (1 - 0.9**10) * statistic, atol=0.1 * np.abs(statistic).max()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": (50,)}, "phase 'kd' keeps epoch 50, and it has 0.384 epochs"),
        ({"keep": (-1,)}, r"kd.keep is \(-1\): it must be"),
        ({"init_mix": 0.5}, "init_mix 0.5, but no init_from"),
        (
            {"init_mix": 2.0, "init_from": "teacher"},
            r"phases.kd.init_mix is 2.0: it must be a number in \[0, 1\]",
        ),
        ({"teachers": ("teacher@5",)}, "has teacher 'teacher@5', which is neither"),
        ({"ensemble": ("nobody",)}, "is an ensemble of 'nobody', which is neither"),
        ({"ensemble": ("teacher",), "checkpoint": "x.pth"}, "an ensemble and has a checkpoint"),
        ({"train_eval_images": -1}, "phases.kd.train_eval_images is -1"),
    ],
)
def test_impossible_wishes_are_refused(tmp_path, changes, message):
    config = small_config()
    config.phases.kd.update(changes)
    line = refusal(config, tmp_path / "run")
    assert re.search(message, line), line


def test_a_phase_that_ended_before_an_epoch_was_kept_is_named(tmp_path):
    config = small_config()
    config.data.update(validation=0.1)
    del config.phases["scratch"]
    config.phases.teacher.update(keep=(0.3,), steps=12, eval_every=0.1)
    config.phases.teacher.until = {"now": {"over": "first", "margin": -1.0}}
    config.phases.teacher.compared_with = ("first",)
    phases = dict(config.phases.items())
    config.phases.first = common.inherit(config.teacher, steps=1)
    for name in phases:
        moved = config.phases[name]
        del config.phases[name]
        config.phases[name] = moved
    config.phases.kd.teachers = ("teacher@0.3",)
    with pytest.raises(UserError, match=r"'kd' was left out: teacher@0.3 was not reached"):
        execute(config, tmp_path / "run")
