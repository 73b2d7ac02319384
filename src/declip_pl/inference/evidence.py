"""What a photo's score says: what it is held against, in figures and in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from declip_pl.data.file_kinds import Picture
from declip_pl.model.checkpoint import Checkpoint
from declip_pl.model.description import SeenPhotos
from declip_pl.model.likeness import WITHIN, Likeness

NO_PROOF = (
    "No proof: a high score does not show that a photo was manipulated, and a low one does not "
    "show that it was not."
)

_TILED = (
    "With tiles it is the highest of theirs, so neither the model's cut-off nor the scores of "
    "untouched photos, which were looked at as a whole, say anything about it."
)

SIZE, QUALITY, FEATURES = "size", "JPEG quality", "features"
"""In what photos are compared."""

_SHOWN = "(what the encoder sees of camera, processing and subject)"

MOST_DIGITS = 6
"""Decimals of two numbers that are shown side by side, where fewer don't tell them apart."""


@dataclass(frozen=True)
class Evidence:
    """What a photo's score is held against.

    Attributes:
        image_threshold: The cut-off for scores that validation photos chose, in [0, 1]; None where
            there is none, or the photo was looked at in tiles.
        photos: How many untouched photos were scored; None likewise.
        higher: How many of these scored higher than the photo; None likewise.
        where: What they are, in words: ``test photos of mini``.
        compared: In what the photo was compared with those of the training: ``size``, of a JPEG
            ``JPEG quality``, and ``features``, what the encoder sees of camera, processing and
            subject. Empty where it is not on record of what kind those were.
        unlike: In what of these it is unlike them.
        tiled: Whether the photo was looked at in tiles.
    """

    image_threshold: float | None = None
    photos: int | None = None
    higher: int | None = None
    where: str = ""
    compared: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    tiled: bool = False


def weigh(
    checkpoint: Checkpoint,
    score: float,
    picture: Picture,
    tiled: bool,
    distance: float | None = None,
) -> Evidence:
    """Return what a score is held against.

    Args:
        checkpoint: The localizer.
        score: Of the photo, in [0, 1].
        picture: The photo.
        tiled: Whether it was looked at in tiles: scores of whole photos are then no measure.
        distance: Of its features, as of :meth:`declip_pl.model.likeness.Likeness.distances`; None
            where it was not measured.
    """
    seen = checkpoint.trained_on.photos if checkpoint.trained_on else None
    compared = (SIZE, QUALITY)[: 1 if picture.quality is None else 2] if seen else ()
    found = differences(seen, picture) if seen else {}
    if checkpoint.likeness and distance is not None:
        compared = (*compared, FEATURES)
        found |= further(checkpoint.likeness, distance)
    unlike = tuple(found.values())
    if tiled:
        return Evidence(compared=compared, unlike=unlike, tiled=True)
    chosen, tested = checkpoint.thresholds, checkpoint.tested_on
    threshold = chosen.image.get(checkpoint.pooling) if chosen else None
    if tested is None or not tested.untouched:
        return Evidence(threshold, compared=compared, unlike=unlike)
    higher = sum(other > score for other in tested.untouched)
    kind = {"test": "test photos", "valid": "validation photos"}[tested.split]
    where = f"{kind} of {tested.data}" if tested.data not in ("", "none") else kind
    return Evidence(threshold, len(tested.untouched), higher, where, compared, unlike)


def differences(seen: SeenPhotos, picture: Picture) -> dict[str, str]:
    """Return in what a photo is outside the training photos' ranges, and how, in words."""
    found = {}
    side = max(picture.pixels.shape[:2])
    if not seen.sides[0] <= side <= seen.sides[1]:
        found[SIZE] = f"{side} px on its longer side (theirs {_range(seen.sides)})"
    quality = picture.quality
    if quality is not None and seen.qualities is None:
        found[QUALITY] = f"JPEG of quality {quality:.0f} (theirs were no JPEGs)"
    elif quality is not None and seen.qualities and not _within(quality, seen.qualities):
        found[QUALITY] = f"JPEG of quality {quality:.0f} (theirs {_range(seen.qualities)})"
    return found


def further(likeness: Likeness, distance: float) -> dict[str, str]:
    """Return in words how far a photo's features are from theirs, if beyond the cut-off."""
    cutoff = likeness.cutoff.item()
    if distance <= cutoff:
        return {}
    ours, theirs = _apart(distance, cutoff)
    of_theirs = f"{WITHIN:.0%} of {likeness.photos} validation photos: at most {theirs}"
    return {FEATURES: f"features at a distance of {ours} from theirs ({of_theirs})"}


def described(seen: SeenPhotos) -> str:
    """Return in words of what kind the training photos were."""
    kind = f"JPEG quality {_range(seen.qualities)}" if seen.qualities else "no JPEGs"
    return f"{_range(seen.sides)} px on the longer side, {kind} (1st to 99th percentile)"


def sentences(score: float, evidence: Evidence) -> list[str]:
    """Return the verdict on a photo in sentences; the last says that it is no proof.

    Args:
        score: Of the photo, in [0, 1].
        evidence: What it is held against.
    """
    lines = [_verdict(score, evidence)]
    if evidence.photos is not None:
        also = ", which also chose the cut-off" if evidence.where.startswith("valid") else ""
        lines.append(
            f"Of {evidence.photos} untouched {evidence.where}{also}, {evidence.higher} scored "
            "higher."
        )
    elif not evidence.tiled:
        lines.append("How untouched photos score with this model is not on record.")
    return [*lines, _likeness(evidence), NO_PROOF]


def _likeness(evidence: Evidence) -> str:
    """Return whether the photo is like the training photos, and what was not asked."""
    if evidence.unlike:
        found = "; ".join(evidence.unlike)
        return f"Unlike the photos that the model was trained on, and so less reliable: {found}."
    others = "untouched photos of other kinds may score higher."
    if not evidence.compared:
        return f"Of what kind the training photos were is not on record; {others}"
    compared = [f"{what} {_SHOWN}" if what == FEATURES else what for what in evidence.compared]
    left = [] if SIZE in evidence.compared else ["size", "compression"]
    left += ["compression (it is no JPEG)"] if {SIZE} == {*evidence.compared} - {FEATURES} else []
    left += [] if FEATURES in evidence.compared else ["camera", "subject"]
    were = "was" if len(left) == 1 else "were"
    # With a training of many kinds nearly nothing is set apart: it must not sound like a promise.
    also = f"{listed(left)} {were} not compared" if left else "that does not make it one of them"
    apart = f"Nothing in {listed(compared, 'or')} sets it apart from the photos of the training"
    return f"{apart}; {also}, and {others}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Return words with commas, and another word before the last."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _verdict(score: float, evidence: Evidence) -> str:
    threshold = evidence.image_threshold
    if threshold is None:
        why = _TILED if evidence.tiled else "This model has no cut-off for scores on record."
        return f"Score {score:.2f}. {why}"
    where = "above" if score > threshold else "not above"
    ours, theirs = _apart(score, threshold)
    return f"Score {ours}, {where} the model's cut-off of {theirs}, which validation photos chose."


def _apart(one: float, other: float) -> tuple[str, str]:
    """Return two numbers with as many decimals as it takes to tell them apart, two at least."""
    for digits in range(2, MOST_DIGITS + 1):
        if (texts := (f"{one:.{digits}f}", f"{other:.{digits}f}"))[0] != texts[1]:
            break
    return texts


def _within(value: float, span: Sequence[float]) -> bool:
    # Half a step: the tables of one quality differ a little from table to table.
    return span[0] - 0.5 <= value <= span[1] + 0.5


def _range(span: Sequence[float]) -> str:
    low, high = (f"{end:.0f}" for end in span)
    return low if low == high else f"{low} to {high}"
