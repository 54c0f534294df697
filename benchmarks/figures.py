"""What a finished run says, without how long it took."""

import json
from pathlib import Path
from typing import Any

from experiments.log import read_metrics

# What differs between equal runs.
_TIMES = ("seconds", "images_per_second", "eta_seconds", "seconds_of", "command")


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
