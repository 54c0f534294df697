"""Writes a page about runs: one HTML file that needs nothing else, and the same in Markdown.

    python -m experiments.report RUN... [--out=FILE.html] [--tables_only]

The page has the tables of the run, with a paper's numbers and what ours differ by; curves; accuracy
over fidelity; and of the networks' predictions on the test split the confusion between teacher and
student, accuracy by class, and images on which they disagree. Several runs are compared first.

It is RUN/report.html, or report.html in the working directory for several runs; the Markdown file
lies beside it. `--tables_only` leaves the predictions out, for which the networks are loaded and
the data are read. Models and data of one's own need `--trust=module`, and `--import_from=DIR` where
the module is not on the path, as for `experiments.evaluate`.
"""

import os
import sys
from pathlib import Path

from absl import flags

from experiments import cli, own_code
from kdjax import files, host
from kdjax.types import UserError

_OUT = flags.DEFINE_string("out", "", "The page; by default report.html in the folder of the run.")
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Leave out what needs the networks.")


def main(*folders: str) -> None:
    """Writes the page about the runs in these folders."""
    from experiments.report import page, runs

    if not folders:
        raise UserError("no run given: python -m experiments.report RUN...")
    found = runs.distinct([runs.read(Path(folder)) for folder in folders])
    out = Path(
        _OUT.value or (found[0].folder / "report.html" if len(found) == 1 else "report.html")
    )
    if out.suffix != ".html":
        raise UserError(f"--out is {str(out)!r}: its name ends in .html")
    if not out.parent.is_dir():
        raise UserError(f"--out is {str(out)!r}: there is no folder {str(out.parent)!r}")
    own_code.allow()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    host.set_up_cache(str(Path(cache) / "kdjax"))
    described = [page.describe(run, tables_only=_TABLES_ONLY.value) for run in found]
    files.write(out, page.html(described).encode())
    files.write(out.with_suffix(".md"), page.markdown(described).encode())
    for one in described:
        if one.left_out and not _TABLES_ONLY.value:
            print(f"{one.run.name}: {one.left_out}", file=sys.stderr)
    print(f"{out}, {out.with_suffix('.md')}")


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv, arguments=True))
