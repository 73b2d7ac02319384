"""The feature cache: same results, one pass, and what happens when things go wrong."""

import csv
import json
import multiprocessing
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import PATIENCE, find, make_clip, make_tree, wait_until
from feature_builders import build, build_one_shard
from filelock import FileLock
from PIL import Image
from torch.utils.data import DataLoader

from declip_pl import cli
from declip_pl.data import cache_folders, datamodule, feature_cache
from declip_pl.data.cached_features import CachedFeatures
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import LocalizationDataset, collate
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.shards import shard_files
from declip_pl.data.transforms import build_transform
from declip_pl.errors import UserError
from declip_pl.files import LOCK
from declip_pl.model.encoder import build_encoder
from declip_pl.model.features import Features, FeatureShape, Preprocessing
from declip_pl.model.frozen import Encoder
from declip_pl.model.transformers_encoder import TransformersEncoder
from declip_pl.training.encoding import EncodePhotos

CPU = torch.device("cpu")
SMALL = Preprocessing(64)


@pytest.fixture
def encoder(clip):
    return build_encoder(str(clip), "layer1", 64)


@pytest.fixture
def cache(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD", 3)
    return FeatureCache(encoder, root=tmp_path / "features")


@pytest.fixture
def photos(tree):
    return [sample.image for sample in find(tree, "ldm", "train")]


@pytest.fixture
def encoded(monkeypatch):
    """Count the photos that pass through any encoder."""
    counted = []
    forward = TransformersEncoder.forward

    def count(self, pixels):
        # An encoder looks at one black photo when it is built, to learn its features' shape.
        counted.extend(photo for photo in pixels if photo.any())
        return forward(self, pixels)

    monkeypatch.setattr(TransformersEncoder, "forward", count)
    return counted


def fetch(cache, photos):
    return cache.fetch(photos, CPU)


def shards(cache):
    return {p.name: p.read_bytes() for p in cache.folder.glob("[!.]*.safetensors")}


def test_cached_features_are_the_encoders(cache, encoder, tree, photos):
    found = fetch(cache, photos)
    data = LocalizationDataset("x", find(tree, "ldm", "train"), build_transform(SMALL), "black")
    pixels = collate([data[i] for i in range(4)])["image"]
    data.views = [found]
    ours, theirs = collate([data[i] for i in range(4)])["image"], encoder(pixels)
    assert isinstance(ours, Features) and ours.grid.dtype == torch.float16
    assert ours.grid.shape == theirs.grid.shape and ours.grid.stride() == (
        16 * 64, 1, 4 * 64, 64
    )  # channels-last  # fmt: skip
    torch.testing.assert_close(ours.float().grid, theirs.grid, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(ours.float().cls, theirs.cls, atol=2e-3, rtol=2e-3)


def test_features_without_class_token(tmp_path, photos):
    class Grid(Encoder):
        name, layer, source, sha256 = "grid", "layer1", "test", "0"
        shape, preprocessing, arithmetic = FeatureShape(5, 2), SMALL, {}

        def forward(self, pixels):
            return Features(
                torch.arange(20.0).view(1, 5, 2, 2).expand(len(pixels), -1, -1, -1), None
            )

    one = fetch(FeatureCache(Grid(), root=tmp_path), photos)[photos[3]]
    assert one.cls is None and torch.equal(one.grid.float(), torch.arange(20.0).view(5, 2, 2))


def test_a_photo_is_encoded_once(cache, photos, encoded, tmp_path):
    fetch(cache, photos[:4])
    assert len(encoded) == 4
    copy = tmp_path / "copy.png"
    shutil.copy(photos[0], copy)  # the same content elsewhere
    found = fetch(cache, [*photos, copy])
    assert len(encoded) == len(photos) == 8
    assert torch.equal(found[copy].grid, found[photos[0]].grid)


def test_a_changed_photo_is_encoded_anew(cache, photos, encoded, tmp_path):
    photo = tmp_path / "photo.png"
    shutil.copy(photos[0], photo)
    before = fetch(cache, [photo])[photo].grid.clone()
    shutil.copy(photos[1], photo)
    assert not torch.equal(fetch(cache, [photo])[photo].grid, before)
    assert len(encoded) == 2


def test_another_encoder_layer_or_size_has_a_cache_of_its_own(clip, encoder, tmp_path):
    other = build_encoder(str(make_clip(tmp_path / clip.name, seed=1)), "layer1", 64)
    caches = [
        FeatureCache(encoder, root=tmp_path),
        FeatureCache(other, root=tmp_path),
        FeatureCache(build_encoder(str(clip), "layer2", 64), root=tmp_path),
        FeatureCache(build_encoder(str(clip), "layer1", 128), root=tmp_path),
    ]
    assert len({cache.folder for cache in caches}) == 4


def test_features_of_several_layers_have_a_cache_of_their_own(clip, photos, tmp_path):
    names = ["layer2", "layer0+layer2", "layer2+layer0"]
    encoders = [build_encoder(str(clip), name, 64) for name in names]
    caches = [FeatureCache(encoder, root=tmp_path) for encoder in encoders]
    assert len({encoder.sha256 for encoder in encoders}) == 1
    assert len({cache.folder for cache in caches}) == 3
    assert "-layer0+layer2-64px-" in caches[1].folder.name
    one, several, turned = (fetch(cache, photos)[photos[0]] for cache in caches)
    assert several.grid.dtype == torch.float16 and several.grid.shape == (128, 4, 4)
    assert torch.equal(several.grid[64:], one.grid) and torch.equal(several.cls[64:], one.cls)
    assert torch.equal(turned.grid, several.grid.roll(64, 0))


def test_a_cache_of_many_layers_has_a_name_that_a_folder_may_have(tmp_path, photos, monkeypatch):
    class Grid(Encoder):
        name, source, sha256 = "grid", "test", "0"
        layer = "+".join(f"layer{number}" for number in range(40))
        shape, preprocessing, arithmetic = FeatureShape(40, 2), SMALL, {}

        def forward(self, pixels):
            return Features(torch.ones(len(pixels), 40, 2, 2), None)

    cache = FeatureCache(Grid(), root=tmp_path)
    assert fetch(cache, photos)[photos[0]].grid.shape == (40, 2, 2)
    assert cache.folder.name.startswith("grid-layer0+layer1+")
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path))
    assert cache_folders.caches() == [cache.folder]


def test_weights_that_are_computed_with_otherwise_have_a_cache_of_their_own(
    clip, encoder, tmp_path
):
    shutil.copytree(clip, other := tmp_path / clip.name)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    changed = build_encoder(str(other), "layer1", 64)
    assert changed.sha256 == encoder.sha256
    assert FeatureCache(changed).folder != FeatureCache(encoder).folder


def test_the_same_encoder_found_elsewhere_shares_a_cache(clip, encoder, tmp_path):
    shutil.copytree(clip, tmp_path / clip.name)
    moved = build_encoder(str(tmp_path / clip.name), "layer1", 64)
    assert FeatureCache(moved).folder == FeatureCache(encoder).folder


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_killed_build_continues_with_the_same_bytes(cache, photos, tmp_path, after, monkeypatch):
    write, written = feature_cache.write_shard, []

    def die(folder, keys, tokens):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(keys)
        return write(folder, keys, tokens)

    monkeypatch.setattr(feature_cache, "write_shard", die)
    with pytest.raises(KeyboardInterrupt):
        fetch(cache, photos)
    monkeypatch.setattr(feature_cache, "write_shard", write)
    assert len(shards(cache)) == after
    fetch(cache, photos)
    straight = FeatureCache(cache.encoder, root=tmp_path / "straight")
    fetch(straight, photos)
    assert shards(cache) == shards(straight) and len(shards(cache)) == 3


def test_a_killed_process_leaves_nothing_in_the_way(cache, clip, photos, tmp_path):
    root = tmp_path / "features"
    context = multiprocessing.get_context("spawn")
    builder = context.Process(target=build_one_shard, args=(clip, root, photos, PATIENCE))
    builder.start()
    wait_until(lambda: shards(cache))
    builder.kill()
    builder.join()
    assert len(shards(cache)) == 1
    fetch(cache, photos)
    straight = FeatureCache(cache.encoder, root=tmp_path / "straight")
    fetch(straight, photos)
    assert shards(cache) == shards(straight)


def test_two_builders_at_once_encode_each_photo_once(clip, tmp_path, photos):
    context = multiprocessing.get_context("spawn")
    queue, together = context.Queue(), context.Barrier(2)
    arguments = (clip, tmp_path, photos, PATIENCE, queue, together)
    builders = [context.Process(target=build, args=arguments) for _ in range(2)]
    for builder in builders:
        builder.start()
    assert sum(queue.get(timeout=PATIENCE) for _ in builders) == len(photos)
    for builder in builders:
        builder.join()


def test_a_disk_that_is_too_small_is_one_clear_error(cache, photos, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"do not fit.*GiB for 8 photos.*DECLIP_FEATURES"):
        fetch(cache, photos)
    assert not shards(cache)


def test_features_survive_the_way_to_another_process(cache, photos):
    found = fetch(cache, photos)
    before = found[photos[0]].grid
    sent: CachedFeatures = pickle.loads(pickle.dumps(found))
    assert torch.equal(sent[photos[0]].grid, before)


def test_training_from_the_cache_equals_training_from_pixels(fit_arguments, tmp_path, monkeypatch):
    """With an encoder that rounds to fp16 the losses are equal; else that rounding differs."""
    forward = TransformersEncoder.forward

    def rounded(self, pixels):
        found = forward(self, pixels)
        if not pixels.any():  # the black photo that an encoder looks at when it is built
            return found
        return Features(found.grid.half().float(), found.cls.half().float())

    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    cli.main(fit_arguments(**{"run.name": "cached"}))
    cli.main(fit_arguments(**{"run.name": "pixels", "data.cache": "false"}))
    monkeypatch.setattr(TransformersEncoder, "forward", rounded)
    cli.main(fit_arguments(**{"run.name": "halves", "data.cache": "false"}))

    def rows(name):
        with (tmp_path / "outputs" / name / "metrics.csv").open() as file:
            return [[float(v) for v in row.values()] for row in csv.DictReader(file)]

    for ours, exact, halves in zip(rows("cached"), rows("pixels"), rows("halves"), strict=True):
        assert ours == pytest.approx(halves, rel=1e-5)
        assert ours[:2] == pytest.approx(exact[:2], rel=1e-3)


def test_training_encodes_each_photo_once(fit_arguments, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    cli.main(fit_arguments(**{"trainer.max_epochs": 3}))
    # 16 manipulated photos; to test image-level detection, 4 + 4 real ones of valid and test
    assert len(encoded) == 16 + 8
    encoded.clear()
    cli.main(fit_arguments(**{"run.name": "again", "model.decoder": "attention"}))
    assert not encoded


def test_augmented_photos_are_encoded_anew(fit_arguments, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    cli.main(fit_arguments(**{"data.augmentation": "jpeg"}))
    assert len(encoded) == 2 * 8 + 8 + 8  # two epochs; valid and test once


def test_views_of_augmented_photos_are_encoded_once(fit_arguments, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    options = {"data.augmentation": "jpeg", "data.views": 2, "trainer.max_epochs": 4}
    cli.main(fit_arguments(**options))
    assert len(encoded) == 2 * 8 + 8 + 8  # two views; valid and test once
    encoded.clear()
    cli.main(fit_arguments(**options, **{"run.name": "again", "seed_everything": 1}))
    assert not encoded


def test_views_differ_and_are_remade_alike(encoder, photos, tmp_path):
    def view(number, root="a", augmentation="jpeg"):
        cache = FeatureCache(encoder, augmentation, number, root=tmp_path / root)
        return cache.folder.name, fetch(cache, photos)[photos[0]].grid

    (name, plain), (first, one), (second, two) = view(0, augmentation="none"), view(0), view(1)
    assert len({name, first, second}) == 3 and "64px-jpeg1" in second
    assert not torch.equal(one, plain) and not torch.equal(one, two)
    assert torch.equal(view(1, "b")[1], two)


def test_epochs_take_the_views_in_turn(cache, encoder, photos, tree, tmp_path):
    data = LocalizationDataset("x", find(tree, "ldm", "train"), build_transform(SMALL), "black")
    blurred = FeatureCache(encoder, "blur", 0, root=tmp_path)
    data.views = [fetch(cache, photos), fetch(blurred, photos)]
    for data.epoch, view in [(0, 0), (1, 1), (2, 0)]:
        assert torch.equal(data[3]["image"].grid, data.views[view][photos[3]].grid)


def test_what_fits_into_memory_is_preloaded(fit_arguments, monkeypatch, tmp_path):
    """The same training, with processes that read the disk or without."""
    seen = []
    monkeypatch.setattr(DataLoader, "__iter__", _noting(DataLoader.__iter__, seen.append))

    def train(name, free):
        seen.clear()
        monkeypatch.setattr(datamodule, "free_memory", lambda device: free)
        options = {"run.name": name, "data.num_workers": 1, "trainer.max_epochs": 1}
        cli.main(fit_arguments(**options))
        workers = {loader.dataset.name.split("/")[0]: loader.num_workers for loader in seen}
        return workers, (tmp_path / "outputs" / name / "metrics.csv").read_text()

    preloaded, with_memory = train("preloaded", 10**12)
    streamed, without = train("streamed", 0)
    assert preloaded == {"train": 0, "valid": 0, "test": 1}
    assert streamed == {"train": 1, "valid": 1, "test": 1}
    assert with_memory == without


class _Noted(dict):
    """A dictionary that notes which values are looked up."""

    def __init__(self, values, notes):
        super().__init__(values)
        self.notes = notes

    def __getitem__(self, key):
        self.notes.append(super().__getitem__(key))
        return self.notes[-1]


def _noting(method, note):
    def noted(self):
        note(self)
        return method(self)

    return noted


def test_batches_are_read_in_the_order_of_the_disk(cache, photos, tree):
    data = LocalizationDataset("x", find(tree, "ldm", "train"), build_transform(SMALL), "black")
    data.views = [found := fetch(cache, photos)]
    read = []
    found.places = _Noted(found.places, read)
    wanted = [6, 1, 4, 0]
    batch = data.__getitems__(wanted)
    assert [item["path"] for item in batch] == [str(photos[i]) for i in wanted]
    assert read[-4:] == sorted(read[-4:]) and len(set(read)) == 4


def test_preloaded_photos_are_the_same(cache, photos, tree):
    data = LocalizationDataset("x", find(tree, "ldm", "train"), build_transform(SMALL), "black")
    data.views = [fetch(cache, photos)]
    before = [data[i] for i in range(len(data))]
    data.views = [fetch(cache, photos)]  # as it is before anything was read
    shards_and_masks = data.views[0].nbytes + data.mask_bytes()
    data.views[0].preload(CPU)
    data.preload(CPU)
    for name in shards(cache):
        (cache.folder / name).unlink()
    preloaded = [data[i] for i in range(len(data))]
    again = [data[i] for i in range(len(data))]  # in the same memory
    tensors = [t for item in preloaded + again for t in (item["image"].grid, item["mask"])]
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    # But for the shards' headers.
    assert sum(held.values()) == pytest.approx(shards_and_masks, rel=0.05)
    for item, after in zip(before, preloaded, strict=True):
        assert torch.equal(item["image"].grid, after["image"].grid)
        assert torch.equal(item["mask"], after["mask"]) and item["path"] == after["path"]


def test_meta_tells_whose_features_they_are(cache, photos, clip):
    fetch(cache, photos)
    meta = json.loads((cache.folder / cache_folders.META).read_text())
    assert meta["encoder"]["name"] == clip.name and meta["preprocessing"]["image_size"] == 64


@pytest.fixture
def in_folder(cache, photos, monkeypatch, tmp_path):
    """Cached features where the command line looks for them."""
    fetch(cache, photos)
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    return cache.folder


def test_cache_ls_tells_what_is_there(in_folder, clip, capsys):
    cli.main(["cache", "ls"])
    printed = capsys.readouterr().out
    assert f"{in_folder.name}: 8 photos, 0.00 GiB, encoder from folder {clip}" in printed
    assert f"folder: {in_folder.parent}" in printed


@pytest.mark.parametrize("every", [False, True])
def test_cache_prune_deletes_what_was_named(in_folder, capsys, every):
    mine = in_folder.parent / "mine" / cache_folders.META
    mine.parent.mkdir()
    mine.write_text('{"format": "of another program"}')
    cli.main(["cache", "prune", "all" if every else in_folder.name])
    assert [p.name for p in in_folder.parent.iterdir()] == ["mine"] and mine.exists()
    assert "8 photos" in capsys.readouterr().out
    cli.main(["cache", "ls"])
    assert "no features are cached" in capsys.readouterr().out


def test_a_damaged_cache_can_be_listed_and_pruned(in_folder, capsys):
    shard = next(iter(in_folder.glob("[!.]*.safetensors")))
    shard.write_bytes(b"nonsense")
    cli.main(["cache", "ls"])
    assert f"{shard.name} is damaged (its header can't be read" in capsys.readouterr().out
    cli.main(["cache", "prune", "all"])
    assert not in_folder.exists()


def test_features_that_are_deleted_meanwhile_are_one_clear_error(cache, photos):
    found = fetch(cache, photos)
    cache_folders.delete(cache.folder)
    with pytest.raises(UserError, match="is gone: was the cache deleted"):
        found[photos[0]]


def test_a_shard_that_is_deleted_while_it_is_looked_up_does_not_count(cache, photos, monkeypatch):
    fetch(cache, photos)
    listed = [*shard_files(cache.folder), cache.folder / "deleted.safetensors"]
    monkeypatch.setattr("declip_pl.data.shards.shard_files", lambda folder: listed)
    assert fetch(cache, photos).places.keys() == set(photos)


def test_size_of_masks_is_known_before_they_are_decoded(own_tree):
    files = find(own_tree, "ldm", "valid")
    Image.new("L", (300, 200), 255).save(files[1].mask)  # Dolos' sizes differ
    own = LocalizationDataset("x", files, build_transform(SMALL), "black")
    assert own.mask_bytes() == 3 * 96 * 96 + 300 * 200 == sum(mask.nbytes for mask in own.masks())
    resized = LocalizationDataset("x", files, build_transform(SMALL), 0, mask_size=256)
    assert resized.mask_bytes() == 4 * 256 * 256


def test_cache_prune_knows_its_caches(in_folder, error_of):
    assert "no features are cached under 'typo'" in error_of("cache", "prune", "typo")
    with FileLock(in_folder / LOCK):
        assert "is being written by another process" in error_of("cache", "prune", "all")
    assert in_folder.is_dir()


def test_folder_of_features(monkeypatch):
    monkeypatch.delenv("DECLIP_FEATURES")
    monkeypatch.setenv("DECLIP_CACHE", "/a")
    assert cache_folders.features_folder() == Path("/a/features")
    monkeypatch.setenv("DECLIP_FEATURES", "/scratch")
    assert cache_folders.features_folder() == Path("/scratch")


def test_real_tree_has_distinct_photos(tmp_path):
    """The counts above rest on it."""
    root = make_tree(tmp_path)
    photos = [s.image.read_bytes() for g in ("ldm", "lama") for s in find(root, g, "train")]
    assert len(set(photos)) == len(photos)


def encode(data, encoder, stage="fit", fast_dev_run=False):
    """Run the callback as the trainer does before a stage."""
    strategy = SimpleNamespace(root_device=CPU)
    trainer = SimpleNamespace(
        datamodule=data, fast_dev_run=fast_dev_run, strategy=strategy, callbacks=[]
    )
    module, callback = SimpleNamespace(network=SimpleNamespace(encoder=encoder)), EncodePhotos()
    callback.setup(trainer, module, stage)
    if stage == "fit":
        callback.on_fit_start(trainer, module)
    return data


def offloaded(encoder):
    return sum(weight.numel() for weight in encoder.parameters()) == 0


@pytest.fixture
def data_module(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))

    def make(**options):
        options = {"batch_size": 4, "num_workers": 0, "check": False} | options
        return LocalizationDataModule(str(tree), "ldm", **options)

    return make


def test_the_callback_hands_over_preprocessing_and_features(data_module, encoder):
    data, photo = data_module(), torch.zeros(1, 3, 64, 64)
    before = encoder(photo).grid
    assert data.preprocessing != encoder.preprocessing
    encode(data, encoder)
    assert data.preprocessing == encoder.preprocessing
    files = data.files("train", "ldm") + data.files("valid", "ldm", "real")
    photos = {sample.image for sample in files}
    (view,) = data.train_views
    assert data.evaluation_views == [view] and view.places.keys() == photos
    assert offloaded(encoder) and torch.equal(encoder(photo).grid, before)
    item = next(iter(data.train_dataloader()))
    assert isinstance(item["image"], Features) and item["image"].grid.shape == (4, 64, 4, 4)
    data.teardown("fit")
    assert data.train_views == data.evaluation_views == []
    assert next(iter(data.train_dataloader()))["image"].shape == (4, 3, 64, 64)


@pytest.mark.parametrize("options", [{"cache": False}, {"fast_dev_run": True}])
def test_without_the_cache_the_callback_hands_over_preprocessing_alone(
    data_module, encoder, encoded, options
):
    cache = options.pop("cache", True)
    data = encode(data_module(cache=cache), encoder, **options)
    assert data.preprocessing == encoder.preprocessing
    assert not data.train_views and not encoded and not offloaded(encoder)


def test_the_callback_leaves_photos_that_change_every_time_to_training(data_module, encoder):
    data = encode(data_module(augmentation="jpeg"), encoder)
    assert data.train_views == [] and not offloaded(encoder)
    (view,) = data.evaluation_views
    assert view.places.keys() == {sample.image for sample in data.files("valid", "ldm", "real")}


def test_the_callback_perturbs_what_is_evaluated_alone(data_module, encoder):
    data = encode(data_module(perturbation="blur"), encoder)
    plain = encode(data_module(), encoder)
    (train,), (valid,), (both,) = data.train_views, data.evaluation_views, plain.train_views
    photo, other = data.files("train", "ldm")[0].image, data.files("valid", "ldm")[0].image
    assert torch.equal(train[photo].grid, both[photo].grid)
    assert not torch.equal(valid[other].grid, both[other].grid)


def test_the_callback_encodes_the_stage_that_comes(data_module, encoder):
    data = encode(data_module(), encoder, "test")
    sets = data.test_sets()
    assert {photos.name for photos in sets} == {"test/ldm", "test/real"}
    photos = {sample.image for photos in sets for sample in photos.samples}
    assert data.evaluation_views[0].places.keys() == photos and data.train_views == []


@pytest.mark.parametrize("option", ["augmentation", "perturbation"])
def test_changes_enter_the_key(encoder, option):
    def spec(limit):
        blur = {"class_path": "albumentations.GaussianBlur", "init_args": {"blur_limit": limit}}
        return [blur, "jpeg"]

    changes = ["none", "blur", "jpeg", spec([3, 3]), spec([5, 5]), spec([3, 3])[::-1]]
    folders = [FeatureCache(encoder, **{option: change}).folder for change in changes]
    assert len(set(folders)) == len(changes)
    assert folders[3] == FeatureCache(encoder, **{option: spec([3, 3])}).folder
    assert "2-changes" in folders[3].name


def test_preprocessing_enters_the_key(clip, encoder, tmp_path):
    shutil.copytree(clip, other := tmp_path / clip.name)
    said = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (other / "preprocessor_config.json").write_text(json.dumps(said))
    changed = build_encoder(str(other), "layer1", 64)
    assert changed.sha256 == encoder.sha256
    assert FeatureCache(changed).folder != FeatureCache(encoder).folder
