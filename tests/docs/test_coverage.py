"""Every public name of kdjax is documented, and shown by a page of the API. Sphinx is not needed."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

DOCS = Path("docs")
MODULES = sorted(
    ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for path in Path("kdjax").rglob("*.py")
    if not path.stem.startswith("_") or path.stem == "__init__"
)


def shown():
    """The modules that pages show with their members."""
    pages = [path for path in DOCS.rglob("*.md") if "_build" not in path.parts]
    text = "\n".join(path.read_text() for path in pages)
    return re.findall(r"^\.\. automodule:: (\S+)\n   :members:$", text, re.M)


def documented_constants(module):
    """The assignments of a module that have a comment `#:`, which is what Sphinx shows of them."""
    lines = inspect.getsource(module).splitlines()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and lines[node.lineno - 2][:2] == "#:":
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            yield target.id


@pytest.mark.parametrize("name", MODULES)
def test_a_page_shows_each_module_once(name):
    assert shown().count(name) == 1, f"docs/api has no automodule:: {name} with :members:"


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_and_classes_have_docstrings(name):
    module = importlib.import_module(name)
    own = {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name
    }
    defined = [v for v in own.values() if inspect.isclass(v) or inspect.isroutine(v)]
    # A class without a docstring would inherit one.
    assert not [v.__qualname__ for v in defined if not vars(v).get("__doc__", v.__doc__)]


@pytest.mark.parametrize(
    "name", [m for m in MODULES if hasattr(importlib.import_module(m), "__all__")]
)
def test_exported_names_are_shown(name):
    package = importlib.import_module(name)
    constants = {
        key
        for one in MODULES
        if one.startswith(name)
        for key in documented_constants(importlib.import_module(one))
    }
    for key in package.__all__:
        value = getattr(package, key)
        if inspect.ismodule(value):
            assert value.__name__ in shown()
        elif inspect.isclass(value) or inspect.isroutine(value):
            assert value.__doc__, key
            assert value.__module__ in shown(), key
        else:
            assert key in constants, f"{key} has no comment #: above it"
