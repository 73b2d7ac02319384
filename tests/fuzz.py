"""Coverage-guided fuzz of the readers of strangers' files: ``make fuzz SECONDS=60``.

Whatever bytes a file has, it is read, or refused by one line that names it; anything else ends the
fuzz, which leaves the bytes in ``build/fuzz``. What decoders in C do is not seen: coverage is that
of Python's code, declip-pl's, Pillow's and that of torch which reads pickles.
"""

import argparse
import io
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(["declip_pl", "PIL"]):
    from declip_pl.data.images import read_photo
    from declip_pl.data.layouts.manifest import Row, read_manifest, write_manifest
    from declip_pl.data.masks import read_mask
    from declip_pl.errors import UserError
    from declip_pl.inference.saved_folder import save
    from declip_pl.model.checkpoint import read_checkpoint

import torch
from conftest import make_clip
from image_files import PHOTO, file_of
from localizer_example import checkpoint_of, write_run
from torch._weights_only_unpickler import Unpickler

from declip_pl.training.task import LocalizationTask

FOUND = Path("build/fuzz")
"""Where bytes are left that are neither read nor refused."""

WORK = FOUND / "work"
WORK.mkdir(parents=True, exist_ok=True)

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "JPEG2000", "BMP", "GIF", "PPM")


def photos() -> tuple[list[bytes], Callable[[bytes], None]]:
    """Return photos in all formats, and what reads one as photo and as mask."""
    path = WORK / "photo"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        attempt(path, read_photo)
        attempt(path, lambda file: read_mask(file, "black"))

    return [file_of(PHOTO, format_) for format_ in FORMATS], read


def checkpoints() -> tuple[list[bytes], Callable[[bytes], None]]:
    """Return a checkpoint and the pickle in it, and what reads either.

    A pickle is put into a whole checkpoint, so that changes of it are not found by a checksum.
    """
    task = LocalizationTask(str(make_clip(WORK / "clip")), "layer1", "linear", 64)
    whole = write_run(checkpoint_of(task), WORK / "whole.ckpt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = [name for name in members if name.endswith("data.pkl")]
    path = WORK / "fuzzed.ckpt"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        attempt(path, read_checkpoint)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (members | {pickled: content}).items():
                archive.writestr(name, data)
        attempt(path, read_checkpoint)

    return [whole, members[pickled]], read


def folders() -> tuple[list[bytes], Callable[[bytes], None]]:
    """Return the two files of a saved localizer, and what reads a folder with either changed."""
    task = LocalizationTask(str(make_clip(WORK / "clip")), "layer1", "linear", 64)
    shutil.rmtree(WORK / "saved", ignore_errors=True)  # of a run before
    save(checkpoint_of(task), WORK / "saved")
    files = [WORK / "saved/config.json", WORK / "saved/model.safetensors"]
    whole = {file: file.read_bytes() for file in files}

    def read(content: bytes) -> None:
        for file in files:
            file.write_bytes(content)
            attempt(file.parent, read_checkpoint)
            file.write_bytes(whole[file])

    return list(whole.values()), read


def manifests() -> tuple[list[bytes], Callable[[bytes], None]]:
    """Return manifests in both formats, and what reads one as either."""
    rows = [
        Row("a.png", "", "", "train", "", ""),
        Row("b.png", "m.png", "ldm", "test", "s", "white"),
    ]
    paths = [WORK / "list.csv", WORK / "list.jsonl"]
    for path in paths:
        write_manifest(path, rows)
    seeds = [path.read_bytes() for path in paths]

    def read(content: bytes) -> None:
        for path in paths:
            path.write_bytes(content)
            attempt(path, read_manifest)

    return seeds, read


def attempt(path: Path, read: Callable[[Path], object]) -> None:
    """Read a file; that it is refused is right if one line says so and names it."""
    try:
        read(path)
    except UserError as error:
        assert str(path) in str(error), f"it names no file: {error}"


READERS = {
    "photos": photos, "checkpoints": checkpoints, "folders": folders, "manifests": manifests
}  # fmt: skip


def main() -> None:
    """Fuzz one reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    Unpickler.load = atheris.instrument_func(Unpickler.load)
    seeds, read = READERS[arguments.reader]()
    corpus = WORK / arguments.reader
    corpus.mkdir(exist_ok=True)
    for number, content in enumerate(seeds):
        (corpus / str(number)).write_bytes(content)
    options = [f"-max_total_time={arguments.seconds}", f"-artifact_prefix={FOUND}/"]
    options += ["-max_len=65536", "-timeout=60", "-rss_limit_mb=8192", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(corpus)], read)
    with suppress(KeyboardInterrupt):
        atheris.Fuzz()


if __name__ == "__main__":
    main()
