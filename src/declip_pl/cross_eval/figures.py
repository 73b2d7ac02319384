"""What a matrix keeps for plots and pictures: curves, reliability diagrams, drawn photos."""

from dataclasses import dataclass

IN, OUT = "in-domain", "out-of-domain"
"""Parts of a row: test sets of generators that it was trained on, and the others."""

LEVELS = 200
"""Equal parts of [0, 1] in which :class:`PixelCounts` counts pixels by their probability."""


@dataclass(frozen=True)
class Curve:
    """Mean IoU and F1 in percent at each threshold in [0, 1]."""

    thresholds: list[float]
    iou: list[float | None]
    f1: list[float | None]


@dataclass(frozen=True)
class Bins:
    """A reliability diagram, all in [0, 1]; None where a bin is empty.

    Attributes:
        probability: Each bin's mean probability.
        fake: Each bin's share of fakes.
        share: Each bin's share of everything.
    """

    probability: list[float | None]
    fake: list[float | None]
    share: list[float | None]


@dataclass(frozen=True)
class Reliability:
    """The reliability diagrams of a cell's pixels and photos; None where there are no reals."""

    pixel: Bins
    image: Bins | None


@dataclass(frozen=True)
class Panel:
    """A drawn photo: its file in the cross-evaluation's folder, that one's hash, name, IoU."""

    file: str
    photo: str
    iou: float | None
    sha256: str | None = None


@dataclass(frozen=True)
class PixelCounts:
    """How many real and how many fake pixels a test set has in each of :data:`LEVELS` parts."""

    real: list[int]
    fake: list[int]


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic and its precision-recall curve, all in percent.

    Attributes:
        alarms: Share of the real that are called fake, rising.
        found: Share of the fake that are called fake, at each of ``alarms``.
        recall: Share of the fake that are called fake, rising.
        precision: Share of what is called fake that is, at each of ``recall``.
        fake: Share of all that are fake: what precision an answer by chance has.
    """

    alarms: list[float]
    found: list[float]
    recall: list[float]
    precision: list[float]
    fake: float


@dataclass(frozen=True)
class Rates:
    """A cell's curves over all pixels of its fakes, and over photos; None where there are none."""

    pixel: Roc | None = None
    image: Roc | None = None
