"""The console command `kdjax`: `kdjax train ...` is `python -m experiments.main ...`.

It works wherever kdjax is installed; modules of one's own are found in the working directory.
"""

import ast
import os
import runpy
import sys
from importlib import util
from pathlib import Path

import kdjax
from experiments import cli

# Modules of this package, by the name of the command.
COMMANDS = {
    "train": "main",
    "launch": "launch",
    "evaluate": "evaluate",
    "predict": "predict",
    "export": "export",
    "report": "report",
    "runs": "runs",
    "models": "models",
    "properties": "properties",
    "transition-curves": "transition_curves",
}


def main() -> int:
    """Runs the command that the arguments name and returns its exit status."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name == "--version":
        print(f"kdjax {kdjax.__version__}")
        return 0
    if name in ("--help", "-h", "help"):
        print(_help())
        return 0
    if name not in COMMANDS:
        return cli.fail(f"unknown command {name!r}: choose from {', '.join(COMMANDS)}")
    # As `python -m` does, but after all others: it must not shadow what is installed.
    sys.path.append(os.getcwd())
    sys.argv = [f"kdjax {name}", *rest]
    runpy.run_module(f"experiments.{COMMANDS[name]}", run_name="__main__", alter_sys=True)
    return 0


def _help() -> str:
    """The commands, each with the first line of its description; nothing is imported."""
    lines = ["kdjax COMMAND [--FLAG=VALUE ...], or kdjax --version", ""]
    for name, module in COMMANDS.items():
        lines.append(f"  {name:<18} {_first_line(module)}")
    return "\n".join([*lines, "", "kdjax COMMAND --help has the flags of a command."])


def _first_line(module: str) -> str:
    spec = util.find_spec(f"experiments.{module}")
    assert spec is not None
    assert spec.origin is not None
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return docstring.partition("\n")[0]
