"""Registries that a test may add to: what it registers is gone afterwards."""

import pytest

from declip_pl.data.inpainting.doors import MASKS
from declip_pl.data.inpainting.inpainter import INPAINTERS


def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (INPAINTERS, MASKS):
        for name, value in list(vars(registry).items()):
            if isinstance(value, dict):
                monkeypatch.setattr(registry, name, dict(value))
