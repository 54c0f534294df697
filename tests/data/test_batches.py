import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from kdjax.data import batches
from kdjax.data.sources import Lazy, Split
from kdjax.types import UserError

N = 10
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 2, 3, 1)).astype(np.uint8)
LABELS = np.arange(N, dtype=np.int32)[::-1].copy()


def _read(positions):
    return [IMAGES[i] for i in positions]


@pytest.fixture
def resident():
    return Split(IMAGES, LABELS)


@pytest.fixture
def lazy():
    return Split(Lazy(N, _read), LABELS)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 23])
def test_each_epoch_shows_every_example_once_and_batches_span_epochs(batch_size):
    steps = 5 * N // batch_size + 1
    parts = [batches.positions(N, batch_size, 7, step) for step in range(steps)]
    assert all(part.shape == (batch_size,) and part.dtype == np.int32 for part in parts)
    sequence = np.concatenate(parts)
    epochs = sequence[: 5 * N].reshape(5, N)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(N), (5, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_batch_depends_only_on_seed_and_step():
    one = batches.positions(1000, 64, 1, 20)
    batches.positions(1000, 64, 2, 3)
    batches._epoch_order.cache_clear()
    np.testing.assert_array_equal(batches.positions(1000, 64, 1, 20), one)
    assert not np.array_equal(batches.positions(1000, 64, 2, 20), one)
    assert not np.array_equal(batches.positions(1000, 64, 1, 21), one)


def test_the_order_does_not_depend_on_the_batch_size():
    small = np.concatenate([batches.positions(N, 3, 0, step) for step in range(10)])
    large = np.concatenate([batches.positions(N, 5, 0, step) for step in range(6)])
    np.testing.assert_array_equal(small, large)


def _gathered(split, **kwargs):
    data = jax.tree.map(jnp.asarray, batches.resident(split))
    return [
        (batch["index"], *batches.gather(data, batch))
        for batch in batches.stream(split, batch_size=4, seed=3, **kwargs)
    ]


@pytest.mark.parametrize("kind", ["resident", "lazy"])
def test_gather_returns_the_images_and_labels_of_the_batch(kind, request):
    split = request.getfixturevalue(kind)
    gathered = _gathered(split, start=0, stop=6)
    assert len(gathered) == 6
    for step, (index, images, labels) in enumerate(gathered):
        np.testing.assert_array_equal(index, batches.positions(N, 4, 3, step))
        np.testing.assert_array_equal(images, IMAGES[index])
        np.testing.assert_array_equal(labels, LABELS[index])
        assert images.dtype == jnp.uint8


def test_images_decoded_on_demand_are_not_resident(resident, lazy):
    assert set(batches.resident(resident)) == {"images", "labels"}
    assert set(batches.resident(lazy)) == {"labels"}
    assert set(batches.read(resident, np.array([1]))) == {"index"}
    assert set(batches.read(lazy, np.array([1]))) == {"index", "images"}


def test_a_stream_through_grain_has_the_order_of_resident_data(resident, lazy):
    chex.assert_trees_all_equal(
        _gathered(lazy, start=0, stop=12), _gathered(resident, start=0, stop=12)
    )


@pytest.mark.parametrize("kind", ["resident", "lazy"])
def test_a_stream_can_start_at_any_step(kind, request):
    split = request.getfixturevalue(kind)
    whole = _gathered(split, start=0, stop=9)
    chex.assert_trees_all_equal(_gathered(split, start=5, stop=9), whole[5:])


@pytest.mark.parametrize("kind", ["resident", "lazy"])
def test_a_stream_without_steps_is_empty(kind, request):
    assert _gathered(request.getfixturevalue(kind), start=4, stop=4) == []


@pytest.mark.parametrize("kind", ["resident", "lazy"])
@pytest.mark.parametrize("parts", [2, 4])
def test_the_shares_of_a_batch_are_the_batch(kind, parts, request):
    split = request.getfixturevalue(kind)
    shares = [_gathered(split, start=3, stop=7, share=(i, parts)) for i in range(parts)]
    for rows, whole in zip(
        zip(*shares, strict=True), _gathered(split, start=3, stop=7), strict=True
    ):
        assert all(len(part[0]) == 4 // parts for part in rows)
        joined = [np.concatenate(part) for part in zip(*rows, strict=True)]
        chex.assert_trees_all_equal(joined, list(whole))


def test_no_image_of_another_share_is_read():
    asked = []

    def read(positions):
        asked.extend(positions)
        return _read(positions)

    split = Split(Lazy(N, read), LABELS)
    asked.clear()
    steps = list(batches.stream(split, batch_size=4, seed=0, start=0, stop=3, share=(1, 2)))
    assert sorted(asked) == sorted(i for batch in steps for i in batch["index"].tolist())
    assert len(asked) == 6


def test_a_batch_that_cannot_be_shared_is_rejected(lazy):
    with pytest.raises(
        UserError, match=r"takes 4 images of a source, and 3 processes need a multiple of 3"
    ):
        batches.stream(lazy, batch_size=4, seed=0, start=0, stop=1, share=(0, 3))


def test_an_error_while_decoding_reaches_the_reader():
    def read(positions):
        if list(positions) != [0]:
            raise UserError("cannot read 'x.png'")
        return _read(positions)

    split = Split(Lazy(N, read), LABELS)
    with pytest.raises(UserError, match=r"cannot read 'x.png'"):
        list(batches.stream(split, batch_size=4, seed=0, start=0, stop=2))


@pytest.mark.parametrize(("batch_size", "grad_accum_steps"), [(8, 1), (8, 4), (8, 8)])
def test_a_batch_size_that_can_be_split_is_accepted(batch_size, grad_accum_steps):
    assert batches.check_batch_size(batch_size, grad_accum_steps) is None


@pytest.mark.parametrize(
    ("batch_size", "grad_accum_steps"), [(0, 1), (-4, 2), (8, 0), (8, 3), (8, 16)]
)
def test_a_batch_size_that_cannot_be_split_is_rejected(batch_size, grad_accum_steps):
    with pytest.raises(
        UserError, match=f"batch_size is {batch_size} and grad_accum_steps is {grad_accum_steps}"
    ):
        batches.check_batch_size(batch_size, grad_accum_steps)


def test_an_image_that_cannot_be_read_ends_the_stream_with_its_line():
    def read(positions):
        if 7 in positions:
            raise UserError("'seven.png' is damaged")
        return [np.zeros((2, 2, 3), np.uint8) for _ in positions]

    split = Split(Lazy(16, read), np.zeros(16, np.int32))
    stream = batches.stream(split, batch_size=4, seed=0, start=0, stop=4)
    with pytest.raises(UserError, match=r"'seven\.png' is damaged") as error:
        list(stream)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(tmp_path):
    code = (
        "import os, time\n"
        "from kdjax.data.batches import _end_with_parent\n"
        "if os.fork() == 0:\n"
        "    _end_with_parent()\n"
        "    open('child', 'w').write(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as parent:
        child = tmp_path / "child"
        while not (child.exists() and child.read_text()):
            time.sleep(0.1)
        parent.kill()
    until = time.monotonic() + 10
    while Path(f"/proc/{child.read_text()}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{child.read_text()}").exists()


@pytest.mark.slow
def test_workers_read_what_threads_read_and_one_that_is_killed_is_a_line():
    # Grain asks for a flag of its own.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    split = Split(Lazy(N, _read), LABELS)
    stream = {"batch_size": 4, "seed": 0, "start": 0, "stop": 2000}
    expected = batches.stream(split, **stream)
    found = batches.stream(split, **stream, workers=2)
    for _ in range(10):
        chex.assert_trees_all_equal(next(found), next(expected))
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"was ended from outside \(status -9\)"):
        list(found)
