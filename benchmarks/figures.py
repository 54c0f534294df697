"""What a finished run says, without how long it took."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.log import read_metrics

# What differs between equal runs.
_TIMES = ("seconds", "images_per_second", "eta_seconds", "seconds_of", "command")


def kinds(given: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """The kinds of runs that were asked for, by default all; ends the program if one is unknown."""
    if unknown := [kind for kind in given if kind not in known]:
        sys.exit(f"no kind {unknown[0]!r}: choose from {', '.join(known)}")
    return list(given or known)


def figures(folder: Path) -> dict[str, Any]:
    """All figures and rows of a finished run, without times."""
    summary = json.loads((folder / "summary.json").read_text())["phases"]
    rows = {name: read_metrics(folder / name / "metrics.jsonl") for name in summary}
    found: dict[str, Any] = _timeless({"summary": summary, "rows": rows})
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key not in _TIMES}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value
