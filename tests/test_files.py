"""Files that are written as a whole."""

import json

import pytest

from kdjax import UserError, files


def test_json_is_strict(tmp_path):
    value = {"a": [1.5, float("nan")], "b": {"c": float("inf")}, "d": (1, "x", None, True)}
    files.write_json(tmp_path / "x.json", value)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert read == {"a": [1.5, None], "b": {"c": None}, "d": [1, "x", None, True]}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_one_line(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json' is not JSON") as error:
        files.read_json(tmp_path / "x.json")
    assert "\n" not in str(error.value)
