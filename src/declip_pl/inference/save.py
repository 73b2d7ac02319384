"""``declip-pl save``: a trained localizer as a folder that people pass on."""

from pathlib import Path

from declip_pl.errors import UserError
from declip_pl.inference import saved_folder
from declip_pl.inference.recorded_scores import recorded_scores
from declip_pl.model.checkpoint import WEIGHTS_FILE, read_checkpoint


def save(model: str, folder: Path, about: Path | None = None, overwrite: bool = False) -> None:
    """Write a trained localizer as a folder for others: weights, description, model card.

    The card has the scores of the run's test, and its rows of the cross-evaluations that lie beside
    the runs: of each data set the latest. Prints the size of the folder and the weights' SHA-256.

    Args:
        model: A run's folder, a checkpoint, a saved folder, an id on the Hugging Face hub, or
            starter.
        folder: Folder to write.
        about: File of Markdown to stand in the card: the photos and their licences, limits.
        overwrite: Replace a localizer that stands there.

    Raises:
        UserError: If there is no such model or file, or a localizer stands there.
    """
    checkpoint = read_checkpoint(model)
    text = _read(about) if about else ""
    saved_folder.save(
        checkpoint, folder, recorded_scores(checkpoint), about=text, overwrite=overwrite
    )
    size = sum((folder / file).stat().st_size for file in saved_folder.FILES)
    print(f"{folder}: {size / 1e6:.2f} MB ({', '.join(saved_folder.FILES)})")
    print(f"SHA-256 of {WEIGHTS_FILE}: {read_checkpoint(folder).sha256}")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read as text ({error}); expected Markdown") from error
