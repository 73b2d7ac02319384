"""What ``declip-pl compare`` takes: a whole cross-evaluation, or one model's part of one."""

from dataclasses import dataclass
from pathlib import Path
from shlex import join

from declip_pl.cross_eval.cell import finished_cell
from declip_pl.cross_eval.columns import Column
from declip_pl.cross_eval.map_names import content_of, is_map_folder
from declip_pl.cross_eval.matrix import (
    FILE,
    ROOT,
    Matrix,
    ScoredModel,
    read_matrix,
    readable_matrices,
)
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import read_checkpoint

Where = tuple[str, str]
"""A row (what a model was trained on) and a column (what it was tested on)."""
Photos = tuple[list[str], dict[str, Column]]
"""Names of P photos, and their scores ``[P]`` by metric, NaN where one is undefined."""


@dataclass(frozen=True)
class Images:
    """Image scores in [0, 1] by photo, and the threshold that was chosen for them, if any."""

    scores: dict[str, float]
    threshold: float | None


@dataclass(frozen=True)
class Evaluation:
    """A cross-evaluation, or one model's part of it.

    Attributes:
        folder: The cross-evaluation's folder.
        matrix: Its matrix.
        model: The only model that counts; None if all do.
    """

    folder: Path
    matrix: Matrix
    model: ScoredModel | None = None

    @property
    def title(self) -> str:
        """Which of its models count, and where they are."""
        name = f"{self.model.name} in {self.matrix.name}" if self.model else self.matrix.name
        return f"{name} ({self.folder})"

    def cells(self) -> list[Where]:
        """Return the cells that did not fail, in the matrix' order."""
        rows = (self.model.row,) if self.model else self.matrix.rows
        tables = self.matrix.matrix.values()
        return [
            (row, column)
            for row in rows
            for column in self.matrix.columns
            if any(column in table.get(row, {}) for table in tables)
        ]

    def photos(self, where: Where) -> dict[int, Photos]:
        """Return the photos and scores that each seed has in a cell.

        Histograms, which take most of a cell and of the memory for it, are left behind.
        """
        row, column = where
        models = [self.model] if self.model else [m for m in self.matrix.models if m.row == row]
        found = {m.seed: finished_cell(self.folder, self.matrix, m, column) for m in models}
        return {seed: (cell.photos, cell.scores) for seed, cell in found.items() if cell}

    def images(self, where: Where) -> dict[int, Images]:
        """Return the photos and image scores that each seed has in a cell, by its pooling."""
        row, column = where
        models = [self.model] if self.model else [m for m in self.matrix.models if m.row == row]
        found = {m.seed: finished_cell(self.folder, self.matrix, m, column) for m in models}
        pooling = self.matrix.pooling
        return {
            seed: Images(
                dict(zip(cell.photos, cell.image_scores[pooling].tolist(), strict=True)),
                cell.thresholds.image.get(pooling),
            )
            for seed, cell in found.items()
            if cell
        }

    def trained_on(self, row: str) -> tuple[str, ...]:
        """Return the generators that a row was trained on; none if they are not on record."""
        found = [model.trained_on for model in self.matrix.models if model.row == row]
        return found[0] if found else ()


def read_evaluations(a: str, b: str) -> tuple[Evaluation, Evaluation]:
    """Return what two arguments of the command line stand for.

    A folder with a ``matrix.json`` stands for itself. Anything else is a model, or a folder of
    another method's heat maps, and stands for its cells in the newest cross-evaluation that scored
    it.

    Raises:
        UserError: If a folder's matrix can't be read, there is no such model, or no
            cross-evaluation scored it.
    """
    found = [_find(name) for name in (a, b)]
    missing = [name for name, evaluation in zip((a, b), found, strict=True) if not evaluation]
    if missing:
        raise UserError(
            f"no cross-evaluation in {ROOT} has scored {' or '.join(dict.fromkeys(missing))}; "
            f"run: {join(['declip-pl', 'evaluate', a, b])}"
        )
    first, second = (evaluation for evaluation in found if evaluation)
    return first, second


def _find(name: str) -> Evaluation | None:
    folder = Path(name).expanduser()
    if (folder / FILE).exists():
        return Evaluation(folder, read_matrix(folder))
    try:
        is_maps = is_map_folder(folder)
        digest = content_of(folder) if is_maps else read_checkpoint(name).sha256
    except UserError as error:
        raise UserError(
            f"{name} is no cross-evaluation (there is no {FILE} in it), no folder of heat maps and "
            f"no model: {error}"
        ) from error
    for found, matrix in readable_matrices(ROOT):
        for model in matrix.models:
            if digest == (model.maps.sha256 if model.maps else model.checkpoint_sha256):
                return Evaluation(found, matrix, model)
    return None
