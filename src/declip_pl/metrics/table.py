"""The table of metrics: what each is called, what it means, and how an image's score comes about.

Everything that lists metrics reads it: scores of tests and cells, the matrix, reports, plots, W&B
and ``declip-pl compare``. A file outside the package, named in ``DECLIP_PARTS``, adds a metric::

    from declip_pl.metrics import Ranking, metric

    @metric("recall", title="Recall", definition="share of fakes found at 0.5", needs_fake=True)
    def recall(image: Ranking) -> float:
        counts = image.above(0.5)
        return 100 * counts.hits / counts.fakes
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Literal, SupportsFloat

from declip_pl import parts
from declip_pl.metrics.ranking import Ranking

Score = Callable[[Ranking], SupportsFloat]
"""Takes one image and returns its score in percent, NaN where it is not defined."""

_NAME = re.compile(r"(?!image_|pixel_|untouched_)[a-z][a-z0-9_]*(?<!_n)")


@dataclass(frozen=True)
class Metric:
    """One entry of the table.

    Attributes:
        name: What it is called in files and options.
        title: What reports call it.
        definition: One sentence without a full stop.
        level: ``map``: scores each image's map, and a test set has their mean. ``pixels`` and
            ``images``: made of all pixels or all images of a test set at once. ``untouched``: a
            mean over the real photos alone, the same for every test set that they stand beside.
        score: How an image's score comes about; None unless the level is ``map``.
        less_is_better: Whether low scores are good.
        needs_fake: Whether it is defined only for images with fake pixels.
        tuned: Whether it needs a threshold that was chosen on validation photos.
        key: Whether it is shown where there is room for a few metrics only.
        decided: Whether it needs the decision's floor, which is chosen on validation photos.
    """

    name: str
    title: str
    definition: str
    level: Literal["map", "pixels", "images", "untouched"]
    score: Score | None = None
    less_is_better: bool = False
    needs_fake: bool = False
    tuned: bool = False
    key: bool = True
    decided: bool = False

    def of(self, image: Ranking) -> float:
        """Return the score of one image in percent, NaN where it is not defined."""
        assert self.score is not None
        return nan if self.needs_fake and not image.has_fakes else float(self.score(image))


MAP_METRICS: dict[str, Metric] = {}
"""The metrics that score single maps, by name; :func:`metric` adds to them."""

SET_METRICS = {
    entry.name: entry
    for entry in (
        Metric(
            "pixel_ece",
            "Calibration error",
            "expected calibration error of the pixels: how far probabilities are from the share of "
            "fakes; less is better",
            "pixels",
            less_is_better=True,
            key=False,
        ),
        Metric(
            "image_ap",
            "Image AP",
            "average precision of whole photos, fakes against reals",
            "images",
            key=False,
        ),
        Metric(
            "image_auroc",
            "Image AUROC",
            "how often a fake scores above a real photo; 50 is chance",
            "images",
        ),
        Metric(
            "image_accuracy",
            "Image accuracy at 0.5",
            "share of photos called correctly, fake where the score is over 0.5",
            "images",
            key=False,
        ),
        Metric(
            "image_accuracy_tuned",
            "Image accuracy, tuned",
            "share of photos called correctly at the threshold chosen on validation photos",
            "images",
            tuned=True,
            key=False,
        ),
        Metric(
            "image_ece",
            "Image calibration error",
            "expected calibration error of the photos' scores; less is better",
            "images",
            less_is_better=True,
            key=False,
        ),
        Metric(
            "untouched_area",
            "Untouched: area at 0.5",
            "share of the pixels of untouched photos that are marked at 0.5; less is better",
            "untouched",
            less_is_better=True,
            key=False,
        ),
        Metric(
            "untouched_area_decided",
            "Untouched: area, decided",
            "share of the pixels of untouched photos that the decision marks; less is better",
            "untouched",
            less_is_better=True,
            key=False,
            decided=True,
        ),
        Metric(
            "untouched_marked",
            "Untouched: marked at 0.5",
            "share of untouched photos of which any pixel is marked at 0.5; less is better",
            "untouched",
            less_is_better=True,
            key=False,
        ),
        Metric(
            "untouched_marked_decided",
            "Untouched: marked, decided",
            "share of untouched photos of which the decision marks any pixel; less is better",
            "untouched",
            less_is_better=True,
            key=False,
            decided=True,
        ),
    )
}
"""The metrics of all pixels, all images or the untouched images of a test set, by name."""


def metric(
    name: str,
    *,
    title: str,
    definition: str,
    less_is_better: bool = False,
    needs_fake: bool = False,
    tuned: bool = False,
    key: bool = True,
    decided: bool = False,
) -> Callable[[Score], Score]:
    """Return a decorator that adds a function of one image's ranking to the table.

    Args:
        name: Lower-case letters, digits and ``_``.
        title: See :class:`Metric`, as for all others.
        definition: One sentence without a full stop.
        less_is_better: Whether low scores are good.
        needs_fake: The function is not called for images without fake pixels.
        tuned: The function is called only where ``image.tuned`` is a threshold.
        key: Show it where there is room for a few metrics only.
        decided: The function is called only where ``image.floor`` is one.

    Raises:
        ValueError: If the name is taken or no such name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"expected a metric's name of lower-case letters, digits and _, without image_, "
            f"pixel_ or untouched_ in front and _n behind; found {name!r}"
        )
    if name in MAP_METRICS:
        raise ValueError(f"there are two metrics called {name!r}; rename one")

    def add(score: Score) -> Score:
        MAP_METRICS[name] = Metric(
            name, title, definition, "map", score, less_is_better, needs_fake, tuned, key, decided
        )
        return score

    return add


def map_metrics(tuned: bool, decided: bool = False) -> list[Metric]:
    """Return the metrics that score single maps, in the order of reports.

    Args:
        tuned: With those that need a threshold chosen on validation photos.
        decided: With those that need the decision's floor.
    """
    parts.load_named()
    return [
        entry
        for entry in MAP_METRICS.values()
        if (tuned or not entry.tuned) and (decided or not entry.decided)
    ]


def untouched_metrics(decided: bool) -> list[Metric]:
    """Return the metrics of untouched photos: areas, then photos with any mark.

    Args:
        decided: With those that need the decision's floor.
    """
    entries = (entry for entry in SET_METRICS.values() if entry.level == "untouched")
    return [entry for entry in entries if decided or not entry.decided]


def all_metrics() -> list[Metric]:
    """Return the whole table in the order of reports: of maps, then of whole test sets."""
    parts.load_named()
    return [*MAP_METRICS.values(), *SET_METRICS.values()]


def find_metric(name: str) -> Metric:
    """Return a metric; one that is not in the table has its name for a title and no definition.

    A report may show figures of a metric whose file is not imported any more.
    """
    parts.load_named()
    unknown = Metric(name, name, "", "map", key=False)
    return MAP_METRICS.get(name) or SET_METRICS.get(name) or unknown
