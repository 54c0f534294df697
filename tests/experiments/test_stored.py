"""Damaged files in a run folder: one line, whatever they hold."""

import functools
import json
import shutil

import pytest
from small_run import execute, small_config

from experiments import stored
from experiments.log import read_metrics
from kdjax import UserError, networks

DAMAGED = [
    b"", b"[]", b"{}", b"null", b"5", b'"text"', b"\xff\xfe\x00", b'{"phases": 5}',
    b'{"step": "5", "summary": []}', b'{"step": 5, "summary": {"model": 3}}',
    b'{"config": {}, "phases": {"kd": []}}', b'{"data": {}, "phases": {"kd": 5}, "train": {}}',
    b'{"data": {}, "phases": {"kd": {"seeds": 5}}, "train": {}}',
]  # fmt: skip


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("content", DAMAGED, ids=str)
@pytest.mark.parametrize(
    "name", ["config.json", "summary.json", "teacher/result.json", "teacher/network.json"]
)
def test_a_damaged_file_is_named_in_one_line(run, name, content):
    if name != "summary.json":
        (run / "summary.json").unlink()
    (run / name).write_bytes(content)
    reads = functools.partial(execute, small_config(), run)
    if name == "teacher/network.json":
        reads = functools.partial(networks.load, str(run / "teacher"))
    with pytest.raises(UserError) as error:
        reads()
    assert name.rpartition("/")[2] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_log_is_read_as_far_as_it_can_be(tmp_path):
    rows = [json.dumps({"step": step, "train/loss": 1.0}).encode() for step in range(3)]
    damaged = [b"5", b"[]", b"{}", b'{"step": "x"}', b"\xff\xfe", b'{"step": 7, "train/lo']
    lines = [rows[0], *damaged[:3], rows[1], *damaged[3:5], rows[2], damaged[5]]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def test_what_is_whole_is_read(finished):
    config = stored.config(finished)
    assert [member.name for member in stored.members(config)] == ["teacher", "scratch", "kd"]
    summary = stored.summary(finished)
    known = summary["phases"]["kd"]
    assert stored.result(finished / "kd") == {
        key: value for key, value in known.items() if key not in ("phase", "seed")
    }
