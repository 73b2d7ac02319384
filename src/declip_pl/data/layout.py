"""Data layouts: which generators a data set has, and which files belong to a split.

A layout is a class with two methods and an attribute ``polarity``, or a method ``read_mask`` in its
place. Those that ship are in :mod:`declip_pl.data.layouts`, ``dolos`` among them, the paper's.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from declip_pl.data.collector import no_collection
from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import describe_left_out
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

LIST_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")
"""Suffixes of files that list a data set."""

LAYOUTS: Registry[Any] = Registry("data layout", home="declip_pl.data.layouts")
"""Layouts by name; each is built from the data set's folder or file."""


@dataclass(frozen=True)
class Sample:
    """A photo, and the mask that says which of its pixels are fake.

    Attributes:
        name: Of the photo, the same for all that was made of it, but in a test set only once: in
            Dolos' layout its path inside the split, without suffix.
        image: File of the photo.
        mask: File of the mask; None for an untouched photo. Of one that is fake as a whole it is
            the photo itself, read by :func:`declip_pl.data.masks.wholly_fake`.
        generator: What manipulated it, or ``real``.
        problem: Why it can't be used, if so.
        mask_rule: Which pixels of its mask are fake, where it is not the data set's to say.
        source: The photo that it was made of, by a name of its own in the whole data set; empty
            where the data set does not tell.
    """

    name: str
    image: Path
    mask: Path | None
    generator: str = ""
    problem: str | None = None
    mask_rule: MaskRule | None = None
    source: str = ""


class Layout(Protocol):
    """A data set on disk.

    Where masks are no pictures in black and white, a method ``read_mask(path)`` in place of
    ``polarity`` reads them: from a file to ``[H, W]`` bool, True = fake, upright. A layout that
    walks folders may have a method ``left_out(generators)`` that lists the files it left out for
    these (``real`` among them), which are then counted and named. One that has to guess may have a
    method ``notices()`` that says so, a line for each guess; that of a published data set may have
    an attribute ``facts``, which the check compares with what it finds.

    Attributes:
        root: Its folder or file.
        polarity: Which grey value of its masks means fake.
    """

    root: Path
    polarity: Polarity

    def generators(self) -> list[str]:
        """Return the names of the generators, without ``real``."""

    def samples(self, split: Split) -> list[Sample]:
        """Return the photos of a split, of all generators and the real ones."""


def build_layout(layout: Spec, root: Path) -> Layout:
    """Return the layout of that name on a folder, or on the file that lists a data set.

    Raises:
        UserError: If there is none of that name, or the folder is not laid out like it.
    """
    if not root.expanduser().exists():
        kind = "file" if root.suffix.lower() in LIST_SUFFIXES else "folder"
        help_ = expected(LAYOUTS.find(read_spec(layout)[0]))
        raise UserError(f"there is no {kind} {root}{help_}")
    made: Layout = LAYOUTS.make(layout, root.expanduser())
    for name in made.generators():
        check_generator(name, str(root))
    return made


def expected(layout: Any) -> str:
    """Return the end of a message: how a data set of this layout looks, where that is known."""
    facts = facts_of(layout)
    return f"; expected {facts.layout}" if facts else ""


def check_generator(name: str, where: str) -> str:
    """Return a name that can be a generator's.

    Raises:
        UserError: If it can't, for it means something else; ``where`` begins the error.
    """
    check_name(name, f"a generator's name (in {where})")
    if name in (REAL, FORGERIES, ALL, NONE) or name.startswith(ALL_BUT) or "+" in name:
        raise UserError(f"{where}: {name!r} is no generator's name; rename it")
    return name


def facts_of(layout: Any) -> DataSetFacts | None:
    """Return what is known of the published data set that a layout is for."""
    facts: DataSetFacts | None = getattr(layout, "facts", None)
    return facts


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


@no_collection()
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
            problems.append(f"{layout.root}: no {split} photo of {name}{expected(layout)}")
        if split == "test":  # scores are kept by name
            problems += _repeated(layout, name, own)
    return found, problems


def _repeated(layout: Layout, generator: str, own: Sequence[Sample]) -> list[str]:
    """Return a line for each name that several test photos of a generator have."""
    counts = Counter(sample.name for sample in own if sample.problem is None)
    return [
        f"{layout.root}: {count} test photos of {generator} are called {name!r}; give each its own "
        "name"
        for name, count in counts.items()
        if count > 1
    ]


def has_reals(layout: Layout, split: Split) -> bool:
    """Return whether a split has untouched photos."""
    return any(sample.generator == REAL for sample in layout.samples(split))


def left_out_line(layout: Layout, generators: Sequence[str]) -> str:
    """Return one line on the files that a layout left out for some generators; "" if none."""
    listed: Callable[[Sequence[str]], list[Path]] | None = getattr(layout, "left_out", None)
    files = listed(generators) if listed else []
    return describe_left_out(layout.root, files) if files else ""


def notices(layout: Layout) -> list[str]:
    """Return what a layout guessed, one line each."""
    said: Callable[[], list[str]] | None = getattr(layout, "notices", None)
    return said() if said else []


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
