"""Trains and distils as a config describes.

    python -m experiments.main --config=configs/NAME.py[:arguments] [--workdir=DIR]
        [--config.KEY=VALUE ...]

The same command resumes a run that was interrupted. A config may lie anywhere; methods,
models and data sets in modules beside it can be named as `module:name`.
"""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags
from rich.console import Console

from experiments import cli, legacy, usage
from kdjax import host
from kdjax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config(argument).")
HELP = {"--help", "-h", "--helpfull", "--helpshort", "-help"}
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder; by default runs/NAME-PHASES-DATA-HASH."
)


def main() -> None:
    """Runs the config of the flags."""
    from experiments import lines, run, workdir

    config = run.resolve(_CONFIG.value)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
    folder = Path(_WORKDIR.value) if _WORKDIR.value else workdir.default(name, config)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    host.set_up_cache(str(Path(cache) / "kdjax"))
    # Off a terminal rich assumes 80 columns, and folds the table and the lines.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    if note := usage.what_stays(config, overrides):
        lines.show(note, console)
    command = f"python -m experiments.main {shlex.join(sys.argv[1:])}"
    run.run(config, folder, console, command=command)


def prepare(argv: Sequence[str]) -> int:
    """Looks at the arguments before the flags are parsed; returns an exit status, 0 if all is well.

    Renamed keys are named, a config that does not exist is, and the config's own folder is put on
    the path, after all others.
    """
    for argument in argv[1:]:
        key, _, value = argument.lstrip("-").partition("=")
        if key == "config" and value:
            file = Path(re.sub(r"(\.py):.*", r"\1", value))
            if not file.is_file():
                known = ", ".join(name for name, _ in usage.configs(Path("configs")))
                return cli.fail(
                    f"no such config: {str(file)!r}{known and f': choose from {known}'}, or "
                    "any file with get_config"
                )
            sys.path.append(str(file.resolve().parent))
        if key.startswith("config."):
            try:
                legacy.check_renamed([key.removeprefix("config.")])
            except UserError as error:
                return cli.fail(str(error))
    return 0


def print_help(argv: Sequence[str]) -> int:
    """Prints the configs, or the keys of the one that is given; returns an exit status."""
    flags.FLAGS([argument for argument in argv if argument not in HELP])
    print(usage.text(__doc__ or "", Path("configs"), _CONFIG.value))
    return 0


if __name__ == "__main__":
    if HELP & set(sys.argv):
        sys.exit(prepare(sys.argv) or cli.guarded(lambda: print_help(sys.argv)))
    flags.mark_flag_as_required("config")
    sys.exit(prepare(sys.argv) or cli.start(main, sys.argv))
