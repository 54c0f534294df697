"""The command line: trains teachers, distils students, evaluates and reports."""

import os

# XLA's warnings are meant for those who work on XLA; it prints two hundred of them, for
# example, if an array is larger than the blocks that `kdjax.host.set_up_host` asks for. The
# variable is read when JAX is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
