"""The layers of the code, and the size of its modules."""

import ast
from pathlib import Path

import pytest

PACKAGES = ("kdjax", "experiments", "configs")
MAX_LINES = 450


def modules(package):
    return sorted(Path(package).rglob("*.py"))


def nodes(path):
    """All nodes of a module's syntax tree."""
    for attempts_left in range(9, -1, -1):
        try:
            return list(ast.walk(ast.parse(path.read_text())))
        except SystemError:
            # CPython 3.11 counts the depth of all trees that are being built in one place, and is
            # disturbed by what other threads parse meanwhile (python/cpython#106905).
            if not attempts_left:
                raise
    return []


def imports(path):
    """The full names of all that a module imports."""
    package = path.with_suffix("").parts
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = [*package[: -node.level]] if node.level else []
            source = ".".join([*prefix, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def within(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", modules("kdjax"), ids=str)
def test_the_library_imports_nothing_from_the_runner(path):
    assert not [n for n in imports(path) if within(n, "experiments", "configs", "tests")]


@pytest.mark.parametrize("path", modules("kdjax/losses"), ids=str)
def test_losses_import_nothing_else_from_kdjax(path):
    names = [name for name in imports(path) if within(name, "kdjax")]
    assert not [name for name in names if not within(name, "kdjax.losses")]


@pytest.mark.parametrize("path", modules("experiments"), ids=str)
def test_the_runner_imports_no_config(path):
    assert not [name for name in imports(path) if within(name, "configs", "tests", "benchmarks")]


@pytest.mark.parametrize("path", modules("kdjax"), ids=str)
def test_only_parallel_maps_over_devices(path):
    if path.name != "parallel.py":
        names = {node.attr for node in nodes(path) if isinstance(node, ast.Attribute)}
        assert not names & {"pmap", "shard_map"}


@pytest.mark.parametrize("path", [p for package in PACKAGES for p in modules(package)], ids=str)
def test_modules_are_small(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
