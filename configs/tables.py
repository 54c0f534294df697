"""Tables that a run prints at its end, with a paper's numbers beside its own."""

from ml_collections import ConfigDict


def add_table(
    config: ConfigDict, name: str, *, caption: str, columns: list[str], rows: list[list[str]]
) -> None:
    """Adds a table that the run prints at its end and writes to `table.md` of its folder.

    Args:
      config: from `configs.common.base`.
      name: of the table in the config.
      caption: what it shows, and where the paper's numbers are from.
      columns: headings.
      rows: of cells; `measured` makes those with this run's figures.

    Raises:
      ValueError: if a row has another length than the headings.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{len(columns)} columns, but a row of {row}")
    config.report[name] = ConfigDict({"caption": caption, "columns": columns, "rows": rows})


def measured(phase: str, figure: str = "accuracy", form: str = ".2%", split: str = "test") -> str:
    """A cell with a figure of a phase, the mean and deviation if it has several seeds.

    Args:
      phase: name of the phase; the cell is empty if there is none.
      figure: key of the split's metrics.
      form: format of the figure.
      split: `train`, `validation` or `test`.
    """
    return f"{{{phase}[{split}][{figure}]:{form}}}"
