"""Variants that differ in the layer alone: each photo passes the encoder once for all of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from declip_pl.cross_eval.pieces import all_wanted
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.layer_caches import fill, words_of
from declip_pl.errors import UserError
from declip_pl.model.encoder import build_encoder
from declip_pl.model.own_encoder import NO_LAYER
from declip_pl.parts import Spec, as_text
from declip_pl.training.recipe import Recipe

UNCHANGED = ("none", 0, "none")
"""A view of photos that are encoded as they are."""


def encode_together(
    recipes: Mapping[str, Recipe],
    choices: Mapping[str, Sequence[str]],
    tested: LocalizationDataModule,
    device: torch.device,
) -> None:
    """Encode the photos of variants that have one encoder at several layers.

    What is left, and photos that are changed before, are encoded when a variant needs them.

    Args:
        recipes: Of the variants.
        choices: What each variant's models are trained on.
        tested: The data set that they are scored on.
        device: Where the encoder runs.

    Raises:
        UserError: If a photo can't be decoded, or the disk is too small.
    """
    for variants in of_several_layers(recipes):
        first = recipes[variants[0]].entries
        wanted = [w for v in variants for w in all_wanted(recipes[v], choices[v], [tested])]
        photos = [p for w in wanted if w.changes == UNCHANGED for p in w.photos]
        layers = _layers(recipes, variants)
        _fill(first["model.encoder"], first["model.image_size"], layers, photos, device)


def of_several_layers(recipes: Mapping[str, Recipe]) -> list[list[str]]:
    """Return the variants that have one encoder at several layers, together."""
    groups: dict[tuple[str, int | None], list[str]] = defaultdict(list)
    for variant, recipe in recipes.items():
        said = recipe.entries
        if said["data.cache"] and said["model.layer"] != NO_LAYER:
            groups[as_text(said["model.encoder"]), said["model.image_size"]].append(variant)
    return [variants for variants in groups.values() if len(_layers(recipes, variants)) > 1]


def _layers(recipes: Mapping[str, Recipe], variants: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(recipes[variant].entries["model.layer"] for variant in variants))


def _fill(
    encoder: Spec,
    size: int | None,
    layers: Sequence[str],
    photos: Sequence[Path],
    device: torch.device,
) -> None:
    caches = {}
    for layer in layers:
        with suppress(UserError):  # said where that variant is trained, which is left out then
            built = build_encoder(encoder, layer, size)
            caches[layer] = FeatureCache(built)
            built.offload()
    if len(caches) < 2:  # noqa: PLR2004
        return
    together = build_encoder(encoder, "+".join(words_of(caches)), size)
    fill(list(caches.values()), together, list(dict.fromkeys(photos)), device)
