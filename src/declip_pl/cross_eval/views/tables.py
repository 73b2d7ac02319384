"""Tables of scores as LaTeX (booktabs) and Markdown, whatever they are tables of."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from declip_pl.cross_eval.estimates import Score
from declip_pl.files import file_name, write_text

FOLDER = "tables"
"""In a report's folder, where the tables are as files."""

MISSING, UNDEFINED = "failed", "undefined"
"""Stand where there is no score: nothing was measured, or the score is not defined."""

_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}  # fmt: skip
_MARKDOWN = frozenset("\\`*_{}[]<>|#~")


@dataclass(frozen=True)
class Entry:
    """A score in a table; ``home`` if it is of what the row was trained on."""

    score: Score | None
    home: bool = False

    @property
    def value(self) -> str:
        """The score with one decimal, or why there is none."""
        if self.score is None:
            return MISSING
        return UNDEFINED if self.score.value is None else f"{self.score.value:.1f}"

    @property
    def interval(self) -> tuple[str, str] | None:
        """The ends of its interval with one decimal; None where there is none."""
        found = self.score
        if found is None or found.low is None or found.high is None:
            return None
        return f"{found.low:.1f}", f"{found.high:.1f}"


Cell = str | Entry
"""Of a table: words or a score."""


@dataclass(frozen=True)
class Table:
    """A table of scores.

    Attributes:
        name: Of its files, without suffix.
        title: What it shows.
        notes: What readers must know: sentences.
        head: The columns' headings; the first ``words`` of them head words.
        groups: Lines of words and scores, as many as there are headings; a rule parts two groups.
        words: How many cells of a line are words.
        home: What is said of home cells.
    """

    name: str
    title: str
    notes: Sequence[str]
    head: Sequence[str]
    groups: Sequence[Sequence[Sequence[Cell]]]
    words: int = 1
    home: str = ""

    @property
    def lines(self) -> Iterator[Sequence[Cell]]:
        """All lines."""
        for group in self.groups:
            yield from group

    def said(self, mark: str) -> str:
        """Return title and notes as sentences, and what a mark of home cells means."""
        home = any(cell.home for line in self.lines for cell in line if isinstance(cell, Entry))
        title = self.title if self.title.endswith(".") else f"{self.title}."
        return " ".join([title, *self.notes, *([f"{mark}: {self.home}."] if home else [])])


def line(words: Sequence[str], entries: Iterable[Cell]) -> list[Cell]:
    """Return a line of a table."""
    return [*words, *entries]


def latex(table: Table) -> str:
    """Return a table as LaTeX for ``booktabs``; home cells are underlined."""
    columns = "l" * table.words + "c" * (len(table.head) - table.words)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{_latex(table.said('Underlined'))}}}",
        f"  \\label{{tab:{_label(table.name)}}}",
        f"  \\begin{{tabular}}{{{columns}}}",
        "    \\toprule",
        "    " + " & ".join(map(_latex, table.head)) + " \\\\",
    ]
    for group in table.groups:
        lines.append("    \\midrule")
        lines += ["    " + " & ".join(map(_latex_cell, line)) + " \\\\" for line in group]
    lines += ["    \\bottomrule", "  \\end{tabular}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def markdown(table: Table) -> str:
    """Return a table as Markdown; home cells have a star."""
    rows = [
        [*map(_markdown, table.head)],
        ["---"] * table.words + ["---:"] * (len(table.head) - table.words),
        *([*map(_markdown_cell, line)] for line in table.lines),
    ]
    said = _markdown(table.said("With a star"))
    return "\n".join([said, "", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def write_tables(folder: Path, tables: Sequence[Table]) -> None:
    """Write each table as ``tables/NAME.tex`` and ``tables/NAME.md``."""
    for table in tables:
        for suffix, text in ((".tex", latex(table)), (".md", markdown(table))):
            write_text(folder / FOLDER / file_name(table.name, suffix), text)


def _latex_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return _latex(cell)
    value = f"\\underline{{{cell.value}}}" if cell.home else cell.value
    ends = cell.interval
    return value if ends is None else f"{value} {{\\scriptsize ({ends[0]}--{ends[1]})}}"


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return _markdown(cell)
    star, ends = "\\*" if cell.home else "", cell.interval
    return cell.value + star + (f" ({ends[0]} to {ends[1]})" if ends else "")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _markdown(text: str) -> str:
    # A line break would end the row.
    joined = " ".join(text.split())
    return "".join("\\" + c if c in _MARKDOWN else c for c in joined)


def _label(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
