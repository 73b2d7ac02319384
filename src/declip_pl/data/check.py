"""The preflight check: all that is wrong with a data set, at once and by file name."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tqdm import tqdm

from declip_pl.data.images import Polarity, is_fake, read_grey, read_photo
from declip_pl.data.layout import REAL, SPLITS, Layout, Sample, Split, find_samples
from declip_pl.errors import UserError

SHOWN = 20
"""Findings of one kind that are printed before the rest is only counted."""


@dataclass
class Report:
    """What a check found.

    Attributes:
        images: Files decoded.
        errors: What would spoil training or evaluation, one line each.
        warnings: What is handled but deserves a look, one line each.
    """

    images: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the findings as text, at most :data:`SHOWN` lines of each kind."""
        lines = [f"{self.images} files decoded"]
        for kind, found in (("error", self.errors), ("warning", self.warnings)):
            lines += [f"{kind}: {line}" for line in found[:SHOWN]]
            lines += [f"... and {len(found) - SHOWN} more {kind}s"] if len(found) > SHOWN else []
        return "\n".join(lines)

    def raise_errors(self) -> None:
        """Raise a UserError that lists everything if there is any error."""
        if self.errors:
            raise UserError(f"the data are not usable ({len(self.errors)} errors):\n{self}")


@dataclass(frozen=True)
class _Finding:
    error: str | None = None
    warnings: tuple[str, ...] = ()
    fake_share: float | None = None


Wanted = Mapping[Split, Sequence[str]]
"""The generators (or ``real``) that each split is to have photos of."""


def present(layout: Layout, names: Sequence[str]) -> tuple[Wanted, list[str]]:
    """Return which splits have photos of which generators, and a line for each that lacks one.

    A generator without photos in any split is wanted in all of them.

    Args:
        layout: The data set.
        names: Generators, or ``real``.
    """
    has = {split: {sample.generator for sample in layout.samples(split)} for split in SPLITS}
    nowhere = {name for name in names if not any(name in found for found in has.values())}
    wanted = {split: [n for n in names if n in has[split] or n in nowhere] for split in SPLITS}
    lacks = [
        f"{layout.root}: no {split} photo of {name}: "
        + ("it can't be tested on" if split == "test" else "it can be tested on, not trained on")
        for name in names
        for split in SPLITS
        if name != REAL and name not in wanted[split]
    ]
    return wanted, lacks


def check_data(layout: Layout, wanted: Wanted, polarity: Polarity, progress: bool = True) -> Report:
    """Decode every file of some generators and report everything that is wrong.

    Errors: a photo without mask or the reverse, files that can't be decoded to the end, splits
    without images that are wanted. Warnings: masks that look inverted (more than half of all
    pixels fake), masks that are not binary (they are cut half-way), masks without fake pixels,
    masks of another aspect ratio than their image.

    Args:
        layout: The data set.
        wanted: What to look at.
        polarity: Which grey value means fake in the masks.
        progress: Show a progress bar.
    """
    report = Report()
    samples: list[Sample] = []
    for split, names in wanted.items():
        for name in names:
            found, problems = find_samples(layout, split, name)
            samples += found
            report.errors += problems
    shares: list[float] = []
    with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter lock
        findings = pool.map(partial(_check_sample, polarity), samples)
        for finding in tqdm(findings, "checking data", len(samples), disable=not progress):
            report.errors += [finding.error] if finding.error else []
            report.warnings += finding.warnings
            shares += [finding.fake_share] if finding.fake_share is not None else []
    report.images = len(samples) + sum(sample.mask is not None for sample in samples)
    if shares and np.mean(shares) > 0.5:  # noqa: PLR2004 - more fake than real
        report.warnings.insert(0, inverted(str(layout.root), float(np.mean(shares)), polarity))
    if shares and not any(shares):
        report.errors.append(f"{layout.root}: no mask has a single fake pixel ({polarity} = fake)")
    return report


def inverted(what: str, share: float, polarity: Polarity) -> str:
    """Return the warning that masks may be inverted, and the switch for that."""
    other = "black" if polarity == "white" else "white"
    return (
        f"{what}: {100 * share:.0f} % of all pixels are fake if {polarity} means fake; if the "
        f"masks are inverted, say --polarity {other} (POLARITY={other}, --data.polarity {other})"
    )


def _check_sample(polarity: Polarity, sample: Sample) -> _Finding:
    mask = sample.mask
    try:
        height, width = read_photo(sample.image).shape[:2]
        if mask is None:
            return _Finding()
        grey = read_grey(mask)
    except UserError as error:
        return _Finding(error=str(error))
    if 0 < grey.max() < 128:  # noqa: PLR2004 - half of 255
        return _Finding(error=f"{mask}: grey values up to {grey.max()}; expected 0 and 255")
    share = float(is_fake(grey, polarity).mean())
    warnings = []
    if not np.isin(grey, (0, 255)).all():
        warnings.append(f"{mask}: not binary, {len(np.unique(grey))} grey values; cut half-way")
    if share == 0:
        warnings.append(f"{mask}: no fake pixel")
    # One pixel of rounding in either size is no other aspect ratio.
    if abs(grey.shape[0] * width - grey.shape[1] * height) > max(height, width):
        warnings.append(f"{mask}: {grey.shape[::-1]} px, another aspect ratio than its image")
    return _Finding(warnings=tuple(warnings), fake_share=share)
