"""Trains and distils as a config says.

    python -m experiments.main --config=configs/NAME.py[:arguments] [--workdir=DIR]
        [--config.KEY=VALUE ...]

Run it again with the same arguments to go on after an interruption.
"""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags
from rich.console import Console

from experiments import cli
from kdjax import parallel

_CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config(argument).")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; by default runs/NAME-HASH.")


def main() -> None:
    """Runs the config of the flags."""
    from experiments import run

    config = run.resolve(_CONFIG.value)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
    workdir = Path(_WORKDIR.value) if _WORKDIR.value else run.default_workdir(name, config)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    parallel.set_up_cache(str(Path(cache) / "kdjax"))
    # Off a terminal rich assumes 80 columns, and folds the table and the lines.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    run.run(config, workdir, console)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    sys.exit(cli.start(main, sys.argv))
