"""Logits of teachers that are kept and replayed."""

import shutil

import numpy as np
import pytest
from small_run import execute, refusal, small_config

from experiments import teacher_cache
from experiments.log import read_metrics
from experiments.teacher_cache import STEPS, TeacherCache
from kdjax.types import UserError

TIMES = ("seconds", "images_per_second", "eta_seconds")


def rows(step):
    """The logits of two teachers at a step."""
    rng = np.random.default_rng(step)
    return tuple(rng.normal(size=(3, classes)).astype(np.float16) for classes in (4, 5))


class Teacher:
    """Computes logits, and knows for which steps."""

    def __init__(self):
        self.steps = []

    def __call__(self, step, count):
        def compute():
            self.steps.extend(range(step, step + count))
            each = [rows(one) for one in range(step, step + count)]
            return tuple(np.stack(one) for one in zip(*each, strict=True))

        return compute


def read(cache, teacher, start, stop, per_call=1):
    """Reads steps and checks them."""
    for step in range(start, stop, per_call):
        count = min(per_call, stop - step)
        found = cache.logits(step, count, teacher(step, count))
        for i, array in enumerate(found):
            expected = np.stack([rows(one)[i] for one in range(step, step + count)])
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == np.float16


@pytest.mark.parametrize("per_call", [1, 5, STEPS, STEPS + 7])
def test_what_was_computed_is_read_by_another(tmp_path, per_call):
    total = 2 * STEPS + 9
    teacher = Teacher()
    read(TeacherCache(tmp_path, {"a": 1}, total), teacher, 0, total, per_call)
    assert teacher.steps == list(range(total))
    again = Teacher()
    read(TeacherCache(tmp_path, {"a": 1}, total), again, 0, total)
    read(TeacherCache(tmp_path, {"a": 1}, total), again, STEPS + 3, total, 4)
    assert again.steps == []


def test_another_identity_is_another_cache(tmp_path):
    first, second = Teacher(), Teacher()
    read(TeacherCache(tmp_path, {"teacher": "a"}, 3), first, 0, 3)
    read(TeacherCache(tmp_path, {"teacher": "b"}, 3), second, 0, 3)
    assert second.steps == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_that_was_killed_goes_on(tmp_path):
    """The steps of a file that was not finished are computed again where they are needed."""
    total, stop = 3 * STEPS, STEPS + 10
    read(TeacherCache(tmp_path, {}, total), Teacher(), 0, stop)
    resumed = Teacher()
    read(TeacherCache(tmp_path, {}, total), resumed, stop - 5, total)
    assert resumed.steps == list(range(stop - 5, total))
    other = Teacher()
    read(TeacherCache(tmp_path, {}, total), other, 0, total)
    # The file whose first steps the resumed run had not seen.
    assert other.steps == list(range(STEPS, 2 * STEPS))


def test_a_longer_run_adds_to_what_a_shorter_one_left(tmp_path):
    short, long = STEPS + 4, 2 * STEPS
    read(TeacherCache(tmp_path, {}, short), Teacher(), 0, short)
    teacher, again = Teacher(), Teacher()
    read(TeacherCache(tmp_path, {}, long), teacher, 0, long)
    assert teacher.steps == list(range(short, long))
    read(TeacherCache(tmp_path, {}, short), again, 0, short)
    assert again.steps == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    total = 2 * STEPS
    read(TeacherCache(tmp_path, {}, total), Teacher(), 0, total)
    file = sorted(tmp_path.glob("*/*.npz"))[0]
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    file.write_bytes(
        {"cut": whole[:-40], "flipped": flipped, "text": b"x" * 99, "empty": b""}[damage]
    )
    teacher, again = Teacher(), Teacher()
    read(TeacherCache(tmp_path, {}, total), teacher, 0, total)
    assert teacher.steps == list(range(STEPS))
    read(TeacherCache(tmp_path, {}, total), again, 0, total)
    assert again.steps == []


def test_few_steps_are_held_in_memory(tmp_path):
    cache = TeacherCache(tmp_path, {}, 9 * STEPS)
    read(cache, Teacher(), 0, 9 * STEPS)
    assert len(cache._rows) <= 2 * STEPS


def test_a_digest_depends_on_names_types_shapes_and_values():
    x = np.arange(6, dtype=np.float32)
    digests = [
        teacher_cache.digest(one)
        for one in (
            {"a": x}, {"b": x}, {"a": x.reshape(2, 3)}, {"a": x.view(np.int32)}, {"a": x + 1},
            {"a": x, "b": x}, {"a": x[:0]},
        )
    ]  # fmt: skip
    assert len(set(digests)) == len(digests)
    assert teacher_cache.digest({"a": x[::2]}) == teacher_cache.digest({"a": x[::2].copy()})


def config(folder, **changes):
    made = small_config(**changes)
    made.teacher_cache = str(folder)
    made.train.augment.update(flip=True, padding=1)
    # A second student beside the first, which learns by another method.
    del made.phases["scratch"]
    return made


def timeless(summary, workdir):
    """All figures of the student, without times."""
    times = (*TIMES, "seconds_of")
    found = {k: v for k, v in summary["phases"]["kd"].items() if k not in times}
    logged = [
        {key: value for key, value in row.items() if key not in TIMES}
        for row in read_metrics(workdir / "kd/metrics.jsonl")
    ]
    return found, logged


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A folder of logits, and the figures of the run that made them."""
    folder = tmp_path_factory.mktemp("cache")
    summary, _ = execute(config(folder / "logits"), folder / "run")
    return folder, timeless(summary, folder / "run")


def computed(monkeypatch):
    """Counts how often the teachers are run."""
    calls = []
    original = TeacherCache.logits

    def logits(self, step, count, compute):
        return original(self, step, count, lambda: calls.append(step) or compute())

    monkeypatch.setattr(TeacherCache, "logits", logits)
    return calls


def test_a_replayed_run_is_equal_to_the_bit(cached, tmp_path, monkeypatch):
    folder, expected = cached
    calls = computed(monkeypatch)
    summary, _ = execute(config(folder / "logits"), tmp_path / "run")
    assert timeless(summary, tmp_path / "run") == expected
    assert not calls


def test_a_run_belongs_to_its_folder_wherever_its_cache_is(cached):
    folder, _ = cached
    line = "nothing was changed"
    assert line in execute(config(folder / "elsewhere"), folder / "run")[1]
    with pytest.raises(UserError, match=r"teacher_cache \(True there, False here\)"):
        execute(config(""), folder / "run")


def test_another_student_and_method_replay_it_too(cached, tmp_path, monkeypatch):
    folder, _ = cached
    calls = computed(monkeypatch)
    made = config(folder / "logits")
    made.phases.kd.objective = {"dkd": {"weight": 1.0}}
    made.phases.kd.optimizer.learning_rate = 0.01
    execute(made, tmp_path / "run")
    assert not calls


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.teacher.optimizer.update(learning_rate=0.02),
        lambda made: made.data.update(train_examples=480),
        lambda made: made.phases.kd.augment.update(padding=2),
        lambda made: made.phases.kd.update(batch_size=40),
        lambda made: made.update(seed=1),
    ],
    ids=["teacher", "data", "views", "batch size", "seed"],
)
def test_other_teachers_data_or_views_are_computed(cached, tmp_path, monkeypatch, change):
    folder, _ = cached
    shutil.copytree(folder / "logits", tmp_path / "logits")
    calls = computed(monkeypatch)
    made = config(tmp_path / "logits")
    change(made)
    execute(made, tmp_path / "run")
    assert calls == list(range(6))


def test_without_a_cache_the_student_learns_as_much(cached, tmp_path):
    """The logits are those of the teacher, in half precision: losses are close, views differ."""
    _, (expected, _) = cached
    made = config("")
    summary, _ = execute(made, tmp_path / "run")
    found = summary["phases"]["kd"]["test"]
    assert found["nll"] == pytest.approx(expected["test"]["nll"], rel=0.3)


def test_the_folder_cannot_be_a_file(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "file/inner"):
        line = refusal(config(tmp_path / name), tmp_path / "run")
        assert line.startswith(
            f"teacher_cache is '{tmp_path / name}': '{tmp_path / 'file'}' is not"
        )


def test_seeds_have_caches_of_their_own_and_calls_of_several_steps_one(tmp_path, monkeypatch):
    made = config(tmp_path / "logits")
    made.phases.kd.seeds = (0, 1)
    made.steps_per_call = 2
    expected, _ = execute(made, tmp_path / "first")
    assert len(list((tmp_path / "logits").iterdir())) == 2
    calls = computed(monkeypatch)
    found, _ = execute(made, tmp_path / "second")
    assert not calls
    for name in ("kd_seed0", "kd_seed1"):
        assert found["phases"][name]["test"] == expected["phases"][name]["test"]
