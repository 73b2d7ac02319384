"""The preflight check: all that is wrong with a data set, at once and by file name."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from declip_pl.data.images import read_photo
from declip_pl.data.layout import (
    REAL,
    SPLITS,
    Layout,
    Sample,
    Split,
    facts_of,
    find_samples,
    left_out_line,
    notices,
)
from declip_pl.data.masks import (
    MaskRule,
    is_fake,
    mostly_fake,
    read_grey,
    read_mask,
    wholly_fake,
)
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
    """What one sample gave.

    Attributes:
        error: What would spoil training.
        warnings: What deserves a look.
        fake_share: Share of fake pixels in its mask, in [0, 1]; None without a mask, and of what
            is fake as a whole.
        content: Hash of the photo's pixels; empty if it can't be read.
    """

    error: str | None = None
    warnings: tuple[str, ...] = ()
    fake_share: float | None = None
    content: bytes = b""


Checked = tuple[Split, Sample, _Finding]


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


def counted(layout: Layout) -> list[str]:
    """Return a line for each generator of which a published set has another number of photos.

    Generators that are not there at all are one line: a part of a set may have been left away.
    """
    facts = facts_of(layout)
    if not facts or not facts.counts:
        return []
    found = Counter(
        s.generator for split in SPLITS for s in layout.samples(split) if s.problem is None
    )
    lines = [
        f"{facts.title}: photos of {name}: {found[name]:,} can be used, {count:,} are expected"
        for name, count in facts.counts.items()
        if found[name] and found[name] != count
    ]
    absent = [name for name in facts.counts if not found[name]]
    return lines + [f"{facts.title}: no photo of {', '.join(absent)}"] * bool(absent)


def check_data(layout: Layout, wanted: Wanted, rule: MaskRule, progress: bool = True) -> Report:
    """Decode every file of some generators and report everything that is wrong.

    Errors: a photo without mask or the reverse, files that can't be decoded to the end, masks that
    say more than black and white, splits without images that are wanted. Warnings: what was left
    out by its name, generators of which most is fake (the masks may be inverted), masks with
    softened edges (they are cut half-way), without fake pixels, or of another aspect ratio than
    their image; photos that are in two splits or were made of one that is in another split, fakes
    identical to a real photo, and what a layout had to guess.

    Args:
        layout: The data set.
        wanted: What to look at.
        rule: Which pixels of a mask are fake.
        progress: Show a progress bar.
    """
    report = Report()
    places: list[tuple[Split, Sample]] = []
    for split, names in wanted.items():
        for name in names:
            found, problems = find_samples(layout, split, name)
            places += [(split, sample) for sample in found]
            report.errors += problems
    samples = [sample for _, sample in places]
    with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter lock
        findings = pool.map(partial(_check_sample, rule), samples)
        bar = tqdm(findings, "checking data", len(samples), disable=None if progress else True)
        checked = [(*place, finding) for place, finding in zip(places, bar, strict=True)]
    report.images = len(samples) + sum(sample.mask is not None for sample in samples)
    named = list(dict.fromkeys(name for names in wanted.values() for name in names))
    left_out = left_out_line(layout, named)
    report.warnings += [left_out] if left_out else []
    report.warnings += notices(layout)
    _add_shares(report, layout, checked, rule)
    for _, _, finding in checked:
        report.errors += [finding.error] if finding.error else []
        report.warnings += finding.warnings
    report.warnings += [*_leaks(checked), *_shared_sources(checked), *_unchanged(checked)]
    return report


def _add_shares(report: Report, layout: Layout, checked: Sequence[Checked], rule: MaskRule) -> None:
    """Add what the shares of fake pixels say of whole generators."""
    shares: dict[str, list[float]] = defaultdict(list)
    for _, sample, finding in checked:
        if finding.fake_share is not None:
            shares[sample.generator].append(finding.fake_share)
    found = (mostly_fake(name, float(np.mean(part)), rule) for name, part in shares.items())
    report.warnings += filter(None, found)
    if shares and not any(any(part) for part in shares.values()):
        meaning = "by the layout's read_mask" if callable(rule) else f"{rule} = fake"
        report.errors.append(f"{layout.root}: no mask has a single fake pixel ({meaning})")


def _leaks(checked: Sequence[Checked]) -> Iterator[str]:
    """Yield a line for each photo whose pixels are also in an earlier split."""
    seen: dict[bytes, tuple[Split, Sample]] = {}
    for split, sample, finding in sorted(checked, key=lambda item: SPLITS.index(item[0])):
        if not finding.content:
            continue
        there, first = seen.setdefault(finding.content, (split, sample))
        if there != split:
            yield f"{sample.image}: in {split}, the same pixels as {first.image} in {there}"


def _shared_sources(checked: Sequence[Checked]) -> Iterator[str]:
    """Yield a line for each source photo of which there are photos in several splits."""
    places: dict[str, Counter[Split]] = defaultdict(Counter)
    for split, sample, _ in checked:
        if sample.source:
            places[sample.source][split] += 1
    for source, splits in places.items():
        if len(splits) > 1:
            found = ", ".join(f"{splits[split]} in {split}" for split in SPLITS if splits[split])
            yield f"source photo {source}: {found}"


def _unchanged(checked: Sequence[Checked]) -> Iterator[str]:
    """Yield a line for each fake whose pixels are those of a real photo."""
    reals = {f.content: s for _, s, f in checked if s.generator == REAL and f.content}
    for _, sample, finding in checked:
        if sample.generator != REAL and finding.content in reals:
            real = reals[finding.content].image
            yield f"{sample.image}: a fake with the same pixels as the real {real}"


def _check_sample(rule: MaskRule, sample: Sample) -> _Finding:
    try:
        photo = read_photo(sample.image)
    except UserError as error:
        return _Finding(error=str(error))
    content = _content(photo)
    if sample.mask is None or sample.mask_rule is wholly_fake:
        return _Finding(content=content)
    own = sample.mask_rule or rule
    try:
        if callable(own):
            fake, softened = read_mask(sample.mask, own), 0
        else:
            grey = read_grey(sample.mask)
            fake, softened = is_fake(grey, own), _softened(grey)
    except UserError as error:
        return _Finding(error=str(error), content=content)
    warnings = []
    if softened:
        warnings.append(f"{sample.mask}: not binary, {softened} grey values; cut half-way")
    if not fake.any():
        warnings.append(f"{sample.mask}: no fake pixel")
    # One pixel of rounding in either size is no other aspect ratio.
    height, width = photo.shape[:2]
    if abs(fake.shape[0] * width - fake.shape[1] * height) > max(height, width):
        warnings.append(
            f"{sample.mask}: {fake.shape[::-1]} px, another aspect ratio than its image"
        )
    return _Finding(None, tuple(warnings), float(fake.mean()), content)


def _content(photo: NDArray[np.uint8]) -> bytes:
    """Return a hash of a photo's pixels, the same whatever file they are stored in."""
    digest = hashlib.sha256(str(photo.shape).encode())
    digest.update(photo.data)
    return digest.digest()


def _softened(grey: NDArray[np.uint8]) -> int:
    """Return how many grey values a mask has, or 0 if it is black and white."""
    return 0 if np.isin(grey, (0, 255)).all() else len(np.unique(grey))
