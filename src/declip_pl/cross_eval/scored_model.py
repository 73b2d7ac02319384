"""What a matrix says of the models, and of other methods, that were scored."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ChosenThresholds:
    """The thresholds of a model that were chosen on validation photos; None where none were."""

    pixel: float | None
    image: float | None
    floor: float | None = None


@dataclass(frozen=True)
class GivenMaps:
    """The heat maps by which another method was scored.

    Attributes:
        files: How many of the folder's files are maps of test photos.
        missing: How many test photos have no map, and were left out.
        sha256: Hash of all maps in the folder.
        polarity: Which values mean fake: ``white`` high ones, ``black`` low ones.
        resized: Whether maps may have another size than their photo, to which they are brought.
        scores: Where the photos' scores come from, in words.
    """

    files: int
    missing: int
    sha256: str
    polarity: str
    resized: bool
    scores: str


@dataclass(frozen=True)
class ScoredModel:
    """A model that was scored.

    Attributes:
        name: What it is called.
        row: Its row in the matrix; models of several seeds share one.
        trained_on: The generators of its training photos; empty where they are not on record.
        seed: Of its training.
        encoder: Its frozen encoder's name.
        encoder_source: Where the encoder's weights came from.
        layer: Its feature layer.
        decoder: Its decoder's name.
        supervision: ``full`` or ``weak``.
        image_size: Side of its input in pixels.
        checkpoint: Name of the file or folder that was read.
        checkpoint_sha256: Hash of the file with its weights.
        thresholds: Chosen on validation photos.
        maps: Of a method that is known by its heat maps alone: no text above says anything of it,
            but for ``checkpoint``, the maps' folder, and the hash, which is of the maps and of how
            they are read. None of a trained model.
    """

    name: str
    row: str
    trained_on: tuple[str, ...]
    seed: int
    encoder: str
    encoder_source: str
    layer: str
    decoder: str
    supervision: str
    image_size: int
    checkpoint: str
    checkpoint_sha256: str
    thresholds: ChosenThresholds
    maps: GivenMaps | None = None
