"""Trains and distils as a config describes.

    python -m experiments.main --config=configs/NAME.py[:arguments] [--workdir=DIR]
        [--config.KEY=VALUE ...] [--dry_run]

The same command resumes a run that was interrupted. With `--dry_run`, the phases are listed with
their parameters, multiply-adds, steps and an estimate of their time, and nothing is written.
A config may lie anywhere, and `configs/NAME.py` is that of kdjax where there is no such file;
methods, models and data sets in modules beside it can be named as `module:name`. A teacher from
another run whose model is such a one, and not in the config, needs `--trust=module`.

Several processes train together, each on its share of every batch, and process 0 writes. The run
folder must be one that all of them see. With SLURM, MPI or Kubernetes,

    srun python -m experiments.main --distributed --config=configs/NAME.py ...

and elsewhere `--coordinator_address=HOST:PORT --num_processes=N --process_id=I` in place of
`--distributed`; `python -m experiments.launch` starts several on one machine.
"""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import cli, legacy, own_code, usage
from kdjax import host, processes
from kdjax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config(argument).")
HELP = {"--help", "-h", "--helpfull", "--helpshort", "-help"}
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder; by default runs/NAME-PHASES-DATA-HASH."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "List the phases with their cost, after a few steps of each, and stop."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes that SLURM, MPI or Kubernetes has started."
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, for several processes."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def connect() -> None:
    """Connects this process with the others that the flags tell of.

    Raises:
      UserError: if some of the flags are missing, or no connection is made.
    """
    given = (_COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if all(value is None for value in given):
        if _DISTRIBUTED.value:
            processes.start()
        return
    if None in given or _DISTRIBUTED.value:
        raise UserError(
            "coordinator_address, num_processes and process_id are given together, without "
            "distributed"
        )
    processes.start(*given)


def main() -> None:
    """Runs the config of the flags."""
    from experiments import dry_run, lines, run, workdir

    connect()
    own_code.allow()
    config = run.resolve(_CONFIG.value)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
    folder = Path(_WORKDIR.value) if _WORKDIR.value else workdir.default(name, config)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    host.set_up_cache(str(Path(cache) / "kdjax"))
    console = cli.Console()
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    if note := usage.what_stays(config, overrides):
        lines.show(note, console)
    if _DRY_RUN.value:
        if processes.count() > 1:
            raise UserError(f"dry_run works in one process, and there are {processes.count()}")
        dry_run.dry_run(config, folder, console)
        return
    command = shlex.join(["python", "-m", "experiments.main", *without_processes(sys.argv[1:])])
    run.run(config, folder, console, command=command)


def without_processes(arguments: Sequence[str]) -> list[str]:
    """The arguments without what a process is told of the others, which no result depends on."""
    kept, skip = [], False
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        told = name in ("coordinator_address", "num_processes", "process_id")
        if not (skip or told or name == "distributed"):
            kept.append(argument)
        skip = told and not value
    return kept


def prepare(argv: list[str]) -> int:
    """Looks at the arguments before the flags are parsed; returns an exit status, 0 if all is well.

    Renamed keys are named, a config that does not exist is, one of kdjax's own is found wherever
    kdjax is installed, and the config's own folder is put on the path, after all others.
    """
    for i, argument in enumerate(argv[1:], 1):
        key, _, value = argument.lstrip("-").partition("=")
        if key == "config" and value:
            file = Path(re.sub(r"(\.py):.*", r"\1", value))
            if not file.is_file() and usage.is_ours(file):
                file = usage.CONFIGS.parent / file
                argv[i] = f"--config={usage.CONFIGS.parent / value}"
            if not file.is_file():
                known = ", ".join(name for name, _ in usage.configs())
                return cli.fail(
                    f"no such config: {str(file)!r}: choose from {known}, or any file with "
                    "get_config"
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
    print(usage.text(__doc__ or "", _CONFIG.value))
    return 0


if __name__ == "__main__":
    if HELP & set(sys.argv):
        sys.exit(prepare(sys.argv) or cli.guarded(lambda: print_help(sys.argv)))
    flags.mark_flag_as_required("config")
    sys.exit(prepare(sys.argv) or cli.start(main, sys.argv))
