"""What a cross-evaluation scores: trained localizers, and other methods by their heat maps."""

from typing import Protocol, Self

from declip_pl.cross_eval.matrix import ChosenThresholds, ScoredModel
from declip_pl.metrics import Thresholds
from declip_pl.model.network import Pooling


class Method(Protocol):
    """A row of a matrix, or one seed of it.

    Attributes:
        name: What it is called, a folder's name.
        row: What the matrix calls it.
        trained_on: The generators of its training photos; none where they are not on record.
        seed: Of its training.
        kind: What matters but generators and seed.
        sha256: Hash of what it answers by: weights, or the heat maps themselves.
        thresholds: Its own; None where they are to be chosen.
        pooling: How it says that a photo's score is pooled; None where it does not say.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def row(self) -> str: ...  # noqa: D102
    @property
    def trained_on(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def kind(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102
    @property
    def thresholds(self) -> Thresholds | None: ...  # noqa: D102
    @property
    def pooling(self) -> Pooling | None: ...  # noqa: D102

    def in_row(self, row: str) -> Self:
        """Return the same under another row's name."""

    def described(self, chosen: ChosenThresholds) -> ScoredModel:
        """Return what a matrix says of it.

        Args:
            chosen: Its thresholds.
        """
