"""Notebooks run from top to bottom, as scripts; the build of the pages runs them in Jupyter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GALLERY = Path("docs/gallery").resolve()
NOTEBOOKS = sorted(path.name for path in GALLERY.glob("*.md") if path.stem != "index")


def cells(path):
    """The code of a notebook, cell by cell."""
    return re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", path.read_text(), re.M | re.S)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_cells_of_a_notebook_are_python(name):
    assert (GALLERY / "index.md").read_text().count(f"]({name})") == 1
    for cell in cells(GALLERY / name):
        compile(cell, name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name):
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": path}
    del environment["XLA_FLAGS"]  # Those of the tests compile quickly and train slowly.
    command = [sys.executable, "-c", "\n\n".join(cells(GALLERY / name))]
    subprocess.run(command, cwd=GALLERY, env=environment, check=True)
