"""The encoder that a decoder was trained on, wherever on this machine or the hub its weights are.

A model is not tied to a place: every place that may have its encoder is tried until weights and
arithmetic are those on record. Any other encoder is refused, however alike it is.
"""

from collections.abc import Iterator
from pathlib import Path

from declip_pl.errors import UserError
from declip_pl.model.encoder import Encoder, plan_encoder
from declip_pl.model.features import Identity
from declip_pl.model.weights import FOLDER, Weights, places, places_of_folder
from declip_pl.parts import Spec
from declip_pl.privacy import without_folders


def find_encoder(
    encoder: Spec,
    layer: str,
    image_size: int | None,
    wanted: Identity,
    trusted: bool = True,
    moved: bool = False,
) -> Encoder:
    """Return the encoder of that identity; it is said where it comes from if that is a new place.

    Args:
        encoder: What it is called; see :func:`declip_pl.model.encoder.build_encoder`.
        layer: The feature layer.
        image_size: Side of the input in pixels, by default the encoder's own.
        wanted: What it has to be.
        trusted: Whether the name may be a path of this machine.
        moved: Whether to look as well for the folder on record and where that may have gone; not
            for an encoder that the user has named.

    Raises:
        UserError: If there is none; what was found, and where, is listed.
    """
    plan = plan_encoder(encoder, layer, image_size, trusted)
    found: list[str] = []
    for weights in _everywhere(plan.names, wanted, trusted, moved):
        try:
            if isinstance(weights, UserError):
                raise weights
            built = plan.make(*weights)
        except UserError as error:
            found.append(str(error))
            continue
        other = wanted.difference(built.identity)
        if other is None:
            _say_where(built, wanted)
            return built
        found.append(f"{built.identity}{other}")
    raise UserError(
        f"the decoder belongs to another encoder: it was trained on {wanted}. "
        f"Found instead: {'; '.join(found)}. Name a folder or a hub id that holds it "
        "(--encoder, or encoder= in Python)"
    )


def _everywhere(
    names: tuple[str, ...], wanted: Identity, trusted: bool, moved: bool
) -> Iterator[tuple[Weights, ...] | UserError]:
    yield from _combinations(names, trusted)
    if moved and len(names) == 1 and wanted.source.startswith(FOLDER):
        for weights in places_of_folder(Path(wanted.source.removeprefix(FOLDER))):
            yield weights if isinstance(weights, UserError) else (weights,)


def _combinations(
    names: tuple[str, ...], trusted: bool
) -> Iterator[tuple[Weights, ...] | UserError]:
    """Yield weights for all names together, from every place; what can't be found as an error."""
    if not names:
        yield ()
        return
    for first in places(names[0], trusted):
        if isinstance(first, UserError):
            yield first
            continue
        for rest in _combinations(names[1:], trusted):
            yield rest if isinstance(rest, UserError) else (first, *rest)


def _say_where(encoder: Encoder, wanted: Identity) -> None:
    # What was passed on names no folder of whoever saved it.
    if wanted.source not in (encoder.source, without_folders(encoder.source)):
        print(
            f"the encoder comes from {encoder.source}: the weights that the decoder was trained "
            f"with ({wanted.source}), by their SHA-256 {wanted.sha256[:12]}"
        )
