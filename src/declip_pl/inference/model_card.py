"""The model card of a saved localizer, filled in from what its checkpoint says of it."""

import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from huggingface_hub import ModelCardData

from declip_pl.cross_eval.matrix import UNPERTURBED, Score
from declip_pl.cross_eval.scored_model import ChosenThresholds
from declip_pl.data.layout import FORGERIES, NONE, REAL
from declip_pl.inference.about import about
from declip_pl.inference.evidence import described
from declip_pl.inference.recorded_scores import CrossEvaluation, RecordedScores
from declip_pl.metrics import PEAK, THRESHOLD, all_metrics, untouched_metrics
from declip_pl.model.checkpoint import Checkpoint
from declip_pl.model.decoder import DECODERS
from declip_pl.model.description import OF_WHOLE, ForgedPhotos, TrainedOn
from declip_pl.model.encoder import ENCODERS
from declip_pl.model.likeness import WITHIN
from declip_pl.model.mirror import MIRROR_ADVICE, MIRROR_SOURCE
from declip_pl.names import markdown, markdown_code
from declip_pl.parts import VARIABLE, as_text, read_spec
from declip_pl.privacy import without_folders

_CARD = """---
{header}
---

# {title}

Says which pixels of a photo were painted by a generative model or an inpainter: a
[DeCLIP](https://arxiv.org/abs/2409.08849) localizer, which is a frozen image encoder and a learned
decoder, made with declip-pl.

```python
from declip_pl import Localizer

localizer = Localizer.from_pretrained({quoted})
result = localizer("photo.jpg")  # tiles=True for photos much larger than 256 px
result.heatmap, result.mask, result.score, result.regions
```

| | |
|---|---|
{facts}

{about}## Scores

{scores}

## Limits

- A heat map is a hint where to look, not evidence by itself: it misses fake pixels and marks real
  ones, how often on its test photos the scores tell.
- It knows the data named above. Photos of other cameras, subjects and sizes can look manipulated to
  it, and what other generators paint can look real; a generator without a score was never tested.
- Compression, resizing, screenshots and filters after a manipulation remove its traces; unless the
  test photos went through them, that was never tested.
- The probabilities are not calibrated for photos from elsewhere, where the share of fakes is
  another.

## Licence

{licence} The frozen encoder is not part of this repository and has its own licence (OpenAI's CLIP:
MIT). Whether the licence of the training data allows what you plan is for you to check.
"""

_NO_SCORES = "None are on record."

_TRAINED = "The decoder's weights and declip-pl are Apache-2.0."
_IMPORTED = (
    "declip-pl is Apache-2.0; the decoder's weights were imported and have the licence of where "
    "they came from."
)


def model_card(
    checkpoint: Checkpoint, name: str, scores: RecordedScores | None, about: str = ""
) -> str:
    """Return the card as Markdown, with the header that the Hugging Face hub reads.

    Args:
        checkpoint: The localizer.
        name: What it is called; with an organisation, what it is loaded by.
        scores: Those on record.
        about: Markdown of whoever made it, to stand above the scores.
    """
    trained_here = checkpoint.trained_on is not None and bool(checkpoint.trained_on.files_sha256)
    header = ModelCardData(
        license="apache-2.0" if trained_here else "other",
        library_name="declip-pl",
        pipeline_tag="image-segmentation",
        tags=["declip", "image-forensics", "manipulation-localization", "inpainting-detection"],
    )
    return _CARD.format(
        header=header.to_yaml(),
        title=markdown(name),
        quoted=json.dumps(name),
        facts="\n".join(f"| {what} | {fact} |" for what, fact in _facts(checkpoint, scores)),
        about=f"{about.strip()}\n\n" if about.strip() else "",
        scores="\n\n".join(_scores(scores) if scores else [_NO_SCORES]),
        licence=_TRAINED if trained_here else _IMPORTED,
    )


def _facts(checkpoint: Checkpoint, scores: RecordedScores | None) -> Iterator[tuple[str, str]]:
    identity, side = checkpoint.identity, checkpoint.image_size
    encoder = markdown_code(without_folders(as_text(checkpoint.encoder)))
    yield "encoder (frozen)", f"{encoder}, {markdown(checkpoint.layer)}"
    source = markdown(without_folders(identity.source))
    yield "its weights", f"{source}; SHA-256 {markdown_code(identity.sha256)}"
    if identity.source == MIRROR_SOURCE:
        yield "where to get them", MIRROR_ADVICE
    yield "decoder", markdown_code(without_folders(as_text(checkpoint.decoder)))
    if code := list(outside(checkpoint)):
        files = ",".join(f"{name}.py" for name in code)
        command = markdown_code(f"export {VARIABLE}={files}")
        yield "needs", f"code that is not part of declip-pl: {command}"
    resized = f"the photo resized to {side} x {side} px (PIL bilinear), whatever its shape"
    yield "input", f"{resized}; mean and std of the encoder"
    yield "trained on", _training(checkpoint, scores)
    yield "tested on", markdown(about(checkpoint).tested_on)
    if notice := about(checkpoint).notice:
        yield "notice", f"**{markdown(notice)}**"
    yield from _evidence(checkpoint)
    if checkpoint.trained_on:
        yield from _forged(checkpoint.trained_on)
    yield "score of a photo", f"{markdown_code(checkpoint.pooling)} of the map"
    yield "threshold", _threshold(checkpoint, scores)


def _evidence(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Yield what a score or a photo is held against when the localizer is used."""
    tested_on = checkpoint.tested_on
    if tested_on and tested_on.untouched:
        scores = np.quantile(tested_on.untouched, (0.5, 0.9, 0.99))
        half, tenth, hundredth = (f"{score:.2f}" for score in scores)
        kind = {"test": "test", "valid": "validation"}[tested_on.split]
        yield (
            f"scores of {len(tested_on.untouched)} untouched {kind} photos",
            f"half of them above {half}, a tenth above {tenth}, a hundredth above {hundredth}",
        )
    if checkpoint.trained_on and (seen := checkpoint.trained_on.photos):
        yield "its training photos", described(seen)
    if likeness := checkpoint.likeness:
        yield (
            "features of photos like them",
            f"at a distance of at most {likeness.cutoff:.2f}: {WITHIN:.0%} of {likeness.photos} "
            f"validation photos, off the plane of {len(likeness.components)} components",
        )


def outside(checkpoint: Checkpoint) -> dict[str, None]:
    """Return the modules outside declip-pl that a localizer's parts come from, each once."""
    parts = ((ENCODERS, checkpoint.encoder), (DECODERS, checkpoint.decoder))
    names = [(registry, read_spec(spec)[0]) for registry, spec in parts if registry.knows(spec)]
    return {name.split(".")[0]: None for registry, name in names if name not in registry.names()}


def _training(checkpoint: Checkpoint, scores: RecordedScores | None) -> str:
    data = checkpoint.trained_on
    if not data:
        return "not on record"
    generators = ", ".join(map(markdown_code, data.generators))
    if data.generators == (FORGERIES,):
        generators = "forgeries alone, no generator's photos"
    if not data.files_sha256:
        return f"{generators} ({markdown(data.data)})"
    name = data.data or (scores.data.root if scores else "")
    place = f" of {markdown_code(name)}" if name not in ("", NONE) else ""
    labels = {"full": "masks", "weak": "image labels"}[checkpoint.supervision]
    sha256 = markdown_code(data.files_sha256)
    return f"{generators}{place}, with {labels}; files' SHA-256 {sha256}"


def _forged(data: TrainedOn) -> Iterator[tuple[str, str]]:
    if made := data.forgeries:
        sha256 = markdown_code(made.sha256)
        yield "forged", f"{_forged_photos(made)}; manifest's SHA-256 {sha256}"
        inside, whole = _operations(made)
        told = "own, near, far and other say where the pixels came from"
        yield "forged regions went through", f"{_listed(inside)} ({told})"
        yield "whole photos went through", _listed(whole)
    if data.untouched is not None:
        kinds = ": untouched ones, and forgeries without a forged region" if made else ""
        told = f"{data.untouched}{kinds}" if data.untouched else "none"
        yield "training photos without a fake pixel", told


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(markdown_code, names)) or "nothing"


def _forged_photos(made: ForgedPhotos) -> str:
    """Return in words which photos were forged, and how often."""
    counts = [
        f"{count} photos of {'the data set' if name == REAL else markdown_code(name)}"
        for name, count in made.photos.items()
    ]
    return f"{', '.join(counts)}, {made.versions} times each"


def _operations(made: ForgedPhotos) -> tuple[list[str], list[str]]:
    """Return the names of what forged regions went through, and of what whole photos did."""
    whole = [name for name in made.operations if name.startswith(OF_WHOLE)]
    inside = [name for name in made.operations if name not in whole]
    return inside, [name.removeprefix(OF_WHOLE) for name in whole]


def _threshold(checkpoint: Checkpoint, scores: RecordedScores | None) -> str:
    chosen = vars(_chosen(checkpoint, scores))
    found = [f"{value:.2f} for {kind}s" for kind, value in chosen.items() if value is not None]
    best = f"; best on validation photos: {', '.join(found)}" if found else ""
    floor = checkpoint.thresholds.floor if checkpoint.thresholds else None
    return (f"{THRESHOLD}" if floor is None else _own_threshold(floor)) + best


def _own_threshold(floor: float) -> str:
    return (
        "each photo's own: of all thresholds the one with the highest expected IoU, the "
        "probabilities of its map taken at their word. A photo stays unmarked where less than "
        f"{1 - PEAK:.0%} of its pixels reach {floor:.2f}, the floor chosen on validation photos. "
        f"A fixed threshold: `localizer(photo, threshold={THRESHOLD})`"
    )


def _chosen(checkpoint: Checkpoint, scores: RecordedScores | None) -> ChosenThresholds:
    if not checkpoint.thresholds and scores and scores.cross_evaluations:
        return replace(scores.cross_evaluations[0].thresholds, floor=None)  # no checkpoint has it
    pixel = checkpoint.thresholds.pixel if checkpoint.thresholds else None
    return ChosenThresholds(pixel, image_threshold(checkpoint, scores))


def image_threshold(checkpoint: Checkpoint, scores: RecordedScores | None) -> float | None:
    """Return the threshold of image scores that validation photos chose.

    It stands in the checkpoint; checkpoints of version 0.1 have it in their test's scores.
    """
    if checkpoint.thresholds:
        return checkpoint.thresholds.image.get(checkpoint.pooling)
    chosen = (found.get("image_threshold") for found in (scores.scores if scores else {}).values())
    return next(chosen, None)


def _scores(found: RecordedScores) -> Iterator[str]:
    if found.notice:
        yield f"**{markdown(found.notice)}.**"
    if found.data.perturbation != UNPERTURBED:
        yield f"The test photos were changed before: {markdown_code(found.data.perturbation)}."
    for generator, scores in found.scores.items():
        columns = {"this model": scores, **found.baselines[generator]}
        rows = {
            title: [_number(column.get(name)) for column in columns.values()]
            for name, title in _metrics(scores).items()
        }
        yield f"On the {scores['iou_n']:.0f} test photos of {markdown_code(generator)}, percent:"
        yield _table(list(map(markdown, columns)), rows)
    if found.scores:
        yield "The columns after this model's are constant answers that never look at the photo."
    for row in found.cross_evaluations:
        if row.notice and row.notice != found.notice:
            yield f"**{markdown(row.notice)}.**"
        yield from _intervals(row)
    if not found.cross_evaluations:
        yield (
            "Intervals are unknown: this model was not cross-evaluated before it was saved."
            if found.scores
            else _NO_SCORES
        )


def _intervals(row: CrossEvaluation) -> Iterator[str]:
    data = f" of {markdown_code(row.data)}" if row.data else ""
    intervals = "percent with 95 % bootstrap intervals over photos (one training)"
    yield f"On each generator{data}, {intervals}:"
    names = _metrics(row.scores)
    tests = dict.fromkeys(test for cells in row.scores.values() for test in cells)
    lines = {}
    for test in tests:
        cells = [row.scores.get(name, {}).get(test) for name in names]
        photos = next((str(cell.n) for cell in cells if cell), "")
        lines[markdown_code(test)] = [*map(_interval, cells), photos]
    yield _table([*names.values(), "photos"], lines)
    untouched = [  # the same whatever fakes stand beside them
        (metric.title, next(iter(row.scores[metric.name].values())))
        for metric in untouched_metrics(decided=True)
        if row.scores.get(metric.name)
    ]
    if untouched:
        count = untouched[0][1].n
        yield f"On the {count} untouched test photos{data}, where all that is marked is wrong:"
        yield _table(["this model"], {title: [_interval(cell)] for title, cell in untouched})


def _metrics(scored: Container[str]) -> dict[str, str]:
    """Return the titles of the metrics that a card shows, by name."""
    shown = (entry for entry in all_metrics() if entry.key)
    return {m.name: m.title for m in shown if not m.decided or m.name in scored}


def _table(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [("", *columns), ("---",) * (1 + len(columns))]
    lines += [(title, *cells) for title, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(cell: Score | None) -> str:
    if cell is None:
        return ""
    known = cell.low is not None and cell.high is not None
    return _number(cell.value) + (f" ({cell.low:.1f} to {cell.high:.1f})" if known else "")


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.1f}"
