"""What the page of ``declip-pl demo`` says."""

from pathlib import Path

from declip_pl.data.images import MAX_PIXELS
from declip_pl.data.layout import FORGERIES
from declip_pl.errors import UserError
from declip_pl.inference.about import about
from declip_pl.inference.model_card import image_threshold
from declip_pl.inference.recorded_scores import RecordedScores
from declip_pl.model.checkpoint import Checkpoint
from declip_pl.model.description import TrainedOn
from declip_pl.names import markdown
from declip_pl.parts import short
from declip_pl.privacy import without_folders

MAX_UPLOAD = 100
"""Size of what is dropped at once in MB (2^20 bytes): a large camera's photo, losslessly
compressed."""

MAX_PHOTOS = 20
"""That are dropped at once."""

SHOWN_REGIONS = 8

_LIMITS = f"{MAX_UPLOAD} MB and {MAX_PIXELS // 10**6} megapixels"

FILE_TITLE = "Your photos"

TOO_MUCH = (
    f"More than the page holds at once: up to {MAX_PHOTOS} photos, together up to {_LIMITS}. Drop "
    "fewer, or use declip-pl predict FOLDER."
)

SAMPLES_TITLE = "Or take a test photo: a real one, or one that the generator named has changed."

WAYS = [("Whole photo", False), ("In tiles: small changes in large photos, slower", True)]

TITLE = "Was part of this photo painted by a generative model?"

INTRODUCTION = f"""# {TITLE}
Drop photos and see which parts look generated to a trained model. They are looked at on this
computer and sent nowhere; a photo's file is deleted as soon as it has been read. Up to {MAX_PHOTOS}
photos at once, together up to {_LIMITS}."""

LEGEND = """**Heat map:** black looks untouched; purple, orange and yellow look more and more
generated. **Overlay:** the same colours over the photo, and a red line around every part above the
threshold."""

WIPE_LEGEND = "Left of the line the photo, right of it the overlay."

LIMITS = (
    "The model knows the traces that a few generators leave in photos like those it was trained "
    "on. Other generators, strong compression, filters, screenshots and resizing can mislead it "
    "either way. Accuse nobody on its word."
)

CAUTION = f"""**No proof.** A high score doesn't show that a photo was manipulated, and a low one
doesn't show that it wasn't. {LIMITS}"""

FILES_TITLE = (
    """**Files to download:** a report, pictures at the photo's own size, and all figures."""
)

FILE_LABELS = ("Report (HTML)", "Heat map (PNG)", "Mask (PNG)", "Overlay (PNG)", "Figures (JSON)")
"""In the order of :func:`declip_pl.inference.demo_files.write_files`."""

NOT_LOOKED_AT = "Not everything could be analysed."

CANCELLED = "Cancelled. What was found before stays."

FAILED = "Something went wrong on the computer that runs declip-pl; try a smaller photo."

NOT_FINISHED = """**This run is not finished:** it is still in training, or broke off. It was not
tested."""

STAND_IN = """**This model is for trying the page out.** It was trained on *mini*, a stand-in made
by simple inpainters from a few photos. What it finds in other photos means nothing."""

NOTHING_MARKED = "Nothing is marked in this photo."

UNMARKED = (
    "The highest values of its heat map are below the "
    "level from which this model marks anything at all. Move the threshold down to see where they "
    "are."
)

STARTS = "It starts where the model cuts this photo. Move it to mark more or less."

SCORE = (
    "How generated the photo looks as a whole, from 0 to 1. It is not the probability of a fake."
)


def model_text(checkpoint: Checkpoint, scores: RecordedScores | None) -> str:
    """Return in Markdown what a model was trained on.

    Args:
        checkpoint: The model.
        scores: Those on record.
    """
    data, identity = checkpoint.trained_on, checkpoint.identity
    lines = [
        f"{_training(data)} Encoder {markdown(identity.name)}, "
        f"{markdown(identity.layer)}; decoder {markdown(short(checkpoint.decoder))}."
    ]
    if threshold := image_threshold(checkpoint, scores):
        lines += [f"Its test took scores over **{threshold:.2f}** for manipulated."]
    lines += [f"Tested on: {markdown(about(checkpoint).tested_on)}."]
    if about(checkpoint).notice or (scores and scores.notice):
        lines += [STAND_IN]
    return "\n\n".join(lines)


def _training(data: TrainedOn | None) -> str:
    """Return in sentences what a model was trained on."""
    names = ", ".join(map(markdown, data.generators)) if data else "not known"
    told = f"Trained on photos changed by: **{names}**."
    if data and data.forgeries:
        photos = f"{sum(data.forgeries.photos.values()):,} photos, which no generator made."
        if data.generators == (FORGERIES,):
            return f"Trained on **forgeries** alone, of {photos}"
        told += f" And on **forgeries** of {photos}"
    return told


def error_text(error: UserError, path: Path | None = None) -> str:
    """Return an error in words that name no folder.

    Args:
        error: What is wrong.
        path: Of the photo; its name stays.
    """
    return without_folders(str(error).replace(str(path), path.name) if path else str(error))
