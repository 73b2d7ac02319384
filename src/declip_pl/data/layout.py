"""Data layouts: which generators a data set has, and which files belong to a split.

A layout is a class with two methods and an attribute ``polarity``, or a method ``read_mask`` in its
place. ``dolos`` is the paper's:

    ROOT/fake/<generator>/images/{train,valid,test}/NAME.*
    ROOT/fake/<generator>/masks/{train,valid,test}/NAME.*     paired by relative path, any suffix
    ROOT/real/{train,valid,test}/NAME.*
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
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

FORGERIES = "forgeries"
"""Stands where a generator's name stands, for photos that were forged without one."""

ALL, ALL_BUT, NONE = "all", "all-but-", "none"
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
        polarity: Which grey value of its mask means fake, where it is not the data set's to say.
    """

    name: str
    image: Path
    mask: Path | None
    generator: str = ""
    problem: str | None = None
    polarity: Polarity | None = None


class Layout(Protocol):
    """A data set on disk.

    Where masks are no pictures in black and white, a method ``read_mask(path)`` in place of
    ``polarity`` reads them: from a file to ``[H, W]`` bool, True = fake, upright. A layout that
    walks folders may have a method ``left_out(generators)`` that lists the files it left out for
    these (``real`` among them), which are then counted and named.

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
        self._left_out: dict[str, list[Path]] = defaultdict(list)

    def generators(self) -> list[str]:
        """Return the names of the folders under ``fake/``, sorted."""
        return subfolders(self.root / "fake")

    def samples(self, split: Split) -> list[Sample]:
        """Return the photos of a split, those without a partner with their problem."""
        if split not in self._samples:
            found = [sample for name in self.generators() for sample in self._fakes(name, split)]
            self._samples[split] = found + self._reals(split)
        return self._samples[split]

    def left_out(self, generators: Sequence[str]) -> list[Path]:
        """Return what lies in the folders of some generators (or ``real``) and is no photo."""
        for split in SPLITS:
            self.samples(split)
        return sorted(path for name in set(generators) for path in self._left_out[name])

    def _reals(self, split: Split) -> list[Sample]:
        photo_of, problems = self._by_stem(REAL, self.root / REAL / split)
        found = [Sample(stem, path, None, REAL) for stem, path in photo_of.items()]
        return found + [Sample("", path, None, REAL, text) for path, text in problems]

    def _fakes(self, name: str, split: Split) -> list[Sample]:
        images, masks = (self.root / "fake" / name / part / split for part in ("images", "masks"))
        photo_of, unpaired = self._by_stem(name, images)
        mask_of, more = self._by_stem(name, masks)
        problems = [*unpaired, *more]
        for stem in photo_of.keys() - mask_of:
            problems.append((photo_of[stem], f"{photo_of[stem]}: no mask at {masks / stem}.*"))
        for stem in mask_of.keys() - photo_of:
            problems.append((mask_of[stem], f"{mask_of[stem]}: no image at {images / stem}.*"))
        pairs = sorted(photo_of.keys() & mask_of)
        found = [Sample(stem, photo_of[stem], mask_of[stem], name) for stem in pairs]
        return found + [Sample("", path, None, name, text) for path, text in sorted(problems)]

    def _by_stem(
        self, generator: str, folder: Path
    ) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
        """Return a folder's images by relative path without suffix, and what can't be used."""
        found: dict[str, Path] = {}
        below = walk(folder)
        self._left_out[generator] += below.left_out
        problems = [(path, f"{path}: a link to nothing") for path in below.to_nothing]
        for path in below.photos:
            stem = path.relative_to(folder).with_suffix("").as_posix()
            there = found.setdefault(stem, path)
            if there != path:
                text = f"{path}: the same name as {there} but for its suffix"
                problems.append((path, text))
        return found, problems


def build_layout(layout: Spec, root: Path) -> Layout:
    """Return the layout of that name on a folder.

    Raises:
        UserError: If there is none of that name, or the folder is not laid out like it.
    """
    if not root.expanduser().is_dir():
        raise UserError(f"there is no folder {root}; {DOLOS_HELP}")
    made: Layout = LAYOUTS.make(layout, root.expanduser())
    for name in made.generators():
        check_generator(name, str(root))
    return made


def check_generator(name: str, where: str) -> str:
    """Return a name that can be a generator's.

    Raises:
        UserError: If it can't, for it means something else; ``where`` begins the error.
    """
    check_name(name, f"a generator's name (in {where})")
    if name in (REAL, FORGERIES, ALL, NONE) or name.startswith(ALL_BUT) or "+" in name:
        raise UserError(f"{where}: {name!r} is no generator's name; rename it")
    return name


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
        own = [sample for sample in everything if sample.generator == name]
        found += [sample for sample in own if sample.problem is None]
        problems += [sample.problem for sample in own if sample.problem is not None]
        if not any(sample.problem is None for sample in own):
            problems.append(f"{layout.root}: no {split} photo of {name}; {DOLOS_HELP}")
    return found, problems


def has_reals(layout: Layout, split: Split) -> bool:
    """Return whether a split has untouched photos."""
    return any(sample.generator == REAL for sample in layout.samples(split))


def left_out_line(layout: Layout, generators: Sequence[str]) -> str:
    """Return one line on the files that a layout left out for some generators; "" if none."""
    listed: Callable[[Sequence[str]], list[Path]] | None = getattr(layout, "left_out", None)
    files = listed(generators) if listed else []
    return describe_left_out(layout.root, files) if files else ""


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
