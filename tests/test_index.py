"""The index of a data set: what was read of its files once is not read at every start."""

import gc
import json
import os
import shutil
import sys
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import starts
from conftest import find
from forgery_example import quick, small_tree
from PIL import Image

from declip_pl import cli
from declip_pl.data import file_index, index
from declip_pl.data.collector import no_collection
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.file_index import FileIndex, Stamp
from declip_pl.data.forgeries.folder import ForgeryFolder
from declip_pl.data.forgeries.sources import Forgeries
from declip_pl.data.index import DataIndex
from declip_pl.data.layout import build_layout
from declip_pl.errors import UserError

LONG_AGO = 10**18
CPU = torch.device("cpu")
OPENED: list[str] = []
"""Every file that Python opens, as its own audit tells it."""

sys.addaudithook(lambda event, args: event == "open" and OPENED.append(str(args[0])))


def age(*files: Path) -> None:
    """Have files changed long ago, each at a time of its own."""
    for number, path in enumerate(files):
        os.utime(path, ns=(0, LONG_AGO + number))


def photos_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A data set that nobody has changed for long, and an empty cache."""
    monkeypatch.setenv("DECLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    root = small_tree(tmp_path / "dolos")
    age(*photos_of(root))
    return root


def start(root: Path, polarity: str | None = None) -> tuple[set[str], str]:
    """Do what a run does with its data before the first step.

    Returns:
        The files of the data set that were opened, and the hash of their contents.
    """
    OPENED.clear()
    data = LocalizationDataModule(str(root), "ldm", polarity=polarity, num_workers=0)
    data.prepare_data()
    photos = [sample.image for sample in data.train_set().samples]
    FeatureCache(starts.Tiny()).fetch(photos, CPU, data.index.hashes)
    masks = sum(part.mask_bytes(data.index.sides) for part in data.valid_sets())
    assert masks == 2 * 96**2 + 2 * 256**2  # no mask counts as one
    found = data.content_sha256
    return {path for path in OPENED if Path(path).is_relative_to(root)}, found


def files_of(root: Path) -> set[str]:
    """Return what a run on ldm reads: its photos and masks, and the real test photos."""
    parts = [root / "fake" / "ldm", root / "real" / "valid", root / "real" / "test"]
    return {str(path) for part in parts for path in photos_of(part)}


def test_the_second_start_opens_no_photo_and_no_mask(old, capsys):
    opened, content = start(old)
    assert opened == files_of(old)
    assert f"{len(opened)} files decoded\n" in capsys.readouterr().out
    assert start(old) == (set(), content)
    assert f"0 files decoded, {len(opened)} unchanged since\n" in capsys.readouterr().out


def other(path: Path) -> None:
    """Put another photo or mask in a file's place."""
    Image.fromarray(np.asarray(Image.open(path))[::-1]).save(path)


def longer(path: Path) -> None:
    """Change the size alone."""
    before = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(0, before))


def later(path: Path) -> None:
    """Change the content and the time, and not the size."""
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def earlier(path: Path) -> None:
    later(path)
    os.utime(path, ns=(0, 1))


@pytest.mark.parametrize("change", [other, longer, later, earlier])
@pytest.mark.parametrize("part", ["image", "mask"])
def test_what_has_changed_is_read_again_and_nothing_else(old, change, part):
    _, content = start(old)
    path = getattr(find(old, "ldm", "train")[0], part)
    change(path)
    opened, found = start(old)
    assert opened == {str(path)} and found != content


def test_a_file_that_was_only_touched_is_read_again(old):
    _, content = start(old)
    path = find(old, "ldm", "train")[0].mask
    path.touch()
    assert start(old) == ({str(path)}, content)


def test_what_is_damaged_later_is_found(old):
    start(old)
    path = find(old, "ldm", "test")[0].image
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=f"{path}: can't be decoded"):
        start(old)


def test_what_can_not_be_used_is_read_at_every_start(old):
    path = find(old, "ldm", "test")[0].mask
    Image.fromarray(np.full((96, 96), 120, np.uint8)).save(path)
    age(path)
    for _ in range(2):
        with pytest.raises(UserError, match=f"{path}: expected a mask in black and white"):
            start(old)


def entries(path: Path) -> dict[str, list]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line[0]: line[1:] for line in lines[1:-1]}


def place(cache: Path) -> Path:
    (found,) = (cache / "index").glob("*.jsonl")
    return found


def test_a_file_that_has_gone_is_missed_by_nobody(old, tmp_path):
    start(old)
    gone, touched = find(old, "ldm", "train")[:2]
    gone.image.unlink(), gone.mask.unlink(), touched.image.touch()
    age(touched.image)
    start(old)
    kept = entries(place(tmp_path / "cache"))
    assert kept.keys() == files_of(old) and str(gone.image) not in kept


def test_a_file_that_was_just_written_is_not_trusted(old):
    """It may be written again within a step of the file system's clock."""
    path = find(old, "ldm", "train")[0].image
    path.touch()
    _, content = start(old)
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(0, before.st_mtime_ns))
    opened, found = start(old)
    assert opened == {str(path)} and found != content


def test_a_file_from_the_future_is_not_trusted(old):
    path = find(old, "ldm", "train")[0].image
    os.utime(path, ns=(0, 4 * LONG_AGO))
    start(old)
    assert start(old)[0] == {str(path)}


def test_a_file_of_the_same_size_and_time_is_noticed_by_data_check(old, capsys):
    """Which reads everything, and so does nobody else."""
    _, content = start(old)
    path = find(old, "ldm", "train")[0].image
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(0, before.st_mtime_ns))
    assert start(old) == (set(), content)
    capsys.readouterr()
    cli.main(["data", "check", str(old)])
    assert f"{len(photos_of(old))} files decoded\n" in capsys.readouterr().out
    opened, found = start(old)
    assert opened == {str(path)} and found != content  # as it has to be encoded
    assert start(old) == (set(), found)


def test_a_photo_under_an_old_hash_is_not_cached(old):
    """The one place where contents of the same size and time would be mixed."""
    data = LocalizationDataModule(str(old), "ldm")
    path = find(old, "ldm", "train")[0].image
    data.index.sha256(path), data.index.save()
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(0, before.st_mtime_ns))
    again = LocalizationDataModule(str(old), "ldm").index
    with pytest.raises(UserError, match=f"{path} changed while .* and touch the file"):
        FeatureCache(starts.Tiny()).fetch([path], CPU, again.hashes)
    path.touch()
    again = LocalizationDataModule(str(old), "ldm").index
    FeatureCache(starts.Tiny()).fetch([path], CPU, again.hashes)


def flipped(path: Path) -> None:
    """Change a digit of a hash."""
    content = bytearray(path.read_bytes())
    at = len(content) // 2
    content[at] ^= 1
    path.write_bytes(content)


def without_a_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))


def of_another_program(path: Path) -> None:
    path.write_text('{"a": 1}\n')


DAMAGES = {
    "flipped": flipped,
    "a line less": without_a_line,
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "nested": lambda path: path.write_text("[" * 100_000),
    "other": of_another_program,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_named_once_and_made_again(old, tmp_path, capsys, damage):
    opened, content = start(old)
    path = place(tmp_path / "cache")
    DAMAGES[damage](path)
    capsys.readouterr()
    assert start(old) == (opened, content)
    said = [line for line in capsys.readouterr().out.splitlines() if str(path) in line]
    assert said[0].startswith(f"{path} can't be used (")
    if damage == "a folder":
        assert said[1].startswith(f"{path} can't be written (") and len(said) == 2
    else:
        assert len(said) == 1 and start(old) == (set(), content)


def test_the_index_of_another_data_set_is_not_used(old, tmp_path, capsys):
    """Even if it knows files of these paths."""
    _, content = start(old)
    path = place(tmp_path / "cache")
    lines = path.read_bytes().splitlines(keepends=True)
    shutil.copytree(old, tmp_path / "copy")
    age(*photos_of(tmp_path / "copy"))
    opened, _ = start(tmp_path / "copy")
    (copied,) = set((tmp_path / "cache" / "index").glob("*.jsonl")) - {path}
    assert len(opened) == len(lines) - 2
    copied.write_bytes(path.read_bytes())
    capsys.readouterr()
    assert start(tmp_path / "copy") == (opened, content)
    assert f"{copied} can't be used (it is of {old}, not of {tmp_path}/copy)" in (
        capsys.readouterr().out
    )


def test_the_index_of_another_version_is_not_used(old, monkeypatch, capsys):
    opened, content = start(old)
    monkeypatch.setattr(file_index, "MADE_BY", "format 0")
    capsys.readouterr()
    assert start(old) == (opened, content)
    assert "it was made by format 1, " in capsys.readouterr().out


def test_where_nothing_can_be_written_every_start_reads_and_says_so(
    old, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DECLIP_CACHE", str(tmp_path / "file"))
    expected = start(old)
    assert "can't be written (Not a directory); the next start reads" in capsys.readouterr().out
    assert start(old) == expected


def test_without_a_home_folder_there_is_no_index(old, monkeypatch, capsys):
    def homeless():
        raise UserError("there is no home folder")

    monkeypatch.setattr(index, "cache_folder", homeless)
    expected = start(old)
    assert "no index is kept, every start reads all files: there is" in capsys.readouterr().out
    assert start(old) == expected


def test_two_runs_keep_what_each_has_read(old):
    """Whichever of them writes last."""
    runs = [DataIndex(old), DataIndex(old)]
    photos = [sample.image for sample in find(old, "ldm", "train")]
    for run, part in zip(runs, (photos[:4], photos[4:]), strict=True):
        run.hashes(part)
    for run in runs:
        run.save()
    third = DataIndex(old)
    assert all(map(third.knows_hash, photos))


def write_often(path: Path, files: list[Path]) -> None:
    for file in files:
        own = FileIndex(path, "x", index.FileFacts)
        own.add(file, Stamp(1, 2), index.FileFacts("0" * 64))
        own.save()


def test_processes_that_write_at_the_same_time_lose_nothing(tmp_path, capfd):
    files = [[tmp_path / f"{process}-{number}" for number in range(20)] for process in range(3)]
    everything = list(chain.from_iterable(files))
    for path in everything:
        path.touch()
    context = get_context("fork")
    path = tmp_path / "index" / "x.jsonl"
    processes = [context.Process(target=write_often, args=(path, part)) for part in files]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert entries(path).keys() == set(map(str, everything))
    assert "can't" not in capfd.readouterr().out
    assert {p.name for p in path.parent.iterdir()} - {".lock"} == {"x.jsonl"}


def test_masks_that_are_read_by_another_rule_are_decoded_again(old):
    _, content = start(old, "black")
    opened, found = start(old, "white")
    assert opened == {path for path in files_of(old) if "/masks/" in path} and found != content
    assert start(old, "white") == (set(), found)


def test_a_check_says_the_same_of_what_it_knows(old, capsys):
    """Of every kind of finding that is no error."""
    first, second, third, fourth = find(old, "ldm", "train")[:4]
    soft = np.repeat(np.linspace(0, 255, 96)[None].astype(np.uint8), 96, 0)
    soft[:, 8:-8] = np.where(np.arange(80) < 40, 0, 255)
    Image.fromarray(soft).save(first.mask)
    Image.fromarray(np.full((96, 96), 255, np.uint8)).save(second.mask)
    Image.fromarray(np.zeros((96, 200), np.uint8)).save(third.mask)
    shutil.copy(find(old, "real", "test")[0].image, fourth.image)
    age(*photos_of(old))
    start(old)
    said = [line for line in capsys.readouterr().out.splitlines() if "warning:" in line]
    start(old)
    again = [line for line in capsys.readouterr().out.splitlines() if "warning:" in line]
    assert said == again
    for kind in ("not binary", "no fake", "another aspect ratio", "the same pixels as"):
        assert kind in "\n".join(said)


def test_a_relative_path_is_the_same_file(old, monkeypatch):
    _, content = start(old)
    monkeypatch.chdir(old.parent)
    assert start(Path(old.name)) == (set(), content)


def test_forgeries_are_read_once(tmp_path, monkeypatch):
    quick(monkeypatch, tmp_path / "cache")
    root = small_tree(tmp_path / "data")
    options = Forgeries(versions=2)

    def forge() -> tuple[set[Path], str]:
        OPENED.clear()
        folder = ForgeryFolder(build_layout("dolos", root), options)
        found = folder.manifest.in_short.sha256
        samples = chain(*folder.samples("train"), *folder.samples("valid"))
        folder.index.hashes(path for s in samples for path in (s.image, s.mask) if path)
        folder.index.save()
        return {
            path for path in map(Path, OPENED) if path.is_file() and path.suffix == ".png"
        }, found

    age(*photos_of(root))
    _, found = forge()
    made = photos_of(tmp_path / "cache" / "forgeries")
    read, again = forge()  # they were too young to be known
    made = {path for path in made if path.suffix == ".png"}
    assert read == made and again == found
    age(*made)
    assert forge() == (made, found)
    assert forge() == (set(), found)
    image = next((tmp_path / "cache").rglob("images/*.png"))
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    read, again = forge()
    assert image in read and again == found


def test_the_garbage_collector_waits_and_goes_on():
    with pytest.raises(ValueError), no_collection():
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()
