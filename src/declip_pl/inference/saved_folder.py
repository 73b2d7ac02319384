"""What people pass on: a folder with a localizer, its scores and its model card."""

from dataclasses import replace
from pathlib import Path

from declip_pl.errors import UserError
from declip_pl.files import write_text
from declip_pl.inference.model_card import model_card
from declip_pl.inference.recorded_scores import RecordedScores, add_to_config
from declip_pl.model import checkpoint as checkpoints
from declip_pl.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint
from declip_pl.privacy import without_folders

CARD_FILE = "README.md"

FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE)
"""What a saved folder holds; without the first it is none."""


def save(
    checkpoint: Checkpoint,
    folder: Path,
    scores: RecordedScores | None = None,
    name: str | None = None,
    about: str = "",
    overwrite: bool = False,
) -> None:
    """Write a localizer's decoder, its description and its model card into a folder.

    No file names a folder of this machine, but for an encoder that was typed as one: nothing else
    says where it is.

    Args:
        checkpoint: The localizer.
        folder: Where to; it is made.
        scores: Those on record, for the card and for whoever saves the localizer again.
        name: What the card calls it, by default like the folder.
        about: Markdown to stand in the card.
        overwrite: Whether files that are there already are replaced.

    Raises:
        UserError: If one of the files is there already.
    """
    for file in FILES if overwrite else ():
        (folder / file).unlink(missing_ok=True)
    if (folder / CARD_FILE).exists():
        raise UserError(f"a {CARD_FILE} stands in {folder}; name another folder")
    source = without_folders(checkpoint.identity.source)
    checkpoint = replace(checkpoint, identity=replace(checkpoint.identity, source=source))
    checkpoints.save(checkpoint, folder)
    config = folder / CONFIG_FILE
    if scores:
        write_text(config, add_to_config(config.read_text(encoding="utf-8"), scores))
    card = model_card(checkpoint, name or folder.absolute().name, scores, about)
    write_text(folder / CARD_FILE, card)
