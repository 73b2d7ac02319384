"""Shards of the feature cache: damage is noticed and mended, and no write ends in a traceback."""

import json
import os
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import checksums
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

from declip_pl import cli
from declip_pl.data import cache_folders, feature_cache
from declip_pl.data.cache_folders import META
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.shards import LIST, UNLISTED, inspect, inspect_all, shard_files, write_shard
from declip_pl.data.transforms import build_transform
from declip_pl.errors import UserError
from declip_pl.files import LOCK, sha256
from declip_pl.model.features import Features, FeatureShape, Preprocessing
from declip_pl.model.frozen import Encoder

CPU = torch.device("cpu")


class Pooled(Encoder):
    """Mean colours of 2 x 2 fields, or more; counts the photos that it sees."""

    name, layer, source, sha256 = "pooled", "layer1", "test", "0"
    preprocessing, arithmetic = Preprocessing(8), {}

    def __init__(self, side=2):
        super().__init__()
        self.shape = FeatureShape(3, side)
        self.seen = 0

    def forward(self, pixels):
        self.seen += len(pixels)
        grid = adaptive_avg_pool2d(pixels, self.shape.grid_size)
        return Features(grid, pixels.mean((2, 3)))


def paint(path: Path, seed: int) -> Path:
    """Write a random photo; equal seeds make equal files."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    return [paint(tmp_path / f"{seed}.png", seed) for seed in range(8)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD", 3)
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    return FeatureCache(Pooled())


def fetch(cache, photos):
    """Return all features as one tensor, a row for each photo."""
    found = cache.fetch(photos, CPU)
    rows = [found[photo] for photo in photos]
    return torch.stack([torch.cat([row.grid.flatten(), row.cls]) for row in rows])


def content(cache):
    return {path.name: path.read_bytes() for path in shard_files(cache.folder)}


def cut(data: bytes, at: int, value: int) -> bytes:
    return data[: at % len(data)]


def zeroed(data: bytes, at: int, value: int) -> bytes:
    start = at % len(data)
    return data[:start] + bytes(len(data) - start)


def flipped(data: bytes, at: int, value: int) -> bytes:
    changed = bytearray(data)
    changed[at % len(data)] ^= value
    return bytes(changed)


def longer(data: bytes, at: int, value: int) -> bytes:
    return data + bytes([value])


DAMAGE = st.tuples(
    st.sampled_from([cut, zeroed, flipped, longer]), st.integers(0, 10**4), st.integers(1, 255)
)


@settings(max_examples=40)
@given(st.dictionaries(st.integers(0, 2), DAMAGE, min_size=1), st.randoms(use_true_random=False))
def test_damage_of_any_kind_is_mended(damages, random):
    """Wherever bytes of shards are lost or changed, features stay what the encoder made."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_cache, "SHARD", 3)
        files = [paint(Path(folder) / f"{seed}.png", seed) for seed in range(8)]
        encoder = Pooled()
        cache = FeatureCache(encoder, root=Path(folder) / "features")
        expected = fetch(cache, files)
        for index, (damage, at, value) in damages.items():
            path = shard_files(cache.folder)[index]
            path.write_bytes(damage(path.read_bytes(), at, value))
        order = random.sample(range(8), 8)
        assert torch.equal(fetch(cache, [files[index] for index in order]), expected[order])
        assert not any(shard.fault for shard in map(inspect, shard_files(cache.folder)))
        seen = encoder.seen
        assert torch.equal(fetch(cache, files), expected) and encoder.seen == seen


@pytest.mark.parametrize("damaged", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_shards_made_anew_have_the_same_bytes(cache, photos, damaged, capsys):
    fetch(cache, photos)
    before = content(cache)
    paths = [shard_files(cache.folder)[index] for index in damaged]
    lost = sum(len(inspect(path).photos) for path in paths)
    for path in paths:
        path.write_bytes(zeroed(path.read_bytes(), -30, 0))
    capsys.readouterr()
    fetch(cache, photos[::-1])
    assert content(cache) == before
    assert cache.encoder.seen == len(photos) + lost
    lines = capsys.readouterr().out.splitlines()
    wanted = [f"{p} is damaged (its checksum differs); its photos are encoded again" for p in paths]
    assert [line for line in lines if "damaged" in line] == wanted


def test_only_shards_that_are_needed_are_read_to_their_ends(cache, photos, capsys):
    fetch(cache, photos)
    other = next(p for p in shard_files(cache.folder) if sha256(photos[0]) not in inspect(p).photos)
    other.write_bytes(damaged := zeroed(other.read_bytes(), -30, 0))
    fetch(cache, photos[:1])
    assert cache.encoder.seen == len(photos)
    fetch(cache, [photos[0], paint(photos[0].with_name("another.png"), 99)])
    assert other.read_bytes() == damaged and "damaged" not in capsys.readouterr().out


def test_a_shard_with_a_broken_header_blocks_nobody(cache, photos):
    expected = fetch(cache, photos)
    (cache.folder / "0.safetensors").write_bytes(b"nonsense")
    assert torch.equal(fetch(cache, photos), expected) and cache.encoder.seen == len(photos)
    another = paint(photos[0].with_name("another.png"), 99)
    fetch(cache, [another])
    assert not (cache.folder / "0.safetensors").exists()


@pytest.fixture
def listed(tmp_path) -> list[Path]:
    """Many shards of one photo each, called 0, 1, ..., and their list."""
    shards = [write_shard(tmp_path, [str(n)], torch.zeros(1, 1, 1)) for n in range(UNLISTED)]
    assert [s.fault for s in inspect_all(tmp_path, ())] == [""] * UNLISTED
    assert (tmp_path / LIST).is_file()
    return shards


def test_a_listed_shard_of_other_photos_is_not_opened(tmp_path, listed):
    listed[5].write_bytes(b"no header")
    found = {shard.path: shard for shard in inspect_all(tmp_path, {"4"})}
    assert found[listed[5]].photos == ["5"] and not found[listed[5]].fault
    assert [s.path for s in inspect_all(tmp_path, {"5"}) if s.fault] == [listed[5]]


@pytest.mark.parametrize("content", [b"", b"7 8\n9", b"\xff\xfe", b"4\n5\n6 "])
def test_a_damaged_list_changes_nothing(tmp_path, listed, content):
    (tmp_path / LIST).write_bytes(content)
    found = {shard.path: shard.photos for shard in inspect_all(tmp_path, {"4"})}
    assert found == {path: [str(number)] for number, path in enumerate(listed)}


def test_few_shards_have_no_list_and_those_that_are_gone_leave_it(tmp_path, listed):
    for path in listed[1:]:
        path.unlink()
    assert [shard.path for shard in inspect_all(tmp_path, {"1"})] == listed[:1]
    (tmp_path / LIST).unlink()
    assert [shard.photos for shard in inspect_all(tmp_path, {"1"})] == [["0"]]
    assert not (tmp_path / LIST).exists()


def test_a_shard_that_holds_other_rows_is_damaged(tmp_path):
    """Photos, type and shape are part of the checksum, not the numbers alone."""
    tokens = torch.arange(24.0).view(2, 4, 3).half()
    path = write_shard(tmp_path, ["a", "b"], tokens)
    assert inspect(path) == (path, ["a", "b"], "")
    data = path.read_bytes()
    for old, new in [(b'\\"a\\", \\"b', b'\\"b\\", \\"a'), (b"F16", b"I16"), (b"2,4,3", b"2,3,4")]:
        assert data.count(old) == 1
        path.write_bytes(data.replace(old, new))
        assert inspect(path).fault == "its checksum differs"
        assert not inspect(path, wanted=()).fault  # its header alone is fine


def test_two_shards_are_written_alike(tmp_path):
    tokens = torch.arange(24.0).view(2, 4, 3).half()
    first = write_shard(tmp_path / "a", ["a", "b"], tokens)
    second = write_shard(tmp_path / "b", ["a", "b"], tokens)
    assert first.name == second.name and first.read_bytes() == second.read_bytes()


def test_scores_do_not_change_where_a_shard_was_zeroed(
    fit_arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    cli.main(fit_arguments(**{"run.name": "before"}))
    for path in (tmp_path / "features").rglob("*.safetensors"):
        path.write_bytes(zeroed(path.read_bytes(), -3000, 0))
    cli.main(fit_arguments(**{"run.name": "after"}))
    assert "its photos are encoded again" in capsys.readouterr().out
    before, after = (tmp_path / "outputs" / name / "metrics.csv" for name in ("before", "after"))
    assert before.read_text() == after.read_text()


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=12), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_whatever_is_asked_for_is_encoded_once_and_right(requests, shard):
    """Any photos, copies of them among them, in any order and in several goes."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_cache, "SHARD", shard)
        # Files 7 to 12 are copies of 0 to 5.
        files = [paint(Path(folder) / f"{index}.png", index % 7) for index in range(13)]
        encoder = Pooled()
        cache = FeatureCache(encoder, root=Path(folder) / "features")
        for request in requests:
            asked = [files[index] for index in request]
            found = cache.fetch(asked, CPU)
            assert found.places.keys() == set(asked)
            for photo in asked:
                pixels = build_transform(encoder.preprocessing)(
                    image=np.asarray(Image.open(photo))
                )["image"]
                grid, cls = adaptive_avg_pool2d(pixels, 2), pixels.mean((1, 2))
                assert torch.allclose(found[photo].grid.float(), grid, atol=2e-3)
                assert torch.allclose(found[photo].cls.float(), cls, atol=2e-3)
        assert encoder.seen == len({index % 7 for request in requests for index in request})


def test_a_photo_that_changes_while_it_is_encoded_is_not_kept(cache, photos, monkeypatch):
    """Else another photo's features would be kept under its hash."""
    read = feature_cache.read_photo

    def replaced_before(path):
        paint(path, 50)
        return read(path)

    monkeypatch.setattr(feature_cache, "read_photo", replaced_before)
    with pytest.raises(UserError, match=r"\d.png changed while it was encoded; start again"):
        fetch(cache, photos)
    assert not shard_files(cache.folder)


@pytest.mark.parametrize("allowed", [0, 2000])
def test_a_disk_that_is_full_is_one_line_at_every_write(cache, photos, allowed, capsys):
    """Of ``meta.json`` and of a shard, which has 4,600 bytes."""
    cache.encoder = Pooled(16)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, before[1]))
    try:
        with pytest.raises(UserError) as error:
            fetch(cache, photos)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (cache.folder / META).exists() == (allowed > 0)
    text = str(error.value)
    assert "can't be written into" in text and "finished shards stay" in text and "\n" not in text
    assert {path.name for path in cache.folder.iterdir()} <= {META, LOCK}
    fetch(cache, photos)
    assert len(shard_files(cache.folder)) == 3
    assert max(path.stat().st_size for path in cache.folder.iterdir()) > allowed


def test_a_folder_that_can_not_be_made_is_one_line(photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="features can't be written into"):
        fetch(FeatureCache(Pooled(), root=tmp_path / "file" / "features"), photos)


@pytest.fixture
def read_only(monkeypatch):
    """Return how to go on without the right to write into a folder; root always has it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0

    def protect(path: Path) -> None:
        for part in [path, *path.rglob("*")]:
            part.chmod(0o555 if part.is_dir() else 0o444)
        if root:
            os.seteuid(65534)

    yield folder, protect
    if root:
        os.seteuid(0)
    for part in [folder, *folder.rglob("*")]:
        part.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_cache_is_read(read_only):
    folder, protect = read_only
    files = [paint(folder / f"{seed}.png", seed) for seed in range(4)]
    cache = FeatureCache(Pooled(), root=folder / "features")
    expected = fetch(cache, files[:3])
    protect(cache.folder.parent)
    assert torch.equal(fetch(cache, files[:3]), expected)
    with pytest.raises(UserError, match=r"can't be written into .*Permission denied"):
        fetch(cache, files)
    with pytest.raises(UserError, match=r"can't be written to \(Permission denied\)"):
        cache_folders.delete(cache.folder)


@pytest.mark.parametrize("garbage", ["", "{", "null", '{"format": 3}', '{"encoder": 1}', "\xff"])
def test_a_cache_whose_description_is_garbage_works_and_can_be_deleted(
    cache, photos, garbage, capsys
):
    fetch(cache, photos[:4])
    (cache.folder / META).write_text(garbage, encoding="latin-1")
    cli.main(["cache", "ls"])
    line = f"{cache.folder.name}: 4 photos, 0.00 GiB, its {META} can't be read"
    assert line in capsys.readouterr().out
    fetch(cache, photos[:4])
    assert cache.encoder.seen == 4
    fetch(cache, photos)
    assert json.loads((cache.folder / META).read_text()).keys() == cache.meta.keys()
    (cache.folder / META).write_text(garbage, encoding="latin-1")
    cli.main(["cache", "prune", cache.folder.name])
    assert not cache.folder.exists()


def test_a_cache_of_another_version_is_listed_and_can_be_deleted(cache, photos, capsys):
    fetch(cache, photos)
    (cache.folder / META).write_text(json.dumps(cache.meta | {"format": 2}))
    cli.main(["cache", "ls"])
    assert "no longer used (of another version)" in capsys.readouterr().out
    cli.main(["cache", "check"])
    cli.main(["cache", "prune", "all"])
    assert not cache.folder.exists()


def test_cache_check_names_damaged_shards_and_deletes_them(cache, photos, capsys, error_of):
    expected = fetch(cache, photos)
    cli.main(["cache", "check"])
    assert "no damaged shards" in capsys.readouterr().out
    first, second, third = shard_files(cache.folder)
    first.write_bytes(zeroed(first.read_bytes(), -30, 0))
    second.write_bytes(cut(second.read_bytes(), -30, 0))
    with pytest.raises(SystemExit, match=r"2 damaged shards; .*: declip-pl cache check --delete"):
        cli.main(["cache", "check"])
    printed = capsys.readouterr().out
    assert f"{first} is damaged (its checksum differs)\n{second} is damaged" in printed
    with FileLock(cache.folder / LOCK):
        assert "is being written by another process" in error_of("cache", "check", "--delete")
    cli.main(["cache", "check", "--delete"])
    assert shard_files(cache.folder) == [third]
    assert "2 damaged shards, deleted" in capsys.readouterr().out
    assert torch.equal(fetch(cache, photos), expected)


def test_what_a_killed_build_left_half_written_is_deleted(cache, photos):
    cache.folder.mkdir(parents=True)
    (cache.folder / ".unfinished-abc.safetensors").write_bytes(b"half")
    (cache.folder / ".unfinished-abc.json").write_bytes(b"half")
    fetch(cache, photos)
    assert not list(cache.folder.glob(".unfinished-*"))


def test_the_benchmark_of_checksums_runs(capsys):
    checksums.main(["--shards", "1"])
    assert capsys.readouterr().out.count("photos/s") == 3
