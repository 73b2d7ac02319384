"""The same models on several data sets as the tables of a paper."""

from collections.abc import Callable, Sequence

from declip_pl.cross_eval.domains import FAKES, REALS, Domains, Line
from declip_pl.cross_eval.matrix import Score
from declip_pl.cross_eval.views.tables import Cell, Entry, Table, line
from declip_pl.metrics import find_metric


def domain_tables(domains: Domains) -> list[Table]:
    """Return the table of fakes and, where there are any, that of untouched photos."""
    notes = [f"{notice}." for notice in domains.notices]
    found = [Table(
        "domains-fakes", "Fakes of all data sets: percent, means over generators", notes,
        ["trained on", "tested on", "of it", "generators", "photos", *_titles(FAKES)],
        _by_row(domains.fakes, _of_fakes), 3,
    )]  # fmt: skip
    if domains.untouched:
        found.append(Table(
            "domains-untouched", "Untouched photos of all data sets: percent; less is better",
            notes, ["trained on", "tested on", "photos", *_titles(REALS)],
            _by_row(domains.untouched, _of_untouched), 2,
        ))  # fmt: skip
    return found


def _by_row(lines: Sequence[Line], cells: Callable[[Line], list[Cell]]) -> list[list[list[Cell]]]:
    """Return the cells of all lines, a group for each training row."""
    return [
        [cells(entry) for entry in lines if entry.train == row]
        for row in dict.fromkeys(entry.train for entry in lines)
    ]


def _titles(metrics: Sequence[str]) -> list[str]:
    return [find_metric(name).title for name in metrics]


def _of_fakes(entry: Line) -> list[Cell]:
    words = (entry.train, entry.data, entry.part)
    return line(words, [_count(entry.generators), _count(entry.photos), *_scores(entry, FAKES)])


def _of_untouched(entry: Line) -> list[Cell]:
    return line((entry.train, entry.data), [_count(entry.photos), *_scores(entry, REALS)])


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _scores(entry: Line, metrics: Sequence[str]) -> list[Entry]:
    photos = entry.photos or 0
    return [Entry(Score(entry.scores[name], None, None, photos)) for name in metrics]
