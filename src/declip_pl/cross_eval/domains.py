"""The same models on several data sets: ``domains.json``, ``domains.csv`` and the printed table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from declip_pl.cross_eval.figures import IN, OUT
from declip_pl.cross_eval.matrix import Matrix
from declip_pl.cross_eval.models import rows_of_means
from declip_pl.cross_eval.text_table import aligned
from declip_pl.csv_files import write_csv
from declip_pl.metrics import untouched_metrics
from declip_pl.records import from_json, read_json, write_json

RECORD, SPREADSHEET, PICTURE = "domains.json", "domains.csv", "domains.png"

FAKES = ("iou", "iou_decided", "image_auroc")
"""What is shown of fakes: at 0.5, at each photo's own threshold, and of whole photos."""
REALS = tuple(entry.name for entry in untouched_metrics(decided=True))
"""What is shown of untouched photos."""

SAME, OTHERS = "same generator, other photos", "other generators"
EVERY = "all generators"
UNTOUCHED = "untouched photos"
MEAN = "mean over rows"
"""Stands where a row's name stands."""


@dataclass(frozen=True)
class Line:
    """The means of a training row over some test sets of a data set.

    Attributes:
        train: The row, or :data:`MEAN`.
        data: The data set.
        part: Of the first data set :data:`IN` or :data:`OUT`; of others :data:`SAME` (photos that a
            generator made which the row was trained on) or :data:`OTHERS`; of any :data:`EVERY`,
            where the row's training data are not on record, and :data:`UNTOUCHED`.
        generators: How many generators the means are over; None for untouched photos and means
            over rows.
        photos: How many photos were scored, over all these generators; None for means over rows.
        scores: In percent, by metric of :data:`FAKES`, or :data:`REALS` for untouched photos; None
            where none is defined.
    """

    train: str
    data: str
    part: str
    generators: int | None
    photos: int | None
    scores: dict[str, float | None]


@dataclass(frozen=True)
class DataSet:
    """A data set: a name that no other here has, its cross-evaluation, what readers must know."""

    name: str
    folder: str
    notice: str | None


@dataclass(frozen=True)
class Domains:
    """The same models on several data sets.

    Attributes:
        inputs: Those of the first data set's matrix; of another matrix these are no part.
        sets: The data sets; the first is that of ``--data``, where the models are trained.
        lines: By row, then data set; means over rows come last.
    """

    inputs: str
    sets: tuple[DataSet, ...]
    lines: tuple[Line, ...]

    @property
    def fakes(self) -> list[Line]:
        """The lines of fakes."""
        return [line for line in self.lines if line.part != UNTOUCHED]

    @property
    def untouched(self) -> list[Line]:
        """The lines of untouched photos."""
        return [line for line in self.lines if line.part == UNTOUCHED]

    @property
    def notices(self) -> list[str]:
        """What everyone who sees a score must know."""
        found = [f"{entry.name}: {entry.notice}" for entry in self.sets if entry.notice]
        return list(dict.fromkeys(found))


def domains_of(matrices: Sequence[Matrix]) -> Domains:
    """Return the means of the same models on several data sets.

    Args:
        matrices: One for each data set; the first says which rows there are.
    """
    first, names = matrices[0], [matrix.data.name for matrix in matrices]
    sets = tuple(
        DataSet(
            matrix.data.name if names.count(matrix.data.name) == 1
            else f"{matrix.data.name} ({matrix.name})",
            matrix.name, matrix.notice,
        )
        for matrix in matrices
    )  # fmt: skip
    lines = [
        line
        for row in first.rows
        for entry, matrix in zip(sets, matrices, strict=True)
        for line in _of_row(row, entry.name, matrix, first)
    ]
    rows = rows_of_means({model.row: model.trained_on for model in first.models})
    means = _means([line for line in lines if line.train in rows], sets)
    return Domains(first.inputs or "", sets, (*lines, *means))


def same_row(row: str, first: Matrix, other: Matrix) -> str | None:
    """Return what another matrix calls a row of the first: that of the same models, if any.

    A row's name says which generators of the data set it leaves out, so it may have another name.
    """
    models = {model.name for model in first.models if model.row == row}
    return next((model.row for model in other.models if model.name in models), None)


def write_domains(folder: Path, domains: Domains) -> None:
    """Write ``domains.json`` and the tidy ``domains.csv``."""
    write_json(folder / RECORD, domains, indent=1)
    metrics = (*FAKES, *REALS)
    columns = ("train", "data", "part", "generators", "photos", *metrics)
    lines = [
        (line.train, line.data, line.part, line.generators, line.photos,
         *(line.scores.get(metric) for metric in metrics))
        for line in domains.lines
    ]  # fmt: skip
    write_csv(folder / SPREADSHEET, columns, lines)


def read_domains(folder: Path, matrix: Matrix) -> Domains | None:
    """Return what :func:`write_domains` wrote beside a matrix.

    None where there is nothing, it is of another matrix, or it is damaged, which is said.
    """
    path = folder / RECORD
    try:
        content = read_json(path)
        return from_json(Domains, content) if content.get("inputs") == matrix.inputs else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        print(f"{path} is damaged ({error}): `cross-eval --also` makes it anew")
        return None


def domains_text(domains: Domains) -> str:
    """Return the lines as text: those of fakes, then those of untouched photos."""
    title = "fakes of all data sets: percent, means over generators"
    lines = ["", title, *_table(domains.fakes, FAKES, ("part", "generators"))]
    if domains.untouched:
        title = f"{UNTOUCHED} of all data sets: percent; less is better"
        lines += ["", title, *_table(domains.untouched, REALS)]
    return "\n".join([*lines, *domains.notices])


def _of_row(row: str, name: str, matrix: Matrix, first: Matrix) -> Iterator[Line]:
    theirs = same_row(row, first, matrix)
    if theirs is None:
        return
    scored = [column for column in matrix.columns if matrix.score("iou", theirs, column)]
    inside = [column for column in scored if matrix.is_in_domain(theirs, column)]
    outside = [column for column in scored if column not in inside]
    parts = {IN: inside, OUT: outside} if matrix is first else {SAME: inside, OTHERS: outside}
    for part, columns in (parts if first.is_on_record(row) else {EVERY: scored}).items():
        cells = {metric: [matrix.score(metric, theirs, c) for c in columns] for metric in FAKES}
        scores = {
            metric: _mean([cell.value if cell else None for cell in found])
            for metric, found in cells.items()
        }
        photos = sum(cell.n for cell in cells["iou"] if cell)
        if columns:
            yield Line(row, name, part, len(columns), photos, scores)
    found = {metric: matrix.of_row(metric, theirs) for metric in REALS}
    photos = max(score.n if score else 0 for score in found.values())
    if photos:
        values = {metric: score.value if score else None for metric, score in found.items()}
        yield Line(row, name, UNTOUCHED, None, photos, values)


def _means(lines: Sequence[Line], sets: Sequence[DataSet]) -> Iterator[Line]:
    for entry in sets:
        for part in (IN, OUT, SAME, OTHERS, UNTOUCHED):
            found = [line for line in lines if (line.data, line.part) == (entry.name, part)]
            if found:
                scores = {
                    metric: _mean([line.scores[metric] for line in found])
                    for metric in found[0].scores
                }
                yield Line(MEAN, entry.name, part, None, None, scores)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are defined, None if none is."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _table(lines: Sequence[Line], metrics: Sequence[str], further: Sequence[str] = ()) -> list[str]:
    """Return lines as a table of text, with further entries: words to the left, else right."""
    entries = ("train", "data", *further, "photos")
    rows = [["trained on", "tested on", *further, "photos", *metrics]]
    for line in lines:
        said = [getattr(line, name) for name in entries]
        scores = [line.scores[metric] for metric in metrics]
        rows.append(
            [
                *("" if v is None else v if isinstance(v, str) else f"{v:,}" for v in said),
                *("undefined" if v is None else f"{v:.1f}" for v in scores),
            ]
        )
    words = ("trained on", "tested on", "part")
    return aligned(rows, left=[place for place, name in enumerate(rows[0]) if name in words])
