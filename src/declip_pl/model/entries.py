"""Entries of a description that came from anywhere: what each may be, and the check of all."""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from declip_pl import parts
from declip_pl.errors import UserError

MAX_TEXT = 4096
"""Characters of an entry: as many as a path may have."""


class Entry(NamedTuple):
    """What an entry may be: a test, the same in words, and whether it may be left out."""

    holds: Callable[[Any], bool]
    expected: str
    optional: bool = False


def check(said: dict[str, Any], entries: Mapping[str, Entry], place: str = "") -> None:
    """Check what is said against what may be said.

    Args:
        said: What came from anywhere.
        entries: What each entry may be, by name.
        place: Begins the names in errors: ``trained_on.``.

    Raises:
        ValueError: If an entry is missing, unknown, or something else; it is named.
    """
    for name in said:
        if name not in entries:
            raise ValueError(f"there is an unknown entry {_shown(place + str(name))}")
    for name, entry in entries.items():
        if name in said and not entry.holds(said[name]):
            found = _shown(said[name])
            raise ValueError(f"{place}{name} is {found}; expected {entry.expected}")
        if name not in said and not entry.optional:
            raise ValueError(f"there is no {place}{name}; expected {entry.expected}")


def _shown(value: Any) -> str:
    """Return a value in quotes, without control characters and not too long to read."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004


def is_whole(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    """Return a test for whole numbers from ``low`` to ``high``."""
    return lambda value: type(value) is int and low <= value <= high


def are_sorted_shares(most: int) -> Callable[[Any], bool]:
    """Return a test for lists of up to ``most`` numbers from 0 to 1, the lowest first."""
    return lambda value: (
        isinstance(value, (list, tuple))
        and len(value) <= most
        and all(type(number) in (int, float) and 0 <= number <= 1 for number in value)
        and all(one <= other for one, other in pairwise(value))
    )


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 0, or None."""
    return value is None or is_whole(0)(value)


def is_rate(value: Any) -> bool:
    """Whether it is a finite number from 0."""
    return type(value) in (int, float) and 0 <= value < math.inf


def is_share(value: Any) -> bool:
    """Whether it is a number from 0 to 1, or None."""
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)


def is_text(value: Any) -> bool:
    """Whether it is text of a path's length at most that a terminal shows as it is."""
    return (
        isinstance(value, str)
        and len(value) <= MAX_TEXT
        and not any(unicodedata.category(c) == "Cc" for c in value)
    )


def is_word(value: Any) -> bool:
    """Whether it is text as of :func:`is_text`, and not empty."""
    return is_text(value) and bool(value)


def is_hash(value: Any) -> bool:
    """Whether it is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))


def is_spec(value: Any) -> bool:
    """Whether it is a name, or class_path and init_args, in so far as that is known here."""
    try:
        name, init_args = parts.read_spec(value)
    except UserError:
        return False
    return is_word(name) and all(map(is_word, init_args))


def are_names(value: Any) -> bool:
    """Whether it is a list of words."""
    return isinstance(value, (list, tuple)) and all(map(is_word, value))


def are_counts(value: Any) -> bool:
    """Whether it is whole numbers from 1, by word."""
    return is_object(value) and all(map(is_word, value)) and all(map(is_whole(1), value.values()))


def is_object(value: Any) -> bool:
    """Whether it is a dictionary by text."""
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def is_range(high: float) -> Callable[[Any], bool]:
    """Return a test for None and pairs of numbers from 0 to ``high``, the lower one first."""
    return lambda value: (
        value is None
        or (
            isinstance(value, (list, tuple))
            and len(value) == 2  # noqa: PLR2004
            and all(type(number) in (int, float) for number in value)
            and 0 <= value[0] <= value[1] <= high
        )
    )


def one_of(*words: str) -> Entry:
    """Return an entry that is one of some words, and may be left out."""
    return Entry(lambda value: isinstance(value, str) and value in words, " or ".join(words), True)
