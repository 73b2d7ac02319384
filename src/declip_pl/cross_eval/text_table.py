"""Tables as text, for the terminal."""

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Container[int]) -> list[str]:
    """Return rows as lines with their columns below each other.

    Args:
        rows: Their cells, the head first.
        left: Places of the columns that begin below each other; the others end so.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
