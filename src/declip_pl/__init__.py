"""DeCLIP as a PyTorch Lightning experiment package (arXiv 2409.08849)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from declip_pl.inference.localizer import Localization, Localizer, Region

__version__ = "0.2.0"

__all__ = ["Localization", "Localizer", "Region"]


def __getattr__(name: str) -> Any:
    # On demand, so that what needs no network starts without torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from declip_pl.inference import localizer

    return getattr(localizer, name)
