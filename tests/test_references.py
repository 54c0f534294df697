"""References to objects outside kdjax."""

import math

import pytest

from kdjax import references
from kdjax.types import UserError


@pytest.mark.parametrize("name", ["math:sqrt", "os.path:join", "_a.b:c"])
def test_a_reference_is_a_module_and_a_name(name):
    assert references.is_reference(name)


@pytest.mark.parametrize("name", ["kd", "npz:a/b.npz", "folder:/data", "a:b:c", ":b", "a:", "1a:b"])
def test_other_names_are_not_references(name):
    assert not references.is_reference(name)


def test_a_reference_is_imported():
    assert references.resolve("math:sqrt", "method") is math.sqrt


@pytest.mark.parametrize(
    ("source", "reference", "message"),
    [
        ("", "absent_module:f", "cannot import 'absent_module' for method 'absent_module:f'"),
        ("", "{module}:f", "module '{module}' has no 'f'"),
        ("1 / 0", "{module}:f", "ZeroDivisionError: division by zero"),
        ("def f(:", "{module}:f", "SyntaxError: "),
    ],
)
def test_a_failing_import_is_a_one_line_error(tmp_path, monkeypatch, source, reference, message):
    module = f"reference_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        references.resolve(reference.format(module=module), "method")
    assert message.format(module=module) in str(error.value)
    assert "\n" not in str(error.value)


def test_only_trusted_modules_and_references_may_be_named_by_files(monkeypatch):
    monkeypatch.setattr(references, "_trusted", set())
    references.trust("my_networks", "others:small")
    references.check_trusted("my_networks:any", "model")
    references.check_trusted("others:small", "model")
    for name in ("others:large", "my_networks.inner:any", "os:system"):
        with pytest.raises(
            UserError, match=f"^model '{name}' is code.*--trust={name.split(':')[0]}"
        ):
            references.check_trusted(name, "model")
