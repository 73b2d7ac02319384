"""A list of photos that a page sorts and filters by itself, whatever was measured of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import numpy as np

from declip_pl.cross_eval.statistics import Array

MOST_LISTED = 40_000
"""Lines of a list; of more, evenly spread ones. A line takes about 40 bytes of the page."""

FIRST = 30
"""How many lines stand in a page that runs no script."""


class Number(NamedTuple):
    """A column of numbers, and with how many decimals it is shown."""

    title: str
    digits: int = 1


@dataclass(frozen=True)
class Group:
    """Photos that share their labels.

    Attributes:
        labels: One for each label of the list, such as what a model was trained on.
        home: Whether they are of what the model was trained on.
        photos: Their names.
        numbers: ``[N, P]``, NaN where there is none.
        pictures: Ids of pictures in the page, by photo.
    """

    labels: Sequence[str]
    home: bool
    photos: Sequence[str]
    numbers: Array
    pictures: Mapping[str, str]


@dataclass(frozen=True)
class Listing:
    """A list of photos.

    Attributes:
        labels: Headings of the labels.
        numbers: The columns of numbers; the list is sorted by the first.
        groups: The photos.
        left_out: How many photos are not in it.
    """

    labels: Sequence[str]
    numbers: Sequence[Number]
    groups: Sequence[Group]
    left_out: int = 0

    @property
    def count(self) -> int:
        """How many lines there are."""
        return sum(len(group.photos) for group in self.groups)


class Line(NamedTuple):
    """A line of the list as text; ``picture`` is an id in the page, or empty."""

    photo: str
    labels: Sequence[str]
    home: bool
    numbers: list[str]
    picture: str


def shortened(listing: Listing, most: int = MOST_LISTED) -> Listing:
    """Return a list of at most about ``most`` lines: of each group as large a share.

    Photos with a picture stay.
    """
    step = -(-listing.count // most)
    if step <= 1:
        return listing
    groups = []
    for group in listing.groups:
        kept = [
            place
            for place, photo in enumerate(group.photos)
            if place % step == 0 or photo in group.pictures
        ]
        photos = [group.photos[place] for place in kept]
        groups.append(
            Group(group.labels, group.home, photos, group.numbers[:, kept], group.pictures)
        )
    found = Listing(listing.labels, listing.numbers, groups)
    return Listing(found.labels, found.numbers, groups, listing.count - found.count)


def first_lines(listing: Listing) -> list[Line]:
    """Return the first lines of the list, sorted by its first number, the lowest first."""
    ranked = [
        (float(group.numbers[0, place]), number, place)
        for number, group in enumerate(listing.groups)
        for place in range(len(group.photos))
        if isfinite(group.numbers[0, place])
    ]
    return [
        _line(listing, listing.groups[group], place) for _, group, place in sorted(ranked)[:FIRST]
    ]


def as_json(listing: Listing) -> str:
    """Return what the page's script reads, fit to stand inside a ``<script>`` element."""
    said = {
        "labels": list(listing.labels),
        "numbers": [[number.title, number.digits] for number in listing.numbers],
        "groups": [
            {
                "labels": list(group.labels),
                "home": group.home,
                "photos": list(group.photos),
                "numbers": [
                    [_rounded(value, number.digits) for value in values]
                    for number, values in zip(listing.numbers, group.numbers, strict=True)
                ],
                "pictures": dict(group.pictures),
            }
            for group in listing.groups
        ],
    }
    # Names of photos are anything; inside a script only "<" could end it.
    return json.dumps(said, separators=(",", ":")).replace("<", "\\u003c")


def _line(listing: Listing, group: Group, place: int) -> Line:
    numbers = [
        "" if np.isnan(value) else f"{value:.{number.digits}f}"
        for number, value in zip(listing.numbers, group.numbers[:, place], strict=True)
    ]
    photo = group.photos[place]
    return Line(photo, group.labels, group.home, numbers, group.pictures.get(photo, ""))


def _rounded(value: float, digits: int) -> float | int | None:
    if not isfinite(value):
        return None
    return round(float(value), digits) if digits else round(float(value))
