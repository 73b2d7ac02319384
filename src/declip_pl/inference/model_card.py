"""The model card of a saved localizer, filled in from what its checkpoint says of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from declip_pl.metrics import THRESHOLD

METRICS = {
    "iou": "IoU",
    "f1_fixed": "F1",
    "ap": "pixel AP",
    "image_auroc": "image AUROC",
}
"""What a card shows of the scores; how they are computed stands in the README of declip-pl."""

_CARD = """---
{header}
---

# {name}

Says which pixels of a photo were painted by a generative model or an inpainter: a
[DeCLIP](https://arxiv.org/abs/2409.08849) localizer, which is a frozen CLIP image encoder and a
learned decoder, made with declip-pl.

```python
from declip_pl import Localizer

localizer = Localizer.from_pretrained("{name}")
result = localizer("photo.jpg")  # tiles=True for photos much larger than 256 px
result.heatmap, result.mask, result.score, result.regions
```

| | |
|---|---|
{facts}

## Scores

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

_TRAINED = "The decoder's weights and declip-pl are Apache-2.0."
_IMPORTED = (
    "declip-pl is Apache-2.0; the decoder's weights were imported and have the licence of where "
    "they came from."
)


def model_card(checkpoint: Mapping[str, Any], name: str) -> str:
    """Return the card as Markdown, with the header that the Hugging Face hub reads.

    Args:
        checkpoint: What :func:`declip_pl.inference.pretrained.read` returns.
        name: What the localizer is called; with an organisation, what it is loaded by.
    """
    ours = bool(checkpoint.get("DolosDataModule"))
    header = ModelCardData(
        license="apache-2.0" if ours else "other",
        library_name="declip-pl",
        pipeline_tag="image-segmentation",
        tags=["declip", "image-forensics", "manipulation-localization", "inpainting-detection"],
    )
    facts = "\n".join(f"| {what} | {fact} |" for what, fact in _facts(checkpoint))
    scores = "\n\n".join(_scores(checkpoint.get("results") or {}))
    return _CARD.format(
        header=header.to_yaml(),
        name=name,
        facts=facts,
        scores=scores,
        licence=_TRAINED if ours else _IMPORTED,
    )


def _facts(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    encoder, options = checkpoint["encoder"], checkpoint["hyper_parameters"]
    yield "encoder (frozen)", f"`{options['encoder']}`, {encoder['layer']}"
    yield "its weights", f"{encoder['source']}; SHA-256 `{encoder['sha256']}`"
    yield "decoder", f"`{checkpoint['decoder']}`"
    side = checkpoint["image_size"]
    yield "input", f"the photo squashed to {side} x {side} px (PIL bilinear), CLIP's mean and std"
    yield "trained on", _training(checkpoint)
    yield "score of a photo", f"`{options['pooling']}` of the map"
    yield "threshold", _threshold(checkpoint.get("results") or {})


def _training(checkpoint: Mapping[str, Any]) -> str:
    data = checkpoint.get("DolosDataModule")
    if not data:
        return "not on record"
    results = checkpoint.get("results") or {}
    place = f" of `{results['data']['root']}`" if results else ""
    labels = {"full": "masks", "weak": "image labels"}[
        checkpoint["hyper_parameters"]["supervision"]
    ]
    generators = ", ".join(f"`{name}`" for name in data["generators"])
    return f"{generators}{place}, with {labels}; files' SHA-256 `{data['files_sha256']}`"


def _threshold(results: Mapping[str, Any]) -> str:
    matrix = results.get("cross_evaluation")
    image = [scores.get("image_threshold") for scores in results.get("scores", {}).values()]
    chosen = matrix["thresholds"] if matrix else {"pixel": None, "image": next(iter(image), None)}
    found = [f"{value:.2f} for {kind}s" for kind, value in chosen.items() if value is not None]
    return f"{THRESHOLD}" + (f"; best on validation photos: {', '.join(found)}" if found else "")


def _scores(results: Mapping[str, Any]) -> Iterator[str]:
    if not results:
        yield "None are on record."
        return
    if results["notice"]:
        yield f"**{results['notice']}.**"
    for generator, scores in results["scores"].items():
        columns = {"this model": scores, **results["baselines"][generator]}
        rows = {
            title: [_number(column.get(name)) for column in columns.values()]
            for name, title in METRICS.items()
        }
        yield f"On the {scores['iou_n']:.0f} test photos of `{generator}`, percent:"
        yield _table(list(columns), rows)
    yield "The columns after this model's are constant answers that never look at the photo."
    matrix = results["cross_evaluation"]
    if not matrix:
        yield "Intervals are unknown: this model was not cross-evaluated before it was saved."
        return
    tests = dict.fromkeys(test for cells in matrix["scores"].values() for test in cells)
    yield "On each generator, percent with 95 % bootstrap intervals over photos (one training):"
    yield _table(
        list(METRICS.values()),
        {f"`{t}`": [_interval(matrix["scores"], name, t) for name in METRICS] for t in tests},
    )


def _table(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [("", *columns), ("---",) * (1 + len(columns))]
    lines += [(title, *cells) for title, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(scores: Mapping[str, Any], name: str, test: str) -> str:
    found = scores.get(name, {}).get(test, {"value": None, "low": None})
    interval = "" if found["low"] is None else f" ({found['low']:.1f} to {found['high']:.1f})"
    return _number(found["value"]) + interval


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
