"""Lines on the terminal: folded between words there, and left as they are elsewhere."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console


def show(text: str, console: Console) -> None:
    """Prints a line as it is, without markup or colours."""
    # Off a terminal, a line is for a program or a file.
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def fold(chunks: Sequence[str], width: int, between: str = " ") -> list[str]:
    """Lines of at most `width` cells, if each chunk has at most so many.

    Args:
      chunks: what stays on one line.
      width: of the lines.
      between: what separates chunks on a line.
    """
    lines: list[str] = []
    for chunk in chunks:
        if lines and cell_len(lines[-1] + between + chunk) <= width:
            lines[-1] += between + chunk
        else:
            lines.append(chunk)
    return lines
