"""What the commands share: one line for a mistake, exit status 2, no traceback."""

import sys
from collections.abc import Callable, Sequence

from absl import flags, logging

from experiments.phase import Interrupted
from kdjax import parallel
from kdjax.types import UserError, first_line


def fail(message: str) -> int:
    """Prints the one line and gives the exit status."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def start(main: Callable[[], None], argv: Sequence[str]) -> int:
    """Sets the machine up, parses flags, runs `main` and gives the exit status."""
    logging.set_verbosity(logging.ERROR)
    parallel.set_up_host()
    try:
        rest = flags.FLAGS(argv)[1:]
        if rest:
            raise UserError(f"unexpected argument {rest[0]!r}: flags are --name=value")
        flags.FLAGS.validate_all_flags()
    except (flags.Error, UserError) as error:
        return fail(_last_line(error))
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # config_flags lets the config file's own exceptions through.
        return fail(_last_line(error))
    try:
        main()
    except UserError as error:
        return fail(str(error))
    except Interrupted as error:
        print(f"stopped by {error}; the same command goes on from here", file=sys.stderr)
        return 128 + error.number
    except OSError as error:
        return fail(first_line(error))
    return 0


def _last_line(error: BaseException) -> str:
    """What matters of an error that may carry a whole traceback in its message."""
    lines = [line.strip() for line in str(error).strip().strip("'\"").splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix("kdjax.types.UserError: ")
