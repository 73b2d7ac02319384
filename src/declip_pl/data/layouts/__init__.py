"""The data layouts that ship: one small class for each benchmark of the field, and manifests.

Each file registers its layouts by name when this room is imported, which happens when a layout is
first asked for. ``declip-pl data info`` lists them.
"""

from declip_pl.data.layouts import (
    autosplice,
    bfree,
    casia,
    cocoglide,
    columbia,
    coverage,
    dolos,
    dso1,
    imd2020,
    imdl,
    manifest,
    nist16,
    opensdi,
    tgif,
)

__all__ = [
    "autosplice",
    "bfree",
    "casia",
    "cocoglide",
    "columbia",
    "coverage",
    "dolos",
    "dso1",
    "imd2020",
    "imdl",
    "manifest",
    "nist16",
    "opensdi",
    "tgif",
]
