"""What the page of ``declip-pl demo`` says: its words, and results as HTML and Markdown."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from declip_pl.data.images import MAX_PIXELS
from declip_pl.data.layout import FORGERIES
from declip_pl.errors import UserError
from declip_pl.inference.about import about
from declip_pl.inference.evidence import sentences
from declip_pl.inference.localization import Localization, Region
from declip_pl.inference.model_card import forged_photos, image_threshold, operations
from declip_pl.inference.recorded_scores import RecordedScores
from declip_pl.model.checkpoint import Checkpoint
from declip_pl.model.description import TrainedOn
from declip_pl.names import markdown
from declip_pl.parts import as_text
from declip_pl.privacy import without_folders

MAX_UPLOAD = 100
"""Size of an uploaded file in MB (2^20 bytes): a large camera's photo, losslessly compressed."""

SHOWN_REGIONS = 8

FILE_TITLE = f"Your photo, up to {MAX_UPLOAD} MB and {MAX_PIXELS // 10**6} megapixels"

SAMPLES_TITLE = "Or take a test photo: a real one, or one that the generator named has changed."

WAYS = [("Whole photo", False), ("In tiles: small changes in large photos, slower", True)]

TITLE = "Was part of this photo painted by a generative model?"

INTRODUCTION = f"""# {TITLE}
Drop a photo and see which parts look generated to a trained model. It is looked at on this computer
and sent nowhere; its file is deleted as soon as it has been read."""

LEGEND = """**Heat map:** black looks untouched; purple, orange and yellow look more and more
generated. **Overlay:** the same colours over the photo, and a red line around every part above the
threshold."""

CAUTION = """**No proof.** A high score doesn't show that a photo was manipulated, and a low one
doesn't show that it wasn't. The model knows the traces that a few generators leave in photos like
those it was trained on. Other generators, strong compression, filters, screenshots and resizing can
mislead it either way. Accuse nobody on its word."""

STAND_IN = """**This model is for trying the page out.** It was trained on *mini*, a stand-in made
by simple inpainters from a few photos. What it finds in other photos means nothing."""

UNMARKED = (
    "<b>Nothing is marked in this photo.</b> The highest values of its heat map are below the "
    "level from which this model marks anything at all. Move the threshold down to see where they "
    "are."
)

STARTS = "It starts where the model cuts this photo. Move it to mark more or less."

SCORE = (
    "How generated the photo looks as a whole, from 0 to 1. It is not the probability of a fake."
)

# On a phone it stands below everything that was chosen.
INTO_VIEW = """() => {
  const score = document.getElementById("score");
  if (score.getBoundingClientRect().bottom > innerHeight) score.scrollIntoView();
}"""

CSS = """
.score { font-size: 2rem; font-weight: 600; }
.problem { border-left: .3rem solid #dc2626; padding: .25rem .75rem; overflow-wrap: anywhere; }
.unmarked { border-left: .3rem solid #2563eb; padding-left: .75rem; }
.prose .regions { width: 100%; }
.prose .regions caption { text-align: left; }
.prose .regions, .prose .regions * { border: 0; }
.prose .regions :is(th, td) { padding: .25rem; text-align: right;
  border-bottom: 1px solid var(--border-color-primary); }
.samples .grid-container { grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); }
.samples, .samples .grid-wrap { height: auto !important; min-height: 0 !important; }
.model input { padding-right: 1.5rem; text-overflow: ellipsis; }
"""


def score_html(found: Localization) -> str:
    """Return the image-level score, and how much is marked, in words."""
    height, width = found.mask.shape
    *told, no_proof = sentences(found.score, found.evidence)
    return (
        f'<p><span class="score">{found.score:.2f}</span><br>{SCORE}</p>'
        f"<p><b>{escape(no_proof)}</b></p><p>{escape(' '.join(told))}</p>"
        f"<p>{found.mask.mean():.1%} of the photo ({width} x {height} px) is above the "
        "threshold.</p>" + (f'<p class="unmarked">{UNMARKED}</p>' if found.below_floor else "")
    )


def regions_html(regions: Sequence[Region], pixels: int) -> str:
    """Return the largest regions as a table.

    Args:
        regions: Largest first.
        pixels: Of the photo.
    """
    if not regions:
        return "<p>No part of the photo is above the threshold.</p>"
    titles = ("left, top", "width x height", "share of the photo", "mean heat")
    rows = [
        (
            f"{left}, {top}",
            f"{right - left} x {bottom - top}",
            f"{area / pixels:.1%}",
            f"{probability:.2f}",
        )
        for (left, top, right, bottom), area, probability in regions[:SHOWN_REGIONS]
    ]
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    more = len(regions) - len(rows)
    table = (
        '<table class="regions"><caption>Parts above the threshold, in pixels of the photo'
        f"</caption><tr>{head}</tr>{body}</table>"
    )
    return table + (f"<p>and {more} smaller ones</p>" if more else "")


def model_text(checkpoint: Checkpoint, scores: RecordedScores | None) -> str:
    """Return in Markdown what a model was trained on.

    Args:
        checkpoint: The model.
        scores: Those on record.
    """
    data, identity = checkpoint.trained_on, checkpoint.identity
    lines = [
        f"{_training(data)} Encoder {markdown(identity.name)}, "
        f"{markdown(identity.layer)}; decoder "
        f"{markdown(without_folders(as_text(checkpoint.decoder)))}."
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
        inside, _ = operations(data.forgeries)
        regions = f"regions re-processed by {', '.join(map(markdown, inside))}"
        photos = forged_photos(data.forgeries, markdown)
        if data.generators == (FORGERIES,):
            told = "Trained on **forgeries** alone, which no generator made:"
        else:
            told += " And on **forgeries**, which no generator made:"
        told += f" {photos}; {regions}."
    if data and data.untouched is not None:
        told += f" Training photos without a fake pixel: {data.untouched or 'none'}."
    return told


def error_html(error: UserError, photo: object) -> str:
    """Return an error in words that name no folder."""
    text = str(error).replace(str(photo), photo.name) if isinstance(photo, Path) else str(error)
    text = without_folders(text)
    return (
        '<div class="problem" role="alert"><p><b>This photo could not be analysed.</b></p>'
        f"<p>{escape(text)}</p></div>"
    )
