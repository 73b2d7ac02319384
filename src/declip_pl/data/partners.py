"""For each untouched photo that is manipulated, another one whose pixels it may get."""

import hashlib
from bisect import bisect
from collections.abc import Sequence
from typing import Protocol, TypeVar

SMALLEST = 64
"""Px of a side; photos with a smaller one are not manipulated."""


class Hashed(Protocol):
    """A photo, known by the SHA-256 of its file, for one of the splits."""

    @property
    def sha256(self) -> str:
        """Return the hash of its file."""

    @property
    def split(self) -> str:
        """Return which split it is for."""


PhotoT = TypeVar("PhotoT", bound=Hashed)


def partners(photos: Sequence[PhotoT]) -> list[PhotoT]:
    """Return for each photo another one of its split; itself if it is alone.

    It is the next one from a place that the photo's hash gives, so that further photos change few
    of the choices.

    Args:
        photos: Of different files, sorted by their hashes.
    """
    found = {}
    for split in {photo.split for photo in photos}:
        part = [photo for photo in photos if photo.split == split]
        hashes = [photo.sha256 for photo in part]
        for index, photo in enumerate(part):
            place = bisect(hashes, hashlib.sha256(photo.sha256.encode()).hexdigest()) % len(part)
            found[photo.sha256] = part[(place + (place == index)) % len(part)]
    return [found[photo.sha256] for photo in photos]
