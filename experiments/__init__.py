"""The command line: trains teachers, distils students, evaluates and reports."""

import os

# XLA's warnings are for who works on XLA: two hundred of them, say, that an array is larger than
# the blocks that `kdjax.parallel.set_up_host` asks for. It reads this when JAX is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
