"""What a checkpoint says of its localizer, and the one reader of it, which believes nothing.

A ``config.json`` may come from anywhere. Every entry is of its type and within its bounds, or it is
refused by name; names of parts are looked up later, among those that are registered.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Interval

from declip_pl.errors import UserError
from declip_pl.metrics import Thresholds
from declip_pl.model.entries import (
    Entry,
    are_counts,
    are_names,
    are_sorted_shares,
    check,
    is_count,
    is_hash,
    is_object,
    is_range,
    is_rate,
    is_share,
    is_spec,
    is_text,
    is_whole,
    is_word,
    one_of,
)
from declip_pl.model.features import MAX_SIDE, Identity
from declip_pl.model.network import POOLINGS, Pooling
from declip_pl.parts import Spec

FORMAT = 2
"""Raise it with any change to what a description holds."""

Supervision = Literal["full", "weak"]

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
class SeenPhotos:
    """Of what kind the training photos' files were: a photo outside these ranges is unlike them.

    Each is from the 1st to the 99th percentile.

    Attributes:
        sides: Of the longer side, in px.
        qualities: Of the JPEG quality, from 1 to 100, as the quantisation tables say; None where
            the files were no JPEGs.
    """

    sides: tuple[float, float]
    qualities: tuple[float, float] | None = None


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
        photos: Of what kind their files were; None where it is not on record.
    """

    generators: tuple[str, ...]
    supervision: str
    files_sha256: str
    data: str = ""
    notice: str = ""
    forgeries: ForgedPhotos | None = None
    untouched: int | None = None
    photos: SeenPhotos | None = None


MAX_SCORES = 1000
"""Untouched photos whose scores a description holds; of more, so many are taken, evenly spread."""


@dataclass(frozen=True)
class TestedOn:
    """What a localizer was tested on, and how untouched photos scored there.

    Attributes:
        split: ``test``, or ``valid`` where there was no test: on these photos the best epoch and
            the thresholds were chosen.
        data: Name of the data set.
        generators: Their names.
        untouched: Scores of untouched photos in [0, 1], pooled as the localizer pools, the lowest
            first; at most :data:`MAX_SCORES`, evenly spread over those of all. Empty without such
            photos.
        notice: What everybody who sees scores on these data has to know.
    """

    split: Literal["test", "valid"]
    data: str
    generators: tuple[str, ...]
    untouched: tuple[float, ...] = ()
    notice: str = ""


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
        tested_on: What its training tested it on; None where it is not on record.
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
    tested_on: TestedOn | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON and Lightning; :func:`describe` reads it."""
        said = asdict(self)
        said |= {name: _with_lists(said[name]) for name in ("trained_on", "tested_on")}
        return {"format": FORMAT, **said}


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_lists(entry) for name, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value


def describe(said: Any, path: Path | str) -> Description:
    """Read a description: the inverse of :meth:`Description.as_dict`.

    Raises:
        UserError: If it is damaged or of a newer version; the entry is named.
    """
    if not isinstance(said, dict) or not is_whole(1)(said.get("format")):
        raise UserError(f"{path} describes no localizer of declip-pl")
    if said["format"] > FORMAT:
        raise UserError(f"{path} was written by a newer declip-pl; update this one")
    try:
        entries = _from_first_format(said) if said["format"] == 1 else dict(said)
        entries.pop("format", None)
        check(entries, _ENTRIES)
        check(entries["identity"], _IDENTITY, "identity.")
        entries["identity"] = Identity(**entries["identity"])
        if trained_on := entries.get("trained_on"):
            entries["trained_on"] = _trained_on(trained_on)
        if (tested_on := entries.get("tested_on")) is not None:
            check(tested_on, _TESTED_ON, "tested_on.")
            names = ("generators", "untouched")
            found = {name: tuple(tested_on[name]) for name in names if name in tested_on}
            entries["tested_on"] = TestedOn(**tested_on | found)
        if (thresholds := entries.get("thresholds")) is not None:
            check(thresholds, _THRESHOLDS, "thresholds.")
            entries["thresholds"] = Thresholds(**thresholds)
        return Description(**entries)
    except ValueError as error:
        raise UserError(f"{path}: its description is damaged: {error}") from error


def _trained_on(said: dict[str, Any]) -> TrainedOn:
    check(said, _TRAINED_ON, "trained_on.")
    found = said | {"generators": tuple(said["generators"])}
    if (forgeries := said.get("forgeries")) is not None:
        check(forgeries, _FORGERIES, "trained_on.forgeries.")
        operations = tuple(forgeries["operations"])
        found["forgeries"] = ForgedPhotos(**forgeries | {"operations": operations})
    if (photos := said.get("photos")) is not None:
        check(photos, _PHOTOS, "trained_on.photos.")
        ranges = {name: value and tuple(value) for name, value in photos.items()}
        found["photos"] = SeenPhotos(**ranges)
    return TrainedOn(**found)


def _are_thresholds(value: Any) -> bool:
    names = set(POOLINGS)
    return is_object(value) and value.keys() <= names and all(map(is_share, value.values()))


_SPEC = "a name, or class_path and init_args"

_ENTRIES = {
    "encoder": Entry(is_spec, _SPEC),
    "layer": Entry(is_word, "a name"),
    "decoder": Entry(is_spec, _SPEC),
    "image_size": Entry(is_whole(1, MAX_SIDE), f"a whole number from 1 to {MAX_SIDE}"),
    "identity": Entry(is_object, "the encoder's identity"),
    "pooling": one_of(*POOLINGS),
    "supervision": one_of(*get_args(Supervision)),
    "seed": Entry(is_whole(0, MAX_SEED), f"a whole number from 0 to {MAX_SEED}", True),
    "learning_rate": Entry(is_rate, "a number from 0", True),
    "loss": Entry(is_spec, _SPEC, True),
    "trained_on": Entry(lambda value: value is None or is_object(value), "training data", True),
    "thresholds": Entry(lambda value: value is None or is_object(value), "thresholds", True),
    "tested_on": Entry(lambda value: value is None or is_object(value), "test data", True),
}
assert _ENTRIES.keys() == {field.name for field in fields(Description)}

_IDENTITY = {
    "name": Entry(is_word, "a name"),
    "layer": Entry(is_word, "a name"),
    "source": Entry(is_text, "words"),
    "sha256": Entry(is_hash, "64 hexadecimal digits"),
    "arithmetic": Entry(lambda value: value is None or is_object(value), "settings", True),
}

_TRAINED_ON = {
    "generators": Entry(are_names, "a list of names"),
    "supervision": one_of(*get_args(Supervision))._replace(optional=False),
    "files_sha256": Entry(lambda value: value == "" or is_hash(value), "64 hexadecimal digits"),
    "data": Entry(is_text, "words", True),
    "notice": Entry(is_text, "words", True),
    "forgeries": Entry(lambda value: value is None or is_object(value), "forgeries", True),
    "untouched": Entry(is_count, "a whole number from 0, or null", True),
    "photos": Entry(lambda value: value is None or is_object(value), "kinds of files", True),
}

_PHOTOS = {
    "sides": Entry(lambda value: value is not None and is_range(1e9)(value), "two sides in px"),
    "qualities": Entry(is_range(100), "two qualities from 0 to 100, or null", True),
}

_TESTED_ON = {
    "split": one_of("test", "valid")._replace(optional=False),
    "data": Entry(is_text, "words"),
    "generators": Entry(are_names, "a list of names"),
    "untouched": Entry(
        are_sorted_shares(MAX_SCORES),
        f"up to {MAX_SCORES} numbers from 0 to 1, the lowest first",
        True,
    ),
    "notice": Entry(is_text, "words", True),
}

_FORGERIES = {
    "sha256": Entry(is_hash, "64 hexadecimal digits"),
    "photos": Entry(are_counts, "a whole number for each folder"),
    "versions": Entry(is_whole(1), "a whole number from 1"),
    "operations": Entry(are_names, "a list of names"),
}

_THRESHOLDS = {
    "pixel": Entry(is_share, "a number from 0 to 1, or null"),
    "image": Entry(_are_thresholds, "a number from 0 to 1, or null, for each pooling"),
    "floor": Entry(is_share, "a number from 0 to 1, or null", True),
}


def _from_first_format(said: dict[str, Any]) -> dict[str, Any]:
    """Bring a description of version 0.1 into today's shape."""
    options: Any = said.get("hyper_parameters")
    identity: Any = said.get("encoder")
    if not (is_object(options) and is_object(identity)):
        raise ValueError("there are no hyper_parameters or no encoder; expected those of a run")
    names = ("encoder", "layer", "pooling", "supervision", "seed", "learning_rate")
    return {
        **{name: options[name] for name in names if name in options},
        **{name: said[name] for name in ("decoder", "image_size") if name in said},
        "identity": identity,
        "trained_on": said.get("DolosDataModule") or None,
    }
