"""Features on disk against a tiny encoder of which every feature is known."""

import errno
import json
import pickle
import shutil
from dataclasses import asdict
from hashlib import sha256 as sha256_of

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from declip_pl.data import feature_cache
from declip_pl.data.cache_folders import META
from declip_pl.data.cached_features import CachedFeatures
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.layout import Sample
from declip_pl.data.shards import FORMAT, Shard, inspect, open_shard, shard_files, write_shard
from declip_pl.data.stamps import check_contents, content_hash, files_of
from declip_pl.data.transforms import PREPROCESSING, build_transform, key_of
from declip_pl.errors import UserError
from declip_pl.files import sha256
from declip_pl.model.features import Features, FeatureShape, Preprocessing
from declip_pl.model.frozen import Encoder

CPU = torch.device("cpu")
MEANS = Preprocessing(2, (0.0,) * 3, (1.0,) * 3)


class Pixels(Encoder):
    """Features are the pixels, 2 x 2; remembers the batches it sees."""

    name, layer, source, sha256 = "pixels", "layer3", "test", "0"
    preprocessing, arithmetic, shape = MEANS, {"activation": "none"}, FeatureShape(3, 2)

    def __init__(self, has_cls=True, scale=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(scale), requires_grad=False)
        self.has_cls = has_cls
        self.batches, self.moves = [], []

    def forward(self, pixels):
        self.batches.append(len(pixels))
        grid = pixels * self.weight
        return Features(grid, -pixels.mean((2, 3)) if self.has_cls else None)

    def to(self, device):
        self.moves.append(torch.device(device))
        return super().to("cpu")


class OnAGpu(Pixels):
    """Says that its weights are on a GPU, and is moved nowhere."""

    def parameters(self, recurse=True):
        yield torch.empty(0, device="meta")


@pytest.fixture
def photos(tmp_path):
    """Five photos of one level each, and the levels."""
    paths = [tmp_path / f"{level}.png" for level in (51, 102, 153, 204, 255)]
    for path in paths:
        Image.fromarray(np.full((2, 2, 3), int(path.stem), np.uint8)).save(path)
    return paths


def make(tmp_path, *args, encoder=None, **options):
    return FeatureCache(encoder or Pixels(), *args, root=tmp_path / "features", **options)


def fetch(cache, photos, device=CPU):
    return cache.fetch(photos, device)


class ThreeByThree(Pixels):
    """A grid whose side is not half of its square."""

    preprocessing, shape = Preprocessing(3, (0.0,) * 3, (1.0,) * 3), FeatureShape(3, 3)


class Elsewhere(Pixels):
    """Remembers which devices its pixels were on; its features are zeros of the CPU."""

    def forward(self, pixels):
        self.moves.append(pixels.device)
        return Features(torch.zeros(len(pixels), 3, 2, 2), None)


@pytest.mark.parametrize("has_cls", [True, False])
def test_features_are_what_the_encoder_makes(tmp_path, photos, has_cls):
    found = fetch(make(tmp_path, encoder=Pixels(has_cls)), photos)
    assert found.grid_size == 2 and list(found.places) == photos
    for photo in photos:
        level = int(photo.stem) / 255
        grid, cls = found[photo]
        assert grid.shape == (3, 2, 2) and grid.dtype == torch.float16
        torch.testing.assert_close(grid.float(), torch.full((3, 2, 2), level), atol=1e-3, rtol=0)
        if has_cls:
            torch.testing.assert_close(cls.float(), torch.full((3,), -level), atol=1e-3, rtol=0)
        else:
            assert cls is None


@pytest.mark.parametrize("kind", [Pixels, ThreeByThree])
def test_places_on_the_grid_and_channels_stay(tmp_path, kind):
    side = kind.shape.grid_size
    pixels = np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3) * 9
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = fetch(make(tmp_path, encoder=kind()), [tmp_path / "x.png"])[tmp_path / "x.png"]
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    torch.testing.assert_close(found.grid.float(), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.cls.float(), -expected.mean((1, 2)), atol=1e-3, rtol=0)


def test_photos_are_encoded_in_batches_of_a_shard(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD", 2)
    cache = make(tmp_path)
    fetch(cache, photos)
    assert cache.encoder.batches == [2, 2, 1]
    held = [inspect(path).photos for path in shard_files(cache.folder)]
    assert sorted(map(len, held)) == [1, 2, 2]
    keys = [sha256(photo) for photo in photos]
    assert sorted(held) == sorted([keys[:2], keys[2:4], keys[4:]])
    fetch(cache, photos[::-1])
    assert cache.encoder.batches == [2, 2, 1]


def test_how_far_the_encoding_is_stands_in_the_terminal(tmp_path, photos, capsys):
    fetch(make(tmp_path), photos)
    last = capsys.readouterr().err.rpartition("\r")[2]
    assert last.startswith("encoding photos: 100%") and "5/5" in last and "photo/s" in last


@pytest.mark.parametrize("options", [
    {"augmentation": "jitter"}, {"augmentation": "jitter", "view": 7},
    {"perturbation": "jitter"}, {"augmentation": "blur", "perturbation": "jpeg", "view": 1},
])  # fmt: skip
def test_the_photos_bytes_and_the_view_decide_its_changes(tmp_path, options):
    """Files of equal pixels but other bytes are changed otherwise, and always in the same way."""
    pixels = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    files = [tmp_path / name for name in ("x.png", "y.bmp")]
    for file in files:
        Image.fromarray(pixels).save(file)
    found = fetch(make(tmp_path, **options), files)
    view = options.get("view", 0)
    for file in files:
        transform = build_transform(
            MEANS, options.get("augmentation", "none"), options.get("perturbation", "none")
        )
        transform.set_random_seed(int(sha256_of(file.read_bytes()).hexdigest()[:8], 16) + view)
        expected = transform(image=pixels)["image"].half()
        assert torch.equal(found[file].grid, expected)
    assert not torch.equal(found[files[0]].grid, found[files[1]].grid)


def test_pixels_are_encoded_where_the_encoder_is(tmp_path, photos):
    cache = make(tmp_path, encoder=Elsewhere())
    fetch(cache, photos, torch.device("meta"))
    assert cache.encoder.moves == [torch.device("meta"), torch.device("meta"), CPU]


def test_the_encoder_is_moved_there_and_back(tmp_path, photos):
    cache = make(tmp_path, encoder=OnAGpu())
    fetch(cache, photos)
    assert cache.encoder.moves == [CPU, torch.device("meta")]
    fetch(cache, photos)
    assert len(cache.encoder.moves) == 2  # nothing was left to encode


def test_the_encoder_is_moved_back_after_an_error(tmp_path, photos):
    cache = make(tmp_path, encoder=OnAGpu(scale=1e6))
    with pytest.raises(UserError, match=r"^features are too large for fp16; go without the cache"):
        fetch(cache, photos)
    assert cache.encoder.moves[-1] == torch.device("meta")
    assert not shard_files(cache.folder)


def test_an_encoder_without_weights_is_moved_to_the_cpu(tmp_path, photos):
    class Weightless(Pixels):
        def parameters(self, recurse=True):
            return iter(())

    cache = make(tmp_path, encoder=Weightless())
    fetch(cache, photos)
    assert cache.encoder.moves == [CPU, CPU]


# Folders


def test_a_folder_is_called_after_what_made_it(tmp_path):
    spec = [{"class_path": "albumentations.GaussianBlur", "init_args": {"blur_limit": [3, 3]}}]
    names = {
        "pixels-layer3-2px": make(tmp_path),
        "pixels-layer3-2px-jpeg3": make(tmp_path, "jpeg", 3),
        "pixels-layer3-2px-perturbed-blur": make(tmp_path, perturbation="blur"),
        "pixels-layer3-2px-jpeg0-perturbed-1-changes": make(tmp_path, "jpeg", perturbation=spec),
    }
    for name, cache in names.items():
        assert cache.folder.parent == tmp_path / "features"
        start, _, digest = cache.folder.name.rpartition("-")
        assert start == name and len(digest) == 16
    assert make(tmp_path, view=5).folder == make(tmp_path).folder  # all views are alike


def test_a_cache_says_what_made_it(tmp_path, photos):
    cache = make(tmp_path, "jpeg", 2, "blur")
    fetch(cache, photos)
    text = (cache.folder / META).read_text()
    assert text.endswith("}\n") and text.splitlines()[1] == f'  "format": {FORMAT},'
    assert json.loads(text) == {
        "format": FORMAT,
        "encoder": asdict(cache.encoder.identity),
        "preprocessing": {
            "how": PREPROCESSING, "image_size": 2, "mean": [0.0] * 3, "std": [1.0] * 3
        },
        "augmentation": key_of("jpeg"),
        "view": 2,
        "perturbation": key_of("blur"),
    }  # fmt: skip
    assert make(tmp_path).meta.keys() == {"format", "encoder", "preprocessing"}


@pytest.mark.parametrize(("name", "decides"), [
    ("name", True), ("source", False), ("sha256", True), ("arithmetic", True), ("layer", True),
])  # fmt: skip
def test_what_features_depend_on_decides(tmp_path, name, decides):
    other = type("Other", (Pixels,), {name: {"x": 1} if name == "arithmetic" else "other"})
    assert (make(tmp_path, encoder=other()).folder != make(tmp_path).folder) == decides


def test_the_hash_in_a_folders_name_is_not_of_the_encoders_name(tmp_path):
    other = type("Other", (Pixels,), {"name": "other", "source": "elsewhere"})
    digests = [
        make(tmp_path, encoder=encoder).folder.name.rpartition("-")[2]
        for encoder in (Pixels(), other())
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["remove_leftovers", "write_text", "write_shard"])
def test_a_full_disk_is_one_line_that_names_the_cache(tmp_path, photos, monkeypatch, name):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_cache, name, full)
    cache = make(tmp_path)
    with pytest.raises(UserError) as raised:
        fetch(cache, photos)
    assert str(raised.value) == (
        f"features can't be written into {cache.folder} ([Errno 28] No space left on device); "
        "finished shards stay. Make room, name another folder (DECLIP_FEATURES=...) or go without "
        "them (--data.cache false)"
    )


def test_features_stand_in_the_users_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "mine"))
    assert FeatureCache(Pixels()).folder.parent == tmp_path / "mine"


@pytest.mark.parametrize("free", [149, 150])
def test_what_does_not_fit_is_not_begun(tmp_path, photos, monkeypatch, capsys, free):
    """Five photos of 5 tokens of 3 channels of 2 bytes."""
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    cache = make(tmp_path)
    if free == 150:
        fetch(cache, photos)
        line = f"features: {cache.folder}: 0.00 GiB for 5 photos, 0.0 GiB are free"
        assert capsys.readouterr().out.splitlines() == [line]
        return
    with pytest.raises(UserError) as raised:
        fetch(cache, photos)
    assert str(raised.value) == (
        f"features do not fit into {cache.folder}: 0.00 GiB for 5 photos, 0.0 GiB are free; name "
        "another folder (DECLIP_FEATURES=...) or go without them (--data.cache false)"
    )


def test_sizes_are_said_in_gib(tmp_path, photos, monkeypatch, capsys):
    usage = shutil.disk_usage("/")._replace(free=3 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(feature_cache, "SHARD", 1)
    fetch(make(tmp_path), photos)
    (line,) = capsys.readouterr().out.splitlines()  # once, not for every shard
    assert line.endswith("0.00 GiB for 5 photos, 3.0 GiB are free")


# Features in memory


def test_preloaded_features_are_the_same_and_are_freed(tmp_path, photos):
    found = fetch(make(tmp_path), photos)
    before = [found[photo].grid.clone() for photo in photos]
    (shard,) = {place[0] for place in found.places.values()}
    assert found.nbytes == shard.stat().st_size
    found.preload(CPU)
    held = shard.read_bytes()
    for photo, grid in zip(photos, before, strict=True):
        assert torch.equal(found[photo].grid, grid)
    found.preload(torch.device("meta"))
    assert found[photos[0]].grid.device == torch.device("meta")
    found.unload()
    shard.unlink()
    with pytest.raises(UserError, match=f"^{shard} is gone: was the cache deleted[?] Start again$"):
        found[photos[0]]
    with pytest.raises(UserError, match="is gone"):
        found.preload(CPU)
    shard.write_bytes(held)
    assert torch.equal(found[photos[0]].grid, before[0])


def test_features_travel_without_open_files(tmp_path, photos):
    found = fetch(make(tmp_path), photos)
    before = found[photos[1]].grid.clone()
    sent = pickle.loads(pickle.dumps(found))
    assert isinstance(sent, CachedFeatures) and sent.places == found.places
    assert sent.grid_size == 2 and torch.equal(sent[photos[1]].grid, before)


# Shards

TOKENS = torch.arange(24.0).view(2, 4, 3).half()


def test_shards_are_listed_by_name_without_half_written_ones(tmp_path):
    for name in ("b.safetensors", "a.safetensors", ".c.safetensors", "d.json"):
        (tmp_path / name).touch()
    assert [path.name for path in shard_files(tmp_path)] == ["a.safetensors", "b.safetensors"]
    assert shard_files(tmp_path / "nothing") == []


def test_a_shard_is_named_after_its_photos(tmp_path):
    for photos in (["a", "b"], ["b", "a"]):
        digest = sha256_of("".join(photos).encode()).hexdigest()
        assert write_shard(tmp_path, photos, TOKENS) == tmp_path / f"{digest[:16]}.safetensors"


def test_a_shard_says_what_is_wrong_with_it(tmp_path):
    path = write_shard(tmp_path, ["a", "b"], TOKENS)
    content = path.read_bytes()
    assert inspect(path) == Shard(path, ["a", "b"], "")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert inspect(path) == Shard(path, ["a", "b"], "its checksum differs")
    assert inspect(path, wanted={"b"}).fault and not inspect(path, wanted={"c"}).fault
    assert inspect(path, wanted={"c"}) == Shard(path, ["a", "b"], "")
    path.write_bytes(b"x")
    assert inspect(path).photos == []
    assert inspect(path).fault.startswith("its header can't be read: ")
    path.unlink()
    assert inspect(path) == Shard(path, [], "")


def test_shards_larger_than_what_is_read_at_once_are_checked_to_their_ends(tmp_path):
    path = write_shard(tmp_path, ["a"], torch.zeros(1, 2**10, 2**10).half())  # 2 MiB
    assert inspect(path).fault == ""
    content = bytearray(path.read_bytes())
    content[-1] = 1
    path.write_bytes(content)
    assert inspect(path).fault == "its checksum differs"


def test_what_can_not_be_opened_is_one_line(tmp_path):
    (tmp_path / "x").write_bytes(b"nonsense" * 9)
    with pytest.raises(UserError, match=r"^.*/x was damaged meanwhile \(.*\); start again$"):
        open_shard(tmp_path / "x")
    with pytest.raises(UserError, match=r"^.*/y is gone: was the cache deleted[?] Start again$"):
        open_shard(tmp_path / "y")
    (tmp_path / "z").mkdir()
    with pytest.raises(UserError, match=r"^.*/z (can't be read|was damaged)"):
        open_shard(tmp_path / "z")
    with pytest.raises(UserError, match=r"^.*/z can't be read \((?!None)"):
        inspect(tmp_path / "z")


# Contents


def test_contents_are_names_files_and_the_rule(tmp_path, photos):
    fake, real = Sample("fake", photos[0], photos[1]), Sample("real", photos[2], None)
    assert list(files_of([fake, real])) == photos[:3]
    first = content_hash([fake, real], "black")
    hashes = [sha256_of(photo.read_bytes()).hexdigest() for photo in photos]
    lines = ["black", "fake", *hashes[:2], "real", hashes[2], "real"]
    assert first == sha256_of("\n".join(lines).encode()).hexdigest()
    others = [
        content_hash([fake, real], "white"),
        content_hash([real, fake], "black"),
        content_hash([fake], "black"),
        content_hash([Sample("other", *photos[:2]), real], "black"),
        content_hash([Sample("fake", photos[3], photos[1]), real], "black"),
        content_hash([Sample("fake", photos[0], photos[3]), real], "black"),
        content_hash([Sample("fake", photos[0], None), real], "black"),
    ]
    assert len({first, *others}) == 8


def test_other_contents_under_the_same_names_are_refused(tmp_path):
    ours = {"files_sha256": "f", "content_sha256": "c"}
    check_contents(ours, dict(ours), tmp_path)
    check_contents({"files_sha256": "g", "content_sha256": "d"}, ours, tmp_path)
    with pytest.raises(UserError) as raised:
        check_contents(ours | {"content_sha256": "d"}, ours, tmp_path)
    assert str(raised.value) == (
        f"photos or masks in {tmp_path} are others than those that this run was trained on, under "
        "the same names; bring those back, or give the new run a name of its own (--name; "
        "fit: --run.name; make: RUN=)"
    )
