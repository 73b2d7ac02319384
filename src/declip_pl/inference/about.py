"""What a localizer is, in words: what it was trained on, what it was tested on, its notice."""

from typing import NamedTuple

from declip_pl.data.layout import FORGERIES, NONE
from declip_pl.model.checkpoint import Checkpoint
from declip_pl.model.description import TestedOn, TrainedOn


class About(NamedTuple):
    """What everybody who uses a localizer has to know; each is one line.

    Attributes:
        model: What it is called.
        trained_on: Which photos.
        tested_on: Which photos, by its training.
        notice: What its data say of all that is found with it; empty where they say nothing.
    """

    model: str
    trained_on: str
    tested_on: str
    notice: str

    def lines(self) -> list[str]:
        """Return what to print of it; what it is called has been said."""
        notice = [f"notice: {self.notice}"] if self.notice else []
        return [f"trained on: {self.trained_on}; tested on: {self.tested_on}", *notice]


def about(checkpoint: Checkpoint) -> About:
    """Return what a checkpoint says of its localizer."""
    trained_on, tested_on = checkpoint.trained_on, checkpoint.tested_on
    notices = (data.notice for data in (trained_on, tested_on) if data)
    return About(
        checkpoint.name,
        _trained(trained_on, checkpoint.supervision),
        _tested(tested_on),
        next(filter(None, notices), ""),
    )


def _trained(data: TrainedOn | None, supervision: str) -> str:
    if data is None:
        return "not on record"
    if data.generators == (FORGERIES,):
        return "forgeries alone, no generator's photos"
    also = " and forgeries" if data.forgeries else ""
    labels = {"full": "masks", "weak": "image labels"}[supervision]
    return f"{', '.join(data.generators)}{_of(data.data)}{also} ({labels})"


def _tested(data: TestedOn | None) -> str:
    if data is None:
        return "not on record"
    if data.split == "valid":
        return "nothing; untouched validation photos were scored"
    count = len(data.untouched)
    return f"{', '.join(data.generators)}{_of(data.data)}, {count or 'no'} untouched photos"


def _of(data: str) -> str:
    return f" of {data}" if data not in ("", NONE) else ""
