"""The preflight check: all that is wrong with a data set, at once and by file name."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from declip_pl.data.collector import no_collection
from declip_pl.data.index import DataIndex
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
from declip_pl.data.masks import MaskRule, mostly_fake, wholly_fake
from declip_pl.data.stamps import files_of
from declip_pl.errors import UserError

SHOWN = 20
"""Findings of one kind that are printed before the rest is only counted."""


@dataclass
class Report:
    """What a check found.

    Attributes:
        images: Files that were looked at.
        decoded: Those of them that were decoded, as they were not known to be as they were when
            an earlier check decoded them.
        errors: What would spoil training or evaluation, one line each.
        warnings: What is handled but deserves a look, one line each.
    """

    images: int = 0
    decoded: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the findings as text, at most :data:`SHOWN` lines of each kind."""
        same = self.images - self.decoded
        lines = [f"{self.decoded} files decoded" + f", {same} unchanged since" * (same > 0)]
        for kind, found in (("error", self.errors), ("warning", self.warnings)):
            lines += [f"{kind}: {line}" for line in found[:SHOWN]]
            lines += [f"... and {len(found) - SHOWN} more {kind}s"] if len(found) > SHOWN else []
        return "\n".join(lines)

    def raise_errors(self) -> None:
        """Raise a UserError that lists everything if there is any error."""
        if self.errors:
            raise UserError(f"the data are not usable ({len(self.errors)} errors):\n{self}")


class _Finding(NamedTuple):
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
    content: str = ""


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


@no_collection()
def check_data(
    layout: Layout,
    wanted: Wanted,
    rule: MaskRule,
    index: DataIndex,
    rule_key: str = "",
    progress: bool = True,
) -> Report:
    """Decode every file of some generators and report everything that is wrong.

    Files that the index knows are not decoded again.

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
        index: What is known of the files; what is read is added to it.
        rule_key: The rule in words; without them the masks of a layout's own reader are always
            decoded.
        progress: Show a progress bar.
    """
    report = Report()
    places: list[tuple[Split, Sample]] = []
    for split, names in wanted.items():
        for name in names:
            found, problems = find_samples(layout, split, name)
            places += [(split, sample) for sample in found]
            report.errors += problems
    checked = _check_all(places, _Checker(index, rule, rule_key), progress)
    report.images = len(set(files_of(sample for _, sample in places)))
    report.decoded = len(index.decoded)
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


def _check_all(
    places: Sequence[tuple[Split, Sample]], check: "_Checker", progress: bool
) -> list[Checked]:
    """Return what each sample gave; what has to be decoded is decoded on all cores."""
    known = [check.knows(sample) for _, sample in places]
    left = [sample for (_, sample), there in zip(places, known, strict=True) if not there]
    with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter lock
        bar = tqdm(
            pool.map(check, left),
            "checking data",
            len(left),
            disable=None if progress and left else True,
        )
        fresh = iter(bar)
        return [
            (split, sample, check(sample) if there else next(fresh))
            for (split, sample), there in zip(places, known, strict=True)
        ]


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
    seen: dict[str, tuple[Split, Sample]] = {}
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


class _Checker:
    """Checks one sample.

    Args:
        index: What is known of the files.
        rule: Which pixels of a mask are fake.
        rule_key: The same in words.
    """

    def __init__(self, index: DataIndex, rule: MaskRule, rule_key: str) -> None:
        self.index = index
        self.rule = rule
        self.rule_key = rule_key

    def knows(self, sample: Sample) -> bool:
        """Return whether nothing has to be decoded for it."""
        mask = self._mask(sample)
        return self.index.knows_photo(sample.image) and (
            mask is None or self.index.knows_mask(mask, self._said(sample))
        )

    def __call__(self, sample: Sample) -> _Finding:
        """Return what is found."""
        try:
            photo = self.index.photo(sample.image)
        except UserError as error:
            return _Finding(error=str(error))
        path = self._mask(sample)
        if path is None:
            return _Finding(content=photo.pixels)
        try:
            mask = self.index.mask(path, sample.mask_rule or self.rule, self._said(sample))
        except UserError as error:
            return _Finding(error=str(error), content=photo.pixels)
        warnings = []
        if mask.levels:
            warnings.append(f"{path}: not binary, {mask.levels} grey values; cut half-way")
        if not mask.fake_share:
            warnings.append(f"{path}: no fake pixel")
        # One pixel of rounding in either size is no other aspect ratio.
        if abs(mask.height * photo.width - mask.width * photo.height) > max(
            photo.height, photo.width
        ):
            sides = (mask.width, mask.height)
            warnings.append(f"{path}: {sides} px, another aspect ratio than its image")
        return _Finding(None, tuple(warnings), mask.fake_share, photo.pixels)

    @staticmethod
    def _mask(sample: Sample) -> Path | None:
        """Return the mask that has to be read; none of what is fake as a whole."""
        return None if sample.mask_rule is wholly_fake else sample.mask

    def _said(self, sample: Sample) -> str:
        """Return in words how a sample's mask is read; "" where there are none."""
        if sample.mask_rule is None:
            return self.rule_key
        return "" if callable(sample.mask_rule) else f"{sample.mask_rule} is fake"
