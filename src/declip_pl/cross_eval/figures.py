"""What a matrix keeps for plots and pictures: curves, reliability diagrams, drawn photos."""

from dataclasses import dataclass


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
