"""``declip-pl predict``: what a trained localizer finds in photos of one's own."""

import glob
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from annotated_types import Interval
from tqdm import tqdm

from declip_pl.data.file_kinds import Picture, read_picture
from declip_pl.data.folders import describe_left_out, in_circle, is_hidden, walk
from declip_pl.data.images import SUFFIXES
from declip_pl.errors import UserError
from declip_pl.files import write_text
from declip_pl.inference.about import About
from declip_pl.inference.default_model import default_model
from declip_pl.inference.localization import Localization, write_png
from declip_pl.inference.localizer import TOGETHER, Localizer
from declip_pl.inference.prediction_folder import (
    RECORDS,
    Record,
    check_folder,
    describe,
    line,
    read_records,
    settle,
    still_to_do,
    version,
    write_table,
)
from declip_pl.inference.prediction_report import print_report
from declip_pl.metrics import THRESHOLD
from declip_pl.training.run_folder import claim

OUTPUT = Path("outputs/predict")

BATCH, BATCH_PIXELS = TOGETHER, 64_000_000
"""Photos that are in memory together with their maps: until one of the two is reached."""
THREADS = min(8, os.cpu_count() or 1)
"""Photos that are decoded or written at a time."""

Read = tuple[Record, Picture | None]
"""The beginning of a record, and the photo unless it can't be read."""


def predict(
    paths: Sequence[str],
    model: str | None = None,
    output: Path | None = None,
    threshold: Annotated[float, Interval(ge=0, le=1)] | None = None,
    tiles: bool = False,
    resume: bool = False,
    json: bool = False,
    device: str | None = None,
    encoder: str | None = None,
) -> None:
    """Find the manipulated pixels of photos.

    Writes heat maps (white = fake), masks and overlays as PNGs of the photos' own sizes, and
    predictions.jsonl and predictions.csv. A photo that can't be read is listed at the end and does
    not stop the rest; the exit status is then 1.

    Args:
        paths: Files, folders (searched to the bottom), globs, or - for a list of such paths on
            standard input, one a line.
        model: A run's folder, a checkpoint, a saved folder, an id on the Hugging Face hub, or
            starter. By default the one finished run in outputs/train, or else the starter.
        output: Folder to write, new or empty. By default outputs/predict.
        threshold: Probability above which a pixel belongs to the mask. By default each photo's own,
            of the highest expected IoU, and none below the model's floor; without a floor 0.5.
        tiles: Look at overlapping tiles of large photos: finds smaller regions, takes longer.
        resume: Go on in the output folder: leave out photos that are done and have not changed.
        json: Print what is found in one photo as JSON and write no files.
        device: Where it runs, such as cpu, cuda or cuda:1; by default a GPU where there is one.
        encoder: Folder or hub id of the same frozen encoder, in place of the one on record.

    Raises:
        UserError: If there is no photo, no model or no folder to use; at the end, if one failed.
    """
    options = {"threshold": threshold, "tiles": tiles}
    if json:
        if output or resume:
            raise UserError("--json writes no files: leave out --output and --resume")
        print(_as_json(paths, model, device, encoder, options))
        return
    folder = output or OUTPUT
    photos = find_photos(paths, leave_out=folder)
    check_folder(folder, resume)
    localizer = _load(model, device, encoder)
    try:
        with claim(folder, "predicting into"):
            records = _predict_into(folder, localizer, photos, options)
    except OSError as error:
        raise UserError(f"can't write to {folder}: {error}") from error
    print_report(folder, records, _rule(localizer, threshold))


def find_photos(paths: Sequence[str], leave_out: Path | None = None) -> dict[str, Path]:
    """Return the photos that files, folders, globs and lists stand for.

    Args:
        paths: What :func:`predict` takes. In folders, files are photos by their suffix.
        leave_out: A folder that is not searched.

    Returns:
        Absolute paths in the order given, those of a folder or glob sorted. The keys are the
        paths below the folder that all of them share, so that no two photos have the same.

    Raises:
        UserError: If a path does not exist, or there is no photo.
    """
    _check_blanks(paths)
    folders: set[str] = set()
    found: dict[str, None] = {}
    for path in _expanded(paths):
        absolute = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links
        if path.is_dir():
            folders.add(absolute)
            found |= dict.fromkeys(map(str, _photos_below(Path(absolute), leave_out)))
        else:
            folders.add(str(Path(absolute).parent))
            found[absolute] = None
    if not found:
        raise UserError(
            "no photo to look at: name files, folders or globs, or - for a list on standard input"
        )
    shared = os.path.commonpath(folders)
    return {Path(path).relative_to(shared).as_posix(): Path(path) for path in found}


def _check_blanks(paths: Sequence[str]) -> None:
    """Refuse words that are no paths alone and one path together: its blanks had no quotes."""
    whole = " ".join(paths)
    # Not Path.exists(), which raises where the words are too long for a name.
    if len(paths) > 1 and not os.path.exists(paths[0]) and os.path.exists(whole):  # noqa: PTH110
        raise UserError(f"there is no file or folder {paths[0]}; with quotes: {quote(whole)}")


def _expanded(paths: Iterable[str]) -> Iterator[Path]:
    for path in paths:
        if path == "-":
            yield from _expanded(_lines_of_stdin())
        elif Path(path).exists():  # a name may look like a glob
            yield Path(path)
        elif not glob.has_magic(path):
            raise UserError(f"there is no file or folder {path}")
        elif matches := _matches(path):
            yield from matches
        else:
            raise UserError(f"nothing matches {path}")


def _matches(pattern: str) -> list[Path]:
    """List what a glob matches, in so far as :func:`walk` would find it or the pattern names it."""
    named = Path(pattern).parts
    found = map(Path, sorted(glob.glob(pattern, recursive=True)))  # noqa: PTH207 - also absolute
    return [
        path
        for path in found
        if not any(is_hidden(name) for name in path.parts if name not in named)
        and not in_circle(path.parent)
    ]


def _lines_of_stdin() -> Iterator[str]:
    for read in sys.stdin.buffer:  # bytes, as a file's name need not be UTF-8
        if path := os.fsdecode(read.rstrip(b"\r\n")):
            yield path


def _photos_below(folder: Path, leave_out: Path | None) -> list[Path]:
    """List a folder's photos and say what else is there, as that may be photos, too."""
    found = walk(folder, leave_out)
    photos = sorted([*found.photos, *found.to_nothing])  # a link to nothing is listed as failed
    others = describe_left_out(folder, found.left_out) if found.left_out else ""
    if not photos:
        raise UserError(
            f"no photo in {folder}: looked for {', '.join(sorted(SUFFIXES))}"
            + (f"; {others}" if others else "")
        )
    if others:
        print(others)
    return photos


def _as_json(
    paths: Sequence[str],
    model: str | None,
    device: str | None,
    encoder: str | None,
    options: dict[str, Any],
) -> str:
    with redirect_stdout(sys.stderr):  # what else is said must not stand beside the JSON
        photos = find_photos(paths)
        if len(photos) > 1:
            raise UserError(f"--json is for one photo, here are {len(photos)}: leave it out")
        record, pixels = _read(*next(iter(photos.items())))
        if pixels is None:
            raise UserError(record["error"])
        localizer = _load(model, device, encoder)
        start = time.monotonic()
        (found,) = localizer([pixels], **options)
    record |= {"model_sha256": localizer.sha256}
    found_there = describe(found, time.monotonic() - start, localizer.about)
    return json.dumps(record | found_there, indent=2, allow_nan=False)


def _load(model: str | None, device: str | None, encoder: str | None) -> Localizer:
    """Return the model that was named, or the default, and print what it is."""
    localizer = Localizer.from_pretrained(model or default_model(), device, encoder)
    for words in localizer.about.lines():
        print(words)
    return localizer


def _predict_into(
    folder: Path, localizer: Localizer, photos: dict[str, Path], options: dict[str, Any]
) -> list[Record]:
    """Analyse what is not done yet and return the records of all photos."""
    made_by = {"sha256": localizer.sha256, "tiles": options["tiles"]}
    image_threshold = {"image_threshold": localizer.image_threshold}
    rule = _rule(localizer, options["threshold"])
    settle(folder, made_by | image_threshold | rule, localizer.about)
    there = read_records(folder)
    wanted = still_to_do(folder, there, photos)
    records = {name: record for name, record in there.items() if name not in wanted}
    write_text(folder / RECORDS, "".join(map(line, records.values())))
    progress = tqdm(total=len(photos), initial=len(photos) - len(wanted), unit="photo")
    with progress, (folder / RECORDS).open("a", encoding="utf-8") as lines:
        for record in _analyse(localizer, wanted, folder, options):
            lines.write(line(record))
            lines.flush()
            records[record["name"]] = record
            progress.update()
    write_table(folder, records.values())
    return [records[name] for name in photos]


def _rule(localizer: Localizer, threshold: float | None) -> dict[str, Any]:
    """Return what decides on the masks of all photos: a threshold, or a decision and its floor."""
    if threshold is None and localizer.floor is not None:
        return {"decision": "expected-iou", "floor": localizer.floor}
    return {"pixel_threshold": THRESHOLD if threshold is None else threshold}


def _analyse(
    localizer: Localizer, photos: dict[str, Path], folder: Path, options: dict[str, Any]
) -> Iterator[Record]:
    """Yield the records of photos in their order, each when its pictures are complete."""
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in _batches(_read_ahead(pool, photos)):
            pixels = [pixels for _, pixels in batch if pixels is not None]
            start = time.monotonic()
            found = iter(localizer(pixels, **options) if pixels else [])
            seconds = (time.monotonic() - start) / max(1, len(pixels))
            results = [(record, None if p is None else next(found)) for record, p in batch]
            yield from pool.map(partial(_write, folder, localizer.about, seconds), results)


def _read_ahead(pool: ThreadPoolExecutor, photos: dict[str, Path]) -> Iterator[Read]:
    """Decode photos while others are analysed."""
    waiting: deque[Future[Read]] = deque()
    for name, path in photos.items():
        waiting.append(pool.submit(_read, name, path))
        if len(waiting) > THREADS:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


def _read(name: str, path: Path) -> Read:
    record: Record = {"name": name, "path": str(path)}
    try:
        return record | version(path), read_picture(path)
    except (UserError, OSError) as error:
        return record | {"error": str(error)}, None


def _batches(photos: Iterable[Read]) -> Iterator[list[Read]]:
    batch: list[Read] = []
    total = 0
    for record, picture in photos:
        size = 0 if picture is None else picture.pixels.shape[0] * picture.pixels.shape[1]
        if batch and (len(batch) == BATCH or total + size > BATCH_PIXELS):
            yield batch
            batch, total = [], 0
        batch.append((record, picture))
        total += size
    if batch:
        yield batch


def _write(
    folder: Path, about: About, seconds: float, result: tuple[Record, Localization | None]
) -> Record:
    """Write a photo's pictures and return its record."""
    record, found = result
    if found is None:
        return record
    pictures = found.pictures()
    files = {kind: f"{kind}s/{record['name']}.png" for kind in pictures}
    try:
        for kind, pixels in pictures.items():
            write_png(folder / files[kind], pixels)
    except OSError as error:  # its name may be too long; a full disk stops the next line as well
        return record | {"error": f"{record['path']}: can't write its pictures: {error}"}
    return record | describe(found, seconds, about) | {"files": files}
