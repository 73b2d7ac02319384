"""By how much each variant scores more than the one that all are compared with."""

from collections.abc import Mapping
from dataclasses import replace
from math import isnan
from typing import TypeVar

from declip_pl.ablation.ablation import IN, OUT, Change
from declip_pl.cross_eval.compare import comparison
from declip_pl.cross_eval.differences import Difference
from declip_pl.cross_eval.evaluation import Evaluation
from declip_pl.cross_eval.statistics import holm
from declip_pl.errors import UserError

K = TypeVar("K")

Key = tuple[str, str, str]
"""A variant, a metric and a part of the cells."""


def changes(evaluations: Mapping[str, Evaluation], against: str, metric: str) -> dict[Key, Change]:
    """Compare every variant with one of them, paired by photo.

    Only cells that both have count, and of these the ones that are in domain on both sides, or on
    neither; so where training data vary, a change need not be the difference of the means.

    Args:
        evaluations: What each variant scored.
        against: The one that all are compared with.
        metric: A score of single photos.

    Returns:
        Changes in and out of domain by variant, metric and part, their p-values corrected for all
        of them together.
    """
    found: dict[Key, Difference] = {}
    for variant in evaluations:
        if variant != against:
            found |= {
                (variant, metric, part): difference
                for part, difference in means(evaluations[against], evaluations[variant], metric)
            }
    return corrected_changes(found)


def corrected_changes(found: Mapping[K, Difference]) -> dict[K, Change]:
    """Return differences as changes, their p-values corrected for all of them together."""
    corrected = holm([difference.p_value for difference in found.values()])
    return {
        key: _plain(replace(difference, corrected=p))
        for (key, difference), p in zip(found.items(), corrected, strict=True)
    }


def means(a: Evaluation, b: Evaluation, metric: str) -> list[tuple[str, Difference]]:
    """Return what changes from A to B in and out of domain, as far as they share such cells."""
    try:
        found = comparison(a, b, metric).means
    except UserError:  # they share no cell, as where each was trained on other generators
        return []
    parts = {f"{part} mean": part for part in (IN, OUT)}
    return [(parts[difference.where[0]], difference) for difference in found]


def _plain(difference: Difference) -> Change:
    found = difference.change
    low, high, p, corrected = (
        None if isnan(number) else number
        for number in (found.low, found.high, difference.p_value, difference.corrected)
    )
    return Change(found.value, low, high, p, corrected)
