"""What a checkpoint says of its localizer, and the one reader of it, which believes nothing.

A ``config.json`` may come from anywhere. Every entry is of its type and within its bounds, or it is
refused by name; names of parts are looked up later, among those that are registered.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from annotated_types import Interval

from declip_pl import parts
from declip_pl.errors import UserError
from declip_pl.metrics import Thresholds
from declip_pl.model.features import MAX_SIDE, Identity
from declip_pl.model.network import POOLINGS, Pooling
from declip_pl.parts import Spec

FORMAT = 2
"""Raise it with any change to what a description holds."""

Supervision = Literal["full", "weak"]

MAX_TEXT = 4096
"""Characters of an entry: as many as a path may have."""
MAX_SEED = 2**32 - 1
"""The largest that NumPy takes."""
SEEDS = Interval(ge=0, le=MAX_SEED)
"""What NumPy and torch take as a seed."""
Seed = Annotated[int, SEEDS]


OF_WHOLE = "everywhere:"
"""Begins the name of an operation that a whole photo went through, not a region of it."""


@dataclass(frozen=True)
class ForgedPhotos:
    """Forgeries among the photos that a localizer was trained on.

    Attributes:
        sha256: Of their manifest, which lists every one of them.
        photos: How many untouched photos of each folder they were made of.
        versions: Forgeries of each photo.
        operations: What their regions went through, and behind :data:`OF_WHOLE` what whole photos
            did.
    """

    sha256: str
    photos: dict[str, int]
    versions: int
    operations: tuple[str, ...]


@dataclass(frozen=True)
class TrainedOn:
    """What a localizer was trained on.

    Attributes:
        generators: Their names; ``forgeries`` alone where no generator's photos were seen.
        supervision: ``full`` (masks) or ``weak`` (image labels).
        files_sha256: Hash of the files' relative paths and sizes; empty where it is unknown.
        data: Name of the data set.
        notice: What everybody who sees scores on these data has to know.
        forgeries: Those that were seen as well; None where there were none.
        untouched: How many training photos had no fake pixel: untouched ones and, among the
            forgeries, those without a forged region. None where it is not on record.
    """

    generators: tuple[str, ...]
    supervision: str
    files_sha256: str
    data: str = ""
    notice: str = ""
    forgeries: ForgedPhotos | None = None
    untouched: int | None = None


@dataclass(frozen=True)
class Description:
    """All that a checkpoint says of a localizer, beside the decoder's weights.

    Attributes:
        encoder: What the frozen encoder is built by.
        layer: The feature layer.
        decoder: What the decoder is built by.
        image_size: Side of the input in pixels.
        identity: Of the frozen encoder.
        pooling: How an image's score is pooled from its map.
        supervision: What it was trained with.
        seed: Of its training.
        learning_rate: Of its training.
        loss: Of its training.
        trained_on: Its data; None where they are not on record.
        thresholds: Chosen on the validation photos of its training; None where that was not done.
    """

    encoder: Spec
    layer: str
    decoder: Spec
    image_size: int
    identity: Identity
    pooling: Pooling = "top"
    supervision: Supervision = "full"
    seed: int = 0
    learning_rate: float = 1e-3
    loss: Spec = "bce"
    trained_on: TrainedOn | None = None
    thresholds: Thresholds | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON and Lightning; :func:`describe` reads it."""
        said = asdict(self)
        if self.trained_on:
            said["trained_on"]["generators"] = list(self.trained_on.generators)
            if self.trained_on.forgeries:
                operations = list(self.trained_on.forgeries.operations)
                said["trained_on"]["forgeries"]["operations"] = operations
        return {"format": FORMAT, **said}


class _Entry(NamedTuple):
    """What an entry may be: a test, the same in words, and whether it may be left out."""

    holds: Callable[[Any], bool]
    expected: str
    optional: bool = False


def describe(said: Any, path: Path | str) -> Description:
    """Read a description: the inverse of :meth:`Description.as_dict`.

    Raises:
        UserError: If it is damaged or of a newer version; the entry is named.
    """
    if not isinstance(said, dict) or not _is_whole(1)(said.get("format")):
        raise UserError(f"{path} describes no localizer of declip-pl")
    if said["format"] > FORMAT:
        raise UserError(f"{path} was written by a newer declip-pl; update this one")
    try:
        entries = _from_first_format(said) if said["format"] == 1 else dict(said)
        entries.pop("format", None)
        _check(entries, _ENTRIES)
        _check(entries["identity"], _IDENTITY, "identity.")
        entries["identity"] = Identity(**entries["identity"])
        if trained_on := entries.get("trained_on"):
            entries["trained_on"] = _trained_on(trained_on)
        if (thresholds := entries.get("thresholds")) is not None:
            _check(thresholds, _THRESHOLDS, "thresholds.")
            entries["thresholds"] = Thresholds(**thresholds)
        return Description(**entries)
    except ValueError as error:
        raise UserError(f"{path}: its description is damaged: {error}") from error


def _trained_on(said: dict[str, Any]) -> TrainedOn:
    _check(said, _TRAINED_ON, "trained_on.")
    found = said | {"generators": tuple(said["generators"])}
    if (forgeries := said.get("forgeries")) is not None:
        _check(forgeries, _FORGERIES, "trained_on.forgeries.")
        operations = tuple(forgeries["operations"])
        found["forgeries"] = ForgedPhotos(**forgeries | {"operations": operations})
    return TrainedOn(**found)


def _check(said: dict[str, Any], entries: Mapping[str, _Entry], place: str = "") -> None:
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


def _is_whole(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_count(value: Any) -> bool:
    return value is None or _is_whole(0)(value)


def _is_rate(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_threshold(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)


def _are_thresholds(value: Any) -> bool:
    names = set(POOLINGS)
    return _is_object(value) and value.keys() <= names and all(map(_is_threshold, value.values()))


def _is_text(value: Any) -> bool:
    """Whether it is text of a path's length at most that a terminal shows as it is."""
    return (
        isinstance(value, str)
        and len(value) <= MAX_TEXT
        and not any(unicodedata.category(c) == "Cc" for c in value)
    )


def _is_word(value: Any) -> bool:
    return _is_text(value) and bool(value)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))


def _is_spec(value: Any) -> bool:
    try:
        name, init_args = parts.read_spec(value)
    except UserError:
        return False
    return _is_word(name) and all(map(_is_word, init_args))


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_word, value))


def _are_counts(value: Any) -> bool:
    return (
        _is_object(value) and all(map(_is_word, value)) and all(map(_is_whole(1), value.values()))
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _one_of(*words: str) -> _Entry:
    return _Entry(lambda value: isinstance(value, str) and value in words, " or ".join(words), True)


_SPEC = "a name, or class_path and init_args"

_ENTRIES = {
    "encoder": _Entry(_is_spec, _SPEC),
    "layer": _Entry(_is_word, "a name"),
    "decoder": _Entry(_is_spec, _SPEC),
    "image_size": _Entry(_is_whole(1, MAX_SIDE), f"a whole number from 1 to {MAX_SIDE}"),
    "identity": _Entry(_is_object, "the encoder's identity"),
    "pooling": _one_of(*POOLINGS),
    "supervision": _one_of(*get_args(Supervision)),
    "seed": _Entry(_is_whole(0, MAX_SEED), f"a whole number from 0 to {MAX_SEED}", True),
    "learning_rate": _Entry(_is_rate, "a number from 0", True),
    "loss": _Entry(_is_spec, _SPEC, True),
    "trained_on": _Entry(lambda value: value is None or _is_object(value), "training data", True),
    "thresholds": _Entry(lambda value: value is None or _is_object(value), "thresholds", True),
}
assert _ENTRIES.keys() == {field.name for field in fields(Description)}

_IDENTITY = {
    "name": _Entry(_is_word, "a name"),
    "layer": _Entry(_is_word, "a name"),
    "source": _Entry(_is_text, "words"),
    "sha256": _Entry(_is_hash, "64 hexadecimal digits"),
    "arithmetic": _Entry(lambda value: value is None or _is_object(value), "settings", True),
}

_TRAINED_ON = {
    "generators": _Entry(_is_names, "a list of names"),
    "supervision": _one_of(*get_args(Supervision))._replace(optional=False),
    "files_sha256": _Entry(lambda value: value == "" or _is_hash(value), "64 hexadecimal digits"),
    "data": _Entry(_is_text, "words", True),
    "notice": _Entry(_is_text, "words", True),
    "forgeries": _Entry(lambda value: value is None or _is_object(value), "forgeries", True),
    "untouched": _Entry(_is_count, "a whole number from 0, or null", True),
}

_FORGERIES = {
    "sha256": _Entry(_is_hash, "64 hexadecimal digits"),
    "photos": _Entry(_are_counts, "a whole number for each folder"),
    "versions": _Entry(_is_whole(1), "a whole number from 1"),
    "operations": _Entry(_is_names, "a list of names"),
}

_THRESHOLDS = {
    "pixel": _Entry(_is_threshold, "a number from 0 to 1, or null"),
    "image": _Entry(_are_thresholds, "a number from 0 to 1, or null, for each pooling"),
    "floor": _Entry(_is_threshold, "a number from 0 to 1, or null", True),
}


def _from_first_format(said: dict[str, Any]) -> dict[str, Any]:
    """Bring a description of version 0.1 into today's shape."""
    options: Any = said.get("hyper_parameters")
    identity: Any = said.get("encoder")
    if not (_is_object(options) and _is_object(identity)):
        raise ValueError("there are no hyper_parameters or no encoder; expected those of a run")
    names = ("encoder", "layer", "pooling", "supervision", "seed", "learning_rate")
    return {
        **{name: options[name] for name in names if name in options},
        **{name: said[name] for name in ("decoder", "image_size") if name in said},
        "identity": identity,
        "trained_on": said.get("DolosDataModule") or None,
    }
