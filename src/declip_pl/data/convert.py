"""``declip-pl data convert``: a data set of any layout as Dolos' layout or as a manifest."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from declip_pl.data.folders import is_hidden
from declip_pl.data.images import SUFFIXES, decoding, read_photo
from declip_pl.data.layout import REAL, SPLITS, Sample, Split, build_layout, mask_rule
from declip_pl.data.layouts.manifest import WHOLLY, Row, read_manifest, write_manifest
from declip_pl.data.layouts.opensdi import OPENSDI, Packed, packed
from declip_pl.data.masks import MaskRule, Polarity, read_mask, wholly_fake
from declip_pl.errors import UserError
from declip_pl.files import work_folder, write_text
from declip_pl.parts import Spec, as_text

MANIFESTS = (".csv", ".jsonl")
ABOUT = "converted.json"
"""The file by which a folder is known as made by this command."""
SHOWN = 20
AT_ONCE = 256
"""Photos in memory at once, where they come out of a parquet file."""

Mask = Callable[[], NDArray[np.bool_]]


class UnusableMaskError(UserError):
    """A mask that can't be read; its photo is left out."""


@dataclass(frozen=True)
class Photo:
    """A photo of any data set.

    Attributes:
        split: Where it belongs.
        generator: What made it, or ``real``.
        name: Of its file below the split, without suffix.
        suffix: Of its file.
        source: The photo that it was made of, if the data set tells.
        content: Its file, or that file's content.
        mask: What reads its mask, ``[H, W]`` bool; None for an untouched photo.
        plain: The mask's file and which grey value means fake, where that is all there is to it.
        whole: Whether it is fake as a whole.
    """

    split: Split
    generator: str
    name: str
    suffix: str
    source: str
    content: Path | bytes
    mask: Mask | None
    plain: tuple[Path, str] | None = None
    whole: bool = False


def convert(
    name: Spec,
    source: Path,
    dest: Path,
    copy: bool = False,
    overwrite: bool = False,
    polarity: Polarity | None = None,
) -> None:
    """Lay a data set out as Dolos is, or list it in a manifest.

    Photos are linked, not copied; masks become black (fake) and white PNGs, or stay where they are
    if a manifest can say how they are read. Photos inside parquet files are unpacked. What can't be
    used is named and left out.

    Args:
        name: The layout that it has now (declip-pl data info).
        source: Its folder or file.
        dest: A folder to make, or a manifest: a file .csv or .jsonl.
        copy: Copy photos and masks in place of links and paths.
        overwrite: Replace a folder that this command made before, or a manifest.
        polarity: Which grey value of the masks means fake, in place of the layout's.

    Raises:
        UserError: If there is no such data set, dest is there already, or nothing can be used.
    """
    listed = dest.suffix.lower() in MANIFESTS
    files = dest.with_name(f"{dest.stem}_files") if listed else dest
    inside = dest.resolve().is_relative_to(source.resolve())
    if inside and not (listed and source.is_dir()):
        raise UserError(f"{dest} is the data set or inside of it; name another place")
    for path in (dest, files):
        _check_free(path, overwrite)
    photos, problems, total = _photos(name, source, polarity)
    with work_folder(files, f"converting into {dest}") as work:
        made = work / "made"
        made.mkdir()
        add = partial(_add_to_list, made, files, dest) if listed else partial(_add_to_tree, made)
        rows = _add_all(partial(add, copy=copy), photos, total, problems)
        counts = Counter(row.generator or REAL for row in rows)
        if not rows:
            raise UserError("\n".join([f"{source}: no photo can be used", *problems[:SHOWN]]))
        about = {"layout": as_text(name), "photos": dict(sorted(counts.items()))}
        if any(made.iterdir()):
            write_text(made / ABOUT, json.dumps(about, indent=1) + "\n")
            _put_in_place(made, files, work)
        if listed:
            write_manifest(dest, rows)
    _report(dest, counts, problems, "manifest:" * listed)


def _check_free(path: Path, overwrite: bool) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{path} is there already; name another, or say --overwrite")
    if path.is_file() and path.suffix.lower() in MANIFESTS:
        read_manifest(path, "; what is none is not replaced")
    elif not (path / ABOUT).is_file():
        raise UserError(f"{path} was not made by this command, so it is not replaced; move it away")


def _put_in_place(made: Path, target: Path, work: Path) -> None:
    if target.exists():
        target.rename(work / "before")
    made.rename(target)


def _photos(
    name: Spec, source: Path, polarity: Polarity | None
) -> tuple[Iterator[Photo], list[str], int | None]:
    """Return a data set's photos, what can't be used, and how many there are if that is known."""
    if name == OPENSDI:
        return _unpacked(source), [], None
    layout = build_layout(name, source)
    samples = [(split, sample) for split in SPLITS for sample in layout.samples(split)]
    problems = [sample.problem for _, sample in samples if sample.problem]
    usable = [(split, sample) for split, sample in samples if not sample.problem]
    rule = mask_rule(layout, polarity)
    return (_photo(split, sample, rule) for split, sample in usable), problems, len(usable)


def _photo(split: Split, sample: Sample, rule: MaskRule) -> Photo:
    own = sample.mask_rule or rule
    mask = partial(read_mask, sample.mask, own) if sample.mask else None
    plain = (sample.mask, own) if sample.mask and isinstance(own, str) else None
    return Photo(
        split,
        sample.generator,
        sample.name,
        _suffix(sample.image.suffix),
        sample.source,
        sample.image,
        mask,
        plain,
        own is wholly_fake and sample.mask is not None,
    )


def _unpacked(root: Path) -> Iterator[Photo]:
    for photo in packed(root):
        mask = partial(_packed_mask, photo) if photo.generator != REAL else None
        yield Photo(
            photo.split,
            photo.generator,
            photo.source,
            _suffix(photo.suffix),
            photo.source,
            photo.image,
            mask,
            whole=photo.mask is None and mask is not None,
        )


def _suffix(suffix: str) -> str:
    """Return a suffix by which a file is known as a photo; what it holds is read by its content."""
    return suffix if suffix.lower() in SUFFIXES else ".png"


def _packed_mask(photo: Packed) -> NDArray[np.bool_]:
    """Return a mask out of a parquet file: white = fake, all of a photo without one."""
    with decoding(f"photo {photo.source} of {photo.generator}"):
        image = read_photo(Image.open(BytesIO(photo.mask or photo.image)))
    return np.ones(image.shape[:2], bool) if photo.mask is None else image.mean(axis=-1) > 127.5  # noqa: PLR2004


def _add_all(
    add: Callable[[Photo, str], Row],
    photos: Iterator[Photo],
    total: int | None,
    problems: list[str],
) -> list[Row]:
    """Add photos, several at a time and few of them in memory; return their rows.

    Of those whose masks can't be read a line is added to the problems.
    """
    rows: list[Row] = []
    taken: set[str] = set()

    def attempt(photo: Photo, name: str) -> Row | str:
        try:
            return add(photo, name)
        except UnusableMaskError as error:
            return str(error)

    bar = tqdm(total=total, desc="converting", unit="photo", disable=None)
    with bar, ThreadPoolExecutor() as pool:
        while part := list(islice(photos, AT_ONCE)):
            for made in pool.map(attempt, part, [_path_of(photo, taken) for photo in part]):
                if isinstance(made, str):
                    problems.append(made)
                else:
                    rows.append(made)
            bar.update(len(part))
    return rows


def _path_of(photo: Photo, taken: set[str]) -> str:
    """Return a photo's path below its split: a name of its own there, which leads nowhere else."""
    parts = [part for part in PurePosixPath(photo.name.replace("\\", "/")).parts if part != "/"]
    safe = [f"_{part}" if is_hidden(part) else part for part in parts if part.strip(".")]
    name = "/".join(safe) or "photo"
    number, found = 1, name
    while (key := f"{photo.generator}\0{photo.split}\0{found}".lower()) in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(key)
    return found


def _add_to_tree(made: Path, photo: Photo, name: str, copy: bool) -> Row:
    """Add a photo to a tree in Dolos' layout."""
    if photo.mask is None:
        _place(photo.content, made / REAL / photo.split / f"{name}{photo.suffix}", copy)
        return Row(name, generator=REAL)
    folder, bits = made / "fake" / photo.generator, _bits(photo.mask)
    _place(photo.content, folder / "images" / photo.split / f"{name}{photo.suffix}", copy)
    _save(~bits, folder / "masks" / photo.split / f"{name}.png")
    return Row(name, generator=photo.generator)


def _add_to_list(made: Path, files: Path, dest: Path, photo: Photo, name: str, copy: bool) -> Row:
    """Add a photo to a manifest; what is no file yet becomes one."""
    place = f"{photo.generator}/{photo.split}/{name}"
    mask, polarity = "", ""
    if photo.whole:
        mask = WHOLLY
    elif photo.mask and photo.plain and not copy:
        mask, polarity = _relative(photo.plain[0], dest), photo.plain[1]
    elif photo.mask:
        _save(_bits(photo.mask), made / "masks" / f"{place}.png")
        mask, polarity = _relative(files / "masks" / f"{place}.png", dest), "white"
    image = photo.content
    if copy or isinstance(image, bytes):
        _place(image, made / "images" / f"{place}{photo.suffix}", copy=True)
        image = files / "images" / f"{place}{photo.suffix}"
    generator = "" if photo.mask is None else photo.generator
    source = photo.source or photo.name
    return Row(_relative(image, dest), mask, generator, photo.split, source, polarity)


def _bits(mask: Mask) -> NDArray[np.bool_]:
    try:
        return mask()
    except UserError as error:
        raise UnusableMaskError(str(error)) from error


def _relative(path: Path, dest: Path) -> str:
    """Return a path as a manifest names it: from its own folder, if that can be."""
    try:
        named = Path(os.path.relpath(path.absolute(), dest.absolute().parent)).as_posix()
    except ValueError:  # another drive
        return path.absolute().as_posix()
    return f"./{named}" if named.startswith("~") or named == WHOLLY else named


def _place(content: Path | bytes, path: Path, copy: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif copy:
        shutil.copyfile(content, path)
    else:
        try:
            path.symlink_to(content.resolve())
        except (NotImplementedError, PermissionError) as error:
            raise UserError(f"no link can be made at {path} ({error}); say --copy") from error


def _save(bits: NDArray[np.bool_], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(bits).save(path, compress_level=1)


def _report(dest: Path, counts: Counter[str], problems: Sequence[str], prefix: str) -> None:
    for line in problems[:SHOWN]:
        print(f"left out: {line}")
    if len(problems) > SHOWN:
        print(f"left out: {len(problems) - SHOWN} more")
    made = ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()))
    print(f"converted: {sum(counts.values())} photos ({made}); use them: DATA={prefix}{dest}")
