"""Phases with images of their own, with a second source of them, and with several views."""

import numpy as np
import pytest
from small_run import execute, refusal, small_config

from configs import common
from experiments import plan, run
from experiments.log import read_metrics

KD = {"kd": {"weight": 1.0, "temperature": 2.0}}


def images_config(file):
    """A student taught on images of another data set, and one on both."""
    config = small_config()
    del config.phases["scratch"], config.phases["kd"]
    config.phases.foreign = common.inherit(
        config.student, teachers=("teacher",), objective=KD, steps=2,
        images={"name": f"npz:{file}", "labels": False, "examples": 40},
    )  # fmt: skip
    config.phases.both = common.inherit(
        config.student, teachers=("teacher",), steps=2,
        more_images={"name": f"npz:{file}", "share": 0.25},
        extra_views={"plain": {"crop": "none", "policy": "randaugment", "policy_ops": 1}},
        objective={
            "cross_entropy": {"weight": 1.0, "on": "labelled"},
            "kd": {"weight": 1.0, "on": "labelled"},
            "unlabelled": {"method": "kd", "weight": 2.0, "temperature": 1.0, "on": "unlabelled"},
        },
    )  # fmt: skip
    return config


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Noise of 11 classes, where the digits have ten, and not a digit among it."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("noise") / "noise.npz"
    images = rng.integers(0, 256, (60, 8, 8, 1), np.uint8)
    np.savez(
        path, train_images=images, train_labels=np.arange(60) % 11, test_images=images,
        test_labels=np.arange(60) % 11,
    )  # fmt: skip
    return path


def test_phases_learn_from_images_of_their_own_and_are_evaluated_on_those_of_the_run(
    file, tmp_path
):
    summary, _ = execute(images_config(file), tmp_path / "run")
    foreign, both = (summary["phases"][name] for name in ("foreign", "both"))
    # Labels that are hidden are nowhere measured.
    assert "accuracy" not in foreign["train"]
    assert foreign["train"]["agreement"] * 40 == pytest.approx(
        round(foreign["train"]["agreement"] * 40)
    )
    assert foreign["test"]["accuracy"] * 596 == pytest.approx(
        round(foreign["test"]["accuracy"] * 596)
    )
    assert both["train"]["accuracy"] * 500 == pytest.approx(round(both["train"]["accuracy"] * 500))
    rows = read_metrics(tmp_path / "run/foreign/metrics.jsonl")
    assert "train/accuracy" not in rows[-1]
    # 32 images a step, of 40.
    assert rows[-1]["epoch"] == pytest.approx(2 * 32 / 40)
    rows = read_metrics(tmp_path / "run/both/metrics.jsonl")
    assert {"train/accuracy", "train/cross_entropy", "train/unlabelled"} <= set(rows[-1])
    # An epoch is one pass over the phase's own images, of which a step has 24.
    assert rows[-1]["epoch"] == pytest.approx(2 * 24 / 500)


def test_sources_are_read_once_and_normalised_as_the_run_is(file):
    config = images_config(file)
    config.phases.again = common.inherit(config.phases.foreign)
    plans, _ = plan.plan_all(run.resolve(config))
    teacher, foreign, both, again = plans
    assert foreign.data.train is again.data.train
    assert (foreign.data.train.labels == -1).all()
    assert foreign.data.splits["test"] is teacher.data.splits["test"]
    assert len({one.network.mean for one in plans}) == 1
    assert both.action.task.batch_parts == (24, 8)
    assert len(both.data.more) == 60
    assert [len(one.action.task.all_views()) for one in plans] == [1, 1, 2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.phases.foreign.images.update(labels=True), "have 11 classes, the run's data 10"),
        (lambda c: c.phases.foreign.update(shots=3), "shots or a subset only more_images"),
        (lambda c: c.phases.both.more_images.update(share=0.01), "0 would be from there"),
        (lambda c: c.phases.both.more_images.update(share=1.5), "more_images.share is 1.5: it must be a number in (0, 1)"),
        (lambda c: c.phases.both.extra_views.plain.update(croop="none"), "extra_views has no key croop"),
        (lambda c: c.phases.both.extra_views.plain.update(crop="no"), "extra_views.plain.crop is 'no': it must be one of none"),
        (lambda c: c.phases.foreign.objective.kd.update(on="labelled"), "on labelled images, and there are none"),
        (lambda c: c.phases.foreign.objective.kd.update(on="some"), "kd.on is 'some': it must be one of all, labelled"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_nothing_is_written(file, tmp_path, change, message):
    config = images_config(file)
    change(config)
    assert message in refusal(config, tmp_path / "run")
