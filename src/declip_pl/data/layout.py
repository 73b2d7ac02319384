"""Data layouts: which generators a data set has, and which files belong to a split.

A layout is a class with two methods and an attribute ``polarity``, or a method ``read_mask`` in its
place. ``dolos`` is the paper's:

    ROOT/fake/<generator>/images/{train,valid,test}/NAME.*
    ROOT/fake/<generator>/masks/{train,valid,test}/NAME.*     paired by relative path, any suffix
    ROOT/real/{train,valid,test}/NAME.*
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from declip_pl.data.folders import describe_left_out, subfolders, walk
from declip_pl.data.masks import MaskReader, MaskRule, Polarity
from declip_pl.errors import UserError
from declip_pl.names import check_name
from declip_pl.parts import Registry, Spec, as_text, code_of, read_spec

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

REAL = "real"
"""Stands where a generator's name stands, for untouched photos."""

ALL, ALL_BUT = "all", "all-but-"
"""Words that choose generators."""

SOURCES = ("celebahq", "ffhq")
"""The parts of Dolos."""

DOLOS_HELP = (
    "expected Dolos' layout: ROOT/fake/<generator>/{images,masks}/{train,valid,test}/ and "
    "ROOT/real/{train,valid,test}/"
)

LAYOUTS: Registry[Any] = Registry("data layout")
"""Layouts by name; each is built from the data set's folder."""


@dataclass(frozen=True)
class Sample:
    """A photo, and the mask that says which of its pixels are fake.

    Attributes:
        name: Of the photo, the same for all that was made of it: in Dolos' layout its path inside
            the split, without suffix.
        image: File of the photo.
        mask: File of the mask; None for an untouched photo.
        generator: What manipulated it, or ``real``.
        problem: Why it can't be used, if so.
        left_out: Whether it is no sample but a file that the layout came by and left out, to be
            counted and named.
    """

    name: str
    image: Path
    mask: Path | None
    generator: str = ""
    problem: str | None = None
    left_out: bool = False


class Layout(Protocol):
    """A data set on disk.

    Where masks are no pictures in black and white, a method ``read_mask(path)`` in place of
    ``polarity`` reads them: from a file to ``[H, W]`` bool, True = fake, upright.

    Attributes:
        root: Its folder.
        polarity: Which grey value of its masks means fake.
    """

    root: Path
    polarity: Polarity

    def generators(self) -> list[str]:
        """Return the names of the generators, without ``real``."""

    def samples(self, split: Split) -> list[Sample]:
        """Return the photos of a split, of all generators and the real ones."""


@LAYOUTS.register("dolos")
class DolosLayout:
    """Dolos, and everything laid out like it.

    Args:
        root: Folder that holds ``fake/`` and ``real/``, or the folder above (``dolos_data``).

    Raises:
        UserError: If it holds neither.
    """

    polarity: Polarity = "black"

    def __init__(self, root: Path) -> None:
        self.root = source_root(root)
        self._samples: dict[str, list[Sample]] = {}

    def generators(self) -> list[str]:
        """Return the names of the folders under ``fake/``, sorted."""
        return subfolders(self.root / "fake")

    def samples(self, split: Split) -> list[Sample]:
        """Return the photos of a split, those without a partner with their problem."""
        if split not in self._samples:
            found = [sample for name in self.generators() for sample in self._fakes(name, split)]
            self._samples[split] = found + self._reals(split)
        return self._samples[split]

    def _reals(self, split: Split) -> list[Sample]:
        files = _by_stem(self.root / REAL / split)
        found = [Sample(stem, path, None, REAL) for stem, path in files.by_stem.items()]
        return found + files.unusable(REAL)

    def _fakes(self, name: str, split: Split) -> list[Sample]:
        images, masks = (self.root / "fake" / name / part / split for part in ("images", "masks"))
        photos, truth = _by_stem(images), _by_stem(masks)
        photo_of, mask_of = photos.by_stem, truth.by_stem
        for stem in photo_of.keys() - mask_of:
            text = f"{photo_of[stem]}: no mask at {masks / stem}.*"
            photos.problems.append((photo_of[stem], text))
        for stem in mask_of.keys() - photo_of:
            text = f"{mask_of[stem]}: no image at {images / stem}.*"
            truth.problems.append((mask_of[stem], text))
        pairs = sorted(photo_of.keys() & mask_of)
        found = [Sample(stem, photo_of[stem], mask_of[stem], name) for stem in pairs]
        return found + photos.unusable(name) + truth.unusable(name)


def build_layout(layout: Spec, root: Path) -> Layout:
    """Return the layout of that name on a folder.

    Raises:
        UserError: If there is none of that name, or the folder is not laid out like it.
    """
    if not root.expanduser().is_dir():
        raise UserError(f"there is no folder {root}; {DOLOS_HELP}")
    made: Layout = LAYOUTS.make(layout, root.expanduser())
    for name in made.generators():
        check_name(name, f"a generator's name (in {root})")
        if name in (REAL, ALL) or name.startswith(ALL_BUT) or "+" in name:
            raise UserError(f"{root}: {name!r} is no generator's name; rename it")
    return made


def source_root(root: Path, source: str | None = None) -> Path:
    """Return the folder that holds ``fake/``: ``root`` itself or ``root/source``.

    Args:
        root: A source, or the folder above several.
        source: One of :data:`SOURCES`; by default the first, where there is a choice.

    Raises:
        UserError: If there is no ``fake/``, or ``root`` is another source than the one named.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; {DOLOS_HELP}")
    inner = root / (source or SOURCES[0])
    if (root / "fake").is_dir():
        if source and root.name in SOURCES and root.name != source:
            raise UserError(f"{root} is not {source}; name the folder above it, or {source}'s own")
        return root
    if (inner / "fake").is_dir():
        return inner
    raise UserError(f"neither {root} nor {inner} holds a folder 'fake'; {DOLOS_HELP}")


def is_stand_in(root: Path) -> bool:
    """Return whether a folder is the built-in ``mini``, not a published data set."""
    return (root / "mini.json").is_file()


def select_generators(layout: Layout, choice: str) -> list[str]:
    """Resolve a choice such as ``ldm``, ``ldm+lama``, ``all`` or ``all-but-ldm``.

    Raises:
        UserError: If there is no generator of that name, or none is left.
    """
    known = layout.generators()
    left_out = choice.startswith(ALL_BUT)
    named = [] if choice == ALL else choice.removeprefix(ALL_BUT).split("+")
    for name in named:
        if name not in known:
            raise UserError(
                f"there is no generator {name!r} in {layout.root}; found: {', '.join(known)} "
                "(join several by '+', or write all or all-but-NAME)"
            )
    chosen = named if named and not left_out else [name for name in known if name not in named]
    if not chosen:
        raise UserError(f"{choice!r} leaves no generator in {layout.root}")
    return list(dict.fromkeys(chosen))


def samples(layout: Layout, split: Split, *generators: str) -> list[Sample]:
    """List the photos of some generators (or ``real``) in a split, in the order of the names.

    Raises:
        UserError: If one has none, or a photo or mask lacks its partner (all are named).
    """
    found, problems = find_samples(layout, split, *generators)
    if problems:
        raise UserError("\n".join(problems))
    return found


def find_samples(layout: Layout, split: Split, *generators: str) -> tuple[list[Sample], list[str]]:
    """List samples as :func:`samples` does, with one line for each problem in place of an error."""
    everything = layout.samples(split)
    found: list[Sample] = []
    problems: list[str] = []
    for name in generators:
        own = [s for s in everything if s.generator == name and not s.left_out]
        found += [sample for sample in own if sample.problem is None]
        problems += [sample.problem for sample in own if sample.problem is not None]
        if not any(sample.problem is None for sample in own):
            problems.append(f"{layout.root}: no {split} photo of {name}; {DOLOS_HELP}")
    return found, problems


def has_reals(layout: Layout, split: Split) -> bool:
    """Return whether a split has untouched photos."""
    return any(s.generator == REAL and not s.left_out for s in layout.samples(split))


def left_out_line(layout: Layout, generators: Sequence[str]) -> str:
    """Return one line on the files that a layout left out for some generators; "" if none."""
    found = {
        sample.image
        for split in SPLITS
        for sample in layout.samples(split)
        if sample.left_out and sample.generator in generators
    }
    return describe_left_out(layout.root, sorted(found)) if found else ""


def mask_rule(layout: Layout, polarity: Polarity | None = None) -> MaskRule:
    """Return what says which pixels of a layout's masks are fake.

    Args:
        layout: The data set.
        polarity: What its user says, in place of the layout's polarity or own reader.
    """
    own: MaskReader | None = getattr(layout, "read_mask", None)
    return polarity or own or layout.polarity


def mask_rule_key(rule: MaskRule, layout: Spec) -> str:
    """Return one line that tells apart how masks are read, for keys: a user's code included."""
    if not callable(rule):
        return f"{rule} is fake"
    code = code_of(LAYOUTS.find(read_spec(layout)[0]))
    return f"read by {as_text(layout)}" + (f" code {code}" if code else "")


def file_list_hash(root: Path, files: Sequence[Sample]) -> str:
    """Return a SHA-256 over the relative paths and sizes of all files of a data set."""
    digest = hashlib.sha256()
    for sample in files:
        for path in filter(None, (sample.image, sample.mask)):
            relative = Path(os.path.relpath(path, root)).as_posix()
            digest.update(os.fsencode(f"{relative}\0{path.stat().st_size}\n"))
    return digest.hexdigest()


@dataclass(frozen=True)
class _Files:
    """The photos of a folder by relative path without suffix, and what else is there."""

    by_stem: dict[str, Path]
    problems: list[tuple[Path, str]]
    left_out: list[Path]

    def unusable(self, generator: str) -> list[Sample]:
        """Return what is no sample as the layout names it."""
        problems = [Sample("", path, None, generator, text) for path, text in sorted(self.problems)]
        return problems + [Sample("", p, None, generator, left_out=True) for p in self.left_out]


def _by_stem(folder: Path) -> _Files:
    below = walk(folder)
    files = _Files({}, [(p, f"{p}: a link to nothing") for p in below.to_nothing], below.left_out)
    for path in below.photos:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        there = files.by_stem.setdefault(stem, path)
        if there != path:
            text = f"{path}: the same name as {there} but for its suffix"
            files.problems.append((path, text))
    return files
