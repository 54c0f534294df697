import copy
import hashlib
import json
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from kdjax import checkpoint, parallel
from kdjax.checkpoint import Checkpoints
from kdjax.types import TrainState, UserError

EXTRA = {"seed": 3, "clock": {"seconds": 12.25}, "sums": {"loss": 0.1}, "steps_summed": 40}


def _state(step=5):
    rng = np.random.default_rng(step)
    return TrainState(
        step=jnp.int32(step),
        params={
            "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)},
            "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        },
        batch_stats={"mean": jnp.asarray(rng.normal(size=4), jnp.float32)},
        method_params={},
        method_state={"kd": {}},
        opt_state=({"trace": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)}, ()),
        ema={},
    )


def _save(folder, steps=(5,), **kwargs):
    stored = Checkpoints(folder, **kwargs)
    for step in steps:
        stored.save(step, _state(step), EXTRA)
    stored.close()


def _restore(folder, step=5, like=None):
    stored = Checkpoints(folder, read_only=True)
    try:
        return stored.restore(step, _state() if like is None else like)
    finally:
        stored.close()


def _contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_a_restored_state_equals_the_saved_one(tmp_path):
    _save(tmp_path / "c")
    state, extra = _restore(tmp_path / "c")
    chex.assert_trees_all_equal(state, _state())
    chex.assert_trees_all_equal_dtypes(state, _state())
    assert jax.tree.structure(state) == jax.tree.structure(_state())
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(state))
    assert extra == EXTRA


def test_read_returns_arrays_by_path(tmp_path):
    _save(tmp_path / "c")
    stored = Checkpoints(tmp_path / "c", read_only=True)
    arrays, extra = stored.read(5)
    stored.close()
    np.testing.assert_array_equal(
        arrays[".params['conv']['kernel']"], _state().params["conv"]["kernel"]
    )
    assert len(arrays) == len(jax.tree.leaves(_state()))
    assert extra == EXTRA


def test_arrays_are_stored_by_type_in_the_order_that_the_extras_list(tmp_path):
    folder = tmp_path / "c"
    _save(folder)
    vectors = ocp.StandardCheckpointer().restore(folder / "5" / "state")
    layout = json.loads((folder / "5" / "extra" / "metadata").read_text())["arrays"]
    expected = checkpoint.flatten(_state())
    assert {path: (dtype, tuple(shape)) for path, dtype, shape in layout} == {
        path: (str(array.dtype), array.shape) for path, array in expected.items()
    }
    for dtype, vector in vectors.items():
        arrays = [np.ravel(expected[path]) for path, of, _ in layout if of == dtype]
        np.testing.assert_array_equal(np.asarray(vector), np.concatenate(arrays))
    assert set(vectors) == {"float32", "bfloat16", "int32"}


def test_a_checkpoint_that_holds_each_array_by_itself_can_be_read(tmp_path):
    arrays = {"['kernel']": np.arange(6.0, dtype=np.float32).reshape(2, 3), ".step": np.int32([4])}
    extra = {"seed": 3}
    crc = zlib.crc32(json.dumps(extra).encode())
    for path in sorted(arrays):
        crc = zlib.crc32(arrays[path].tobytes(), zlib.crc32(path.encode(), crc))
    with ocp.CheckpointManager(tmp_path / "c") as manager:
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), extra=ocp.args.JsonSave(extra | {"crc32": crc})
        )
        manager.save(5, args=items)
    found, extra_found = Checkpoints(tmp_path / "c", read_only=True).read(5)
    chex.assert_trees_all_equal(found, arrays)
    assert extra_found == extra


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_can_resume_on_another_number_of_devices(tmp_path, before, after):
    devices = parallel.Devices(jax.local_devices()[:before])
    stored = Checkpoints(tmp_path / "c")
    stored.save(5, devices.replicate(_state()), EXTRA)
    stored.close()
    state, _ = _restore(tmp_path / "c", like=jax.eval_shape(_state))
    placed = parallel.Devices(jax.local_devices()[:after]).replicate(state)
    assert len(placed.step.devices()) == after
    chex.assert_trees_all_equal(jax.device_get(placed), jax.device_get(_state()))


def test_save_copies_the_state_before_it_returns(tmp_path):
    stored = Checkpoints(tmp_path / "c")
    array = np.zeros(1000)
    stored.save(1, {"x": jnp.asarray(array)}, {})
    array += 1
    stored.close()
    state, _ = _restore(tmp_path / "c", 1, like={"x": jnp.zeros(1000)})
    np.testing.assert_array_equal(state["x"], np.zeros(1000))


def test_save_copies_the_extras_before_it_returns(tmp_path):
    stored = Checkpoints(tmp_path)
    extra = copy.deepcopy(EXTRA)
    stored.save(5, _state(), extra)
    extra["sums"].clear()
    stored.close()
    assert _restore(tmp_path)[1] == EXTRA


def test_the_last_two_are_kept(tmp_path):
    _save(tmp_path / "c", steps=(1, 2, 3, 4))
    stored = Checkpoints(tmp_path / "c")
    assert stored.steps() == [3, 4]
    assert stored.best_step() is None
    stored.close()
    chex.assert_trees_all_equal(_restore(tmp_path / "c", 3)[0], _state(3))


def test_superseded_checkpoints_are_gone_from_the_disk(tmp_path):
    stored = Checkpoints(tmp_path / "c")
    for step in range(1, 9):
        stored.save(step, _state(step), EXTRA)
        if step > 4:
            # While the run goes on, there may be those of the last save beside the two kept.
            assert len(list((tmp_path / "c").rglob("_METADATA"))) <= 3 * 2
    stored.wait()
    assert sorted(p.parent.parent.name for p in (tmp_path / "c").rglob("_METADATA")) == ["7", "8"]
    stored.close()


def test_the_best_is_kept_in_addition_to_the_last_two(tmp_path):
    stored = Checkpoints(tmp_path / "c", keep_best=True)
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.5), (4, 0.6), (5, 0.2)):
        stored.save(step, _state(step), EXTRA, score=score)
        stored.wait()
    assert stored.best_step() == 2
    assert stored.steps() == [2, 4, 5]
    stored.close()
    again = Checkpoints(tmp_path / "c", keep_best=True)
    assert (again.best_step(), again.steps()) == (2, [2, 4, 5])
    again.close()


def test_saving_an_existing_step_leaves_it_unchanged(tmp_path):
    _save(tmp_path / "c")
    stored = Checkpoints(tmp_path / "c")
    stored.save(5, _state(6), {"seed": 4})
    stored.close()
    state, extra = _restore(tmp_path / "c")
    chex.assert_trees_all_equal(state, _state(5))
    assert extra == EXTRA


def test_a_deleted_step_can_be_saved_again(tmp_path):
    stored = Checkpoints(tmp_path / "c")
    for step in (5, 6):
        stored.save(step, _state(step), EXTRA)
    stored.wait()
    stored.delete(6)
    assert stored.steps() == [5]
    stored.save(6, _state(7), {"seed": 4})
    stored.close()
    state, extra = _restore(tmp_path / "c", 6)
    chex.assert_trees_all_equal(state, _state(7))
    assert extra == {"seed": 4}


def test_a_step_older_than_the_last_is_rejected(tmp_path):
    _save(tmp_path / "c", steps=(5,))
    stored = Checkpoints(tmp_path / "c")
    with pytest.raises(UserError, match=r"cannot save step 4 in .*: newer ones exist"):
        stored.save(4, _state(4), EXTRA)
    stored.close()


def test_opening_read_only_leaves_the_folder_unchanged(tmp_path):
    folder = tmp_path / "c"
    _save(folder, steps=(4, 5))
    (folder / "_trash" / "3").mkdir(parents=True)
    (folder / "6.orbax-checkpoint-tmp").mkdir()
    before = _contents(folder)
    _restore(folder)
    assert _contents(folder) == before


def test_remains_of_an_interruption_are_ignored_and_the_trash_is_emptied(tmp_path):
    folder = tmp_path / "c"
    _save(folder)
    (folder / "_trash" / "3").mkdir(parents=True)
    (folder / "6.orbax-checkpoint-tmp").mkdir()
    stored = Checkpoints(folder)
    assert stored.steps() == [5]
    stored.close()
    assert not (folder / "_trash" / "3").exists()


@pytest.mark.parametrize(
    ("change", "key", "found", "expected"),
    [
        (lambda p: {**p, "half": p["half"][:3]}, "half", r"\(5,\)", r"\(3,\)"),
        (lambda p: {**p, "half": p["half"].astype("float32")}, "half", "bfloat16", "float32"),
        (lambda p: {**p, "new": p["half"]}, "new", "missing", r"\(5,\)"),
        (lambda p: {"conv": p["conv"]}, "half", r"\(5,\)", "missing"),
    ],
)
def test_a_state_of_another_structure_is_rejected_naming_a_key(
    tmp_path, change, key, found, expected
):
    _save(tmp_path / "c")
    like = _state().replace(params=change(_state().params))
    message = (
        rf"does not match the expected state: 1 arrays differ, e.g. \.params\['{key}'\] "
        rf"is .*{found}.* and should be .*{expected}"
    )
    with pytest.raises(UserError, match=message):
        _restore(tmp_path / "c", like=like)


def test_a_missing_step_is_a_one_line_error(tmp_path):
    _save(tmp_path / "c")
    with pytest.raises(UserError, match="checkpoint 7 in ") as caught:
        _restore(tmp_path / "c", 7)
    assert "\n" not in str(caught.value)


def _flip(path, position):
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1
    path.write_bytes(damaged)


def test_a_flipped_bit_in_any_file_is_detected_or_harmless(tmp_path):
    folder = tmp_path / "c"
    _save(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    detected, messages = set(), []
    for path in files:
        whole = path.read_bytes()
        for position in sorted({*range(0, len(whole), max(1, len(whole) // 6)), len(whole) - 1}):
            _flip(path, position)
            try:
                state, extra = _restore(folder)
            except UserError as error:
                detected.add(path)
                messages.append(str(error))
            else:
                chex.assert_trees_all_equal(state, _state())
                assert extra == EXTRA, (path, position)
            path.write_bytes(whole)
    assert not any("\n" in message for message in messages)
    # Damage to the numbers themselves is among what is detected.
    assert any(path.parent == folder / "5" / "state" / "d" for path in detected)
    assert any(path.parent.name == "extra" for path in detected)
    chex.assert_trees_all_equal(_restore(folder)[0], _state())


def test_a_flipped_bit_of_the_extras_is_detected(tmp_path):
    folder = tmp_path / "c"
    _save(folder)
    (path,) = folder.glob("5/extra/metadata")
    whole = path.read_bytes()
    for position in range(len(whole)):
        _flip(path, position)
        with pytest.raises(UserError, match="corrupt checkpoint 5"):
            _restore(folder)
        path.write_bytes(whole)


@pytest.mark.parametrize("part", ["state", "extra"])
def test_an_emptied_file_is_detected(tmp_path, part):
    folder = tmp_path / "c"
    _save(folder)
    for path in (folder / "5" / part).rglob("*"):
        if path.is_file() and path.name != "commit_success.txt":
            path.write_bytes(b"")
    with pytest.raises(UserError, match="corrupt checkpoint 5"):
        _restore(folder)


def test_garbled_scores_are_a_one_line_error(tmp_path):
    folder = tmp_path / "c"
    stored = Checkpoints(folder, keep_best=True)
    stored.save(5, _state(), EXTRA, score=0.5)
    stored.close()
    (folder / "5" / "metrics" / "metrics").write_text("{")
    with pytest.raises(UserError, match="corrupt checkpoints in ") as caught:
        Checkpoints(folder, keep_best=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "metrics/metrics"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"\xff\xfe"])
def test_a_damaged_description_of_the_newest_leaves_the_one_before(tmp_path, name, content):
    folder = tmp_path / "c"
    stored = Checkpoints(folder, keep_best=True)
    for step in (3, 5):
        stored.save(step, _state(), EXTRA, score=step / 10)
    stored.close()
    (folder / "5" / name).write_bytes(content)
    stored = Checkpoints(folder, keep_best=True)
    assert (stored.set_aside, stored.steps(), stored.best_step()) == ([5], [3], 3)
    chex.assert_trees_all_equal(stored.restore(3, _state())[0], _state())
    # Its step can be made and saved again.
    stored.save(5, _state(), EXTRA, score=0.5)
    stored.close()
    assert Checkpoints(folder, keep_best=True).steps() == [3, 5]


def test_unflatten_is_the_inverse_of_flatten():
    tree = {"a": [np.arange(3), {"b": np.ones((2, 2))}], "c": (np.zeros(()),)}
    flat = checkpoint.flatten(tree)
    assert list(flat) == ["['a'][0]", "['a'][1]['b']", "['c'][0]"]
    shuffled = dict(sorted(flat.items(), key=lambda item: hashlib.md5(item[0].encode()).digest()))
    chex.assert_trees_all_equal(checkpoint.unflatten(shuffled, tree, "it"), tree)


def test_reading_prints_nothing(tmp_path, capfd):
    stored = Checkpoints(tmp_path / "checkpoints")
    stored.save(1, {"x": np.zeros(2)}, {})
    stored.close()
    capfd.readouterr()
    Checkpoints(tmp_path / "checkpoints", read_only=True).read(1)
    assert capfd.readouterr() == ("", "")
