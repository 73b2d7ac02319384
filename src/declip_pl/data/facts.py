"""What is known of a published data set, in one place for the code and for the documentation."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataSetFacts:
    """A published data set, or a form in which any data set may come.

    What could not be found out is empty; nothing here is guessed.

    Attributes:
        title: What papers call it.
        source: Who made it, and with which paper.
        layout: How its folder looks, in a few words.
        masks: Which pixels of a mask are fake, in words.
        link: Where it is to be had.
        licence: Under which terms, as its authors say.
        access: What has to be done to get it, beyond following the link.
        splits: Which splits it has, or how it is split here.
        counts: Photos of each generator and of ``real`` in all of it.
        defects: What is known to be wrong with it, one line each.
        traps: What is easily got wrong when it is read, and how it is read here, one line each.
    """

    title: str
    source: str
    layout: str
    masks: str
    link: str = ""
    licence: str = ""
    access: str = ""
    splits: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    defects: tuple[str, ...] = ()
    traps: tuple[str, ...] = ()
