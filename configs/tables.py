"""Tables and figures that a run ends in, with a paper's numbers beside its own."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict


def add_table(
    config: ConfigDict,
    name: str,
    *,
    caption: str,
    columns: list[str],
    rows: list[list[str]],
    probe: str = "",
) -> None:
    """Adds a table that the run prints at its end and writes to `table.md` of its folder.

    Args:
      config: from `configs.common.base`.
      name: of the table in the config.
      caption: what it shows, and where the paper's numbers are from.
      columns: headings.
      rows: of cells; `measured` makes those with this run's figures.
      probe: of `experiments.properties`, which prints the table instead of the run and puts its
        figures into cells such as `{kd[adversarial][fooling_rate]:.2%}`.

    Raises:
      ValueError: if a row has another length than the headings.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{len(columns)} columns, but a row of {row}")
    table = {"caption": caption, "columns": columns, "rows": rows}
    config.report[name] = ConfigDict(table | ({"probe": probe} if probe else {}))


def add_figure(
    config: ConfigDict,
    name: str,
    *,
    caption: str,
    x_label: str,
    series: Mapping[str, Mapping[float, str | float]],
    x_scale: str = "linear",
    span: tuple[float, float] | tuple[()] = (),
    span_label: str = "",
) -> None:
    """Adds a plot of accuracy over a varied value, which the run draws to `NAME.png` of its folder.

    Args:
      config: from `configs.common.base`.
      name: of the figure in the config, and of its file.
      caption: what it shows.
      x_label: what varies.
      series: by label, the accuracy at each value: `measured` makes those of this run, whose
        deviation over seeds is drawn as error bars; a paper's are numbers from 0 to 1.
      x_scale: of the varied value: linear, log, or symlog where it can be zero.
      span: the range of values that a paper names, which is shaded.
      span_label: what that range is.
    """
    config.report[name] = ConfigDict(
        {
            "caption": caption,
            "x_label": x_label,
            "x_scale": x_scale,
            # Tuples, as labels may have characters that keys may not.
            "series": tuple((label, tuple(points.items())) for label, points in series.items()),
            "span": span,
            "span_label": span_label,
        }
    )


def add_scatter(
    config: ConfigDict,
    name: str,
    *,
    caption: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[tuple[str | float, str | float]]],
) -> None:
    """Adds a plot of one figure against another, which the run draws to `NAME.png` of its folder.

    Points of this run are circles with error bars, its deviation over seeds; those of a paper
    are crosses. Points of one label have one colour.

    Args:
      config: from `configs.common.base`.
      name: of the plot in the config, and of its file.
      caption: what it shows.
      x_label: figure on the horizontal axis.
      y_label: figure on the vertical axis.
      series: by label, points (x, y): `measured` makes those of this run; a paper's are numbers,
        fractions from 0 to 1 where the format of this run's is in percent.

    Raises:
      ValueError: if one of x and y is of this run and the other a number.
    """
    for label, points in series.items():
        for x, y in points:
            if isinstance(x, str) != isinstance(y, str):
                raise ValueError(f"{label}: ({x}, {y}) is half a point of this run")
    config.report[name] = ConfigDict(
        {
            "caption": caption,
            "x_label": x_label,
            "y_label": y_label,
            "series": tuple((label, tuple(points)) for label, points in series.items()),
        }
    )


def measured(phase: str, figure: str = "accuracy", form: str = ".2%", split: str = "test") -> str:
    """A cell or a point with a figure of a phase, the mean and deviation if it has several seeds.

    Args:
      phase: name of the phase; the cell is empty if there is none.
      figure: key of the split's metrics; or `error`, `teacher_error` or `disagreement`, which are
        1 - `accuracy`, `teacher_accuracy` or `agreement`.
      form: format of the figure.
      split: `train`, `validation` or `test`.
    """
    return f"{{{phase}[{split}][{figure}]:{form}}}"
