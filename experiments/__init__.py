"""The command line: trains teachers, distils students, evaluates and reports."""

import os
import sys
from types import TracebackType

# XLA's warnings are meant for those who work on XLA; it prints two hundred of them, for
# example, if an array is larger than the blocks that `kdjax.host.set_up_host` asks for. The
# variable is read when JAX is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _excepthook(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Ctrl-C is one line, while modules are being imported, too."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped by SIGINT", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _excepthook
