"""The flags `--import_from` and `--trust`, for modules of one's own that a run folder names."""

import sys

from absl import flags

from kdjax import references

_IMPORT_FROM = flags.DEFINE_string("import_from", "", "Folder with modules of one's own.")
_TRUST = flags.DEFINE_list(
    "trust", [], "Modules of one's own that a run folder may name; they are imported and called."
)


def allow() -> None:
    """Puts the folder on the path, after all others, and trusts the modules."""
    if _IMPORT_FROM.value:
        sys.path.append(_IMPORT_FROM.value)
    references.trust(*_TRUST.value)
