"""The cached forgeries: which photos they are made of, and that they are made once."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photo
from forgery_example import COUNTS, quick, small_tree, write_photos
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from declip_pl import cli
from declip_pl.data.forgeries import folder as folder_module
from declip_pl.data.forgeries import kept_autoencoders
from declip_pl.data.forgeries.folder import ForgeryFolder
from declip_pl.data.forgeries.manifest import read_about, read_manifest
from declip_pl.data.forgeries.sources import Forgeries, Source, find_sources, index_of
from declip_pl.data.forgeries.views import draw_view
from declip_pl.data.images import read_photo
from declip_pl.data.layout import build_layout
from declip_pl.data.masks import read_mask
from declip_pl.data.partners import partners
from declip_pl.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return small_tree(tmp_path_factory.mktemp("forged") / "photos")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    quick(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache"


def forged(root: Path, **options) -> ForgeryFolder:
    return ForgeryFolder(build_layout("dolos", root), Forgeries(**options))


def sources_of(layout, folders) -> list[Source]:
    return find_sources(layout, folders, index_of(layout))


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def states(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the files below a folder: their contents, and when they were written."""
    files = list(folder.rglob("*.png"))
    return {str(path): (hash_of(path), path.stat().st_mtime_ns) for path in files}


def test_own_photos_keep_their_split_and_test_photos_are_never_forged(root):
    sources = sources_of(build_layout("dolos", root), [])
    assert Counter(source.split for source in sources) == {"train": 4, "valid": 2}
    for source in sources:
        assert source.photo.parent == root / "real" / source.split
        assert source.sha256 == hash_of(source.photo) and source.folder == "real"
    assert [source.sha256 for source in sources] == sorted(source.sha256 for source in sources)


def test_of_further_photos_an_eighth_is_for_validation(root, tmp_path):
    further = write_photos(tmp_path / "further", 40)
    sources = sources_of(build_layout("dolos", root), [str(further)])
    found = {source.photo.name: source.split for source in sources if source.folder == "further"}
    expected = {
        path.name: "valid" if int(hash_of(path)[-1], 16) % 8 == 0 else "train"
        for path in further.iterdir()
    }
    assert found == expected and set(found.values()) == {"train", "valid"}


def test_folders_are_told_apart_by_the_ends_of_their_paths(root, tmp_path):
    for number, folder in enumerate(["a/x", "b/x", "real"]):
        write_photos(tmp_path / folder, 1, seed=number)

    def names(*folders: str) -> set[str]:
        sources = sources_of(build_layout("dolos", root), [str(tmp_path / f) for f in folders])
        return {source.folder for source in sources if source.further}

    assert names("a/x") == names("a/x", "a/x") == {"x"}
    assert names("a/x", "b/x") == {"a/x", "b/x"}
    assert names("a", "b") == {"a", "b"}
    assert names("a/x", "b/x", "a") == {"a/x", "b/x"}  # the third has no photo of its own
    assert names("a/x", "b/x", "real") == {"a/x", "b/x", f"{tmp_path.name}/real"}
    write_photos(tmp_path / "c", 1, seed=3)
    assert names("a/x", "b/x", "c") == {"a/x", "b/x", "c"}
    assert names("real") == {f"{tmp_path.name}/real"}  # `real` are the data set's own


def test_copies_of_test_and_validation_photos_are_not_trained_on(root, tmp_path):
    further = write_photos(tmp_path / "further", 1)
    for split in ("train", "valid", "test"):
        shutil.copy(root / "real" / split / "1.png", further / f"{split}.png")
    sources = sources_of(build_layout("dolos", root), [str(further)])
    split_of = {source.sha256: source.split for source in sources}
    assert len(sources) == len(split_of) == COUNTS["train"] + COUNTS["valid"] + 1
    assert hash_of(further / "test.png") not in split_of
    assert split_of[hash_of(further / "valid.png")] == "valid"
    assert split_of[hash_of(further / "train.png")] == "train"


def test_what_lies_in_the_data_set_is_no_further_photo(tmp_path):
    write_photos(tmp_path / "all" / "more", 3)
    root = small_tree(tmp_path / "all" / "photos")
    layout = build_layout("dolos", root)
    sources = sources_of(layout, [str(tmp_path / "all")])
    assert Counter(source.folder for source in sources) == {"real": 6, "all": 3}
    with pytest.raises(UserError, match="holds no photo to forge beside those"):
        sources_of(layout, [str(root / "fake")])


def test_small_photos_are_left_out_and_counted(root, tmp_path, capsys):
    further = write_photos(tmp_path / "further", 2, size=63)
    assert len(sources_of(build_layout("dolos", root), [str(further)])) == 6
    assert "left out 2 photos with a side of less than 64 px" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["train", "valid"])
def test_without_an_untouched_photo_there_is_one_error(tmp_path, split):
    root = small_tree(tmp_path / "photos")
    shutil.rmtree(root / "real" / split)
    with pytest.raises(UserError, match=f"no untouched {split} photo to forge"):
        sources_of(build_layout("dolos", root), [])


def test_a_folder_that_is_not_there_is_named(root, tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*nowhere of photos"):
        sources_of(build_layout("dolos", root), [str(tmp_path / "nowhere")])


def made_up(hashes, split="train") -> list[Source]:
    return [Source(name, Path(name), split, "made-up") for name in sorted(hashes)]


HASHES = st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), min_size=2, unique=True)


@settings(max_examples=30)
@given(HASHES, st.data())
def test_the_other_photo_is_of_the_same_split_and_few_change_when_one_is_added(hashes, data):
    sources = made_up(hashes)
    found = dict(zip(sources, partners(sources), strict=True))
    assert all(other in sources and other != source for source, other in found.items())
    fewer = sorted(set(sources) - {data.draw(st.sampled_from(sources))})
    before = dict(zip(fewer, partners(fewer), strict=True))
    added = (set(sources) - set(fewer)).pop()
    assert all(found[source] in (before[source], added) for source in fewer)


def test_a_photo_alone_in_its_split_is_its_own_other():
    train, valid = made_up(["a", "c"]), made_up(["b"], "valid")
    sources = sorted([*train, *valid])
    assert partners(sources) == [train[1], valid[0], train[0]]


@settings(max_examples=40)
@given(st.integers(64, 900), st.integers(64, 900), st.booleans(), st.integers(0, 99))
def test_a_view_is_a_part_or_the_photo_made_smaller(height, width, native, seed):
    rows, columns = np.mgrid[:height, :width]
    photo = np.stack([rows // 4, columns // 4, rows % 4 * 16 + columns % 4], -1).astype(np.uint8)
    view = draw_view(photo, np.random.default_rng(seed), native)
    if max(height, width) <= 512:
        assert np.array_equal(view, photo)
    elif native:
        tall, wide = view.shape[:2]
        assert min(256, height) <= tall <= 512 and min(256, width) <= wide <= 512
        first, last = view[0, 0].astype(int), view[-1, -1].astype(int)
        corner = [4 * first[0] + first[2] // 16, 4 * first[1] + first[2] % 16]
        assert np.array_equal(view, photo[corner[0] :, corner[1] :][:tall, :wide])
        assert last[0] >= first[0] and last[1] >= first[1]
    else:
        tall, wide = view.shape[:2]
        assert tall <= height and wide <= width and min(tall, wide) >= 63
        assert abs(tall / wide / (height / width) - 1) < 0.02
        if min(tall, wide) > 65:
            assert min(250**2, 0.98 * height * width) <= tall * wide <= 520**2


def test_each_photo_has_its_versions_with_masks_as_files(root, cache):
    found = forged(root, versions=3)
    manifest = found.manifest
    assert len(manifest.forgeries) == 3 * 6 and manifest.photos == {"real": 6}
    assert manifest.in_short.versions == 3 and "own" in manifest.in_short.operations
    assert len({item.name for item in manifest.forgeries}) == 18
    untouched = 0
    for item in manifest.forgeries:
        pixels = read_photo(found.image(item.name))
        assert pixels.shape == (96, 96, 3) and hash_of(found.image(item.name)) == item.sha256
        assert read_about(found.image(item.name)) == item.about
        mask = found.mask(item.name)
        untouched += item.about.mask_sha256 is None
        assert mask.exists() == (item.about.mask_sha256 is not None)
        if mask.exists():
            assert Image.open(mask).mode == "1" and hash_of(mask) == item.about.mask_sha256
            assert 0 < read_mask(mask, "white").mean() < 0.6
    assert 0 < untouched < 18
    assert (cache / "forgeries") in found.folder.parents and "photos-" in found.folder.name


def test_the_samples_are_the_same_photos_in_each_version(root, cache):
    found = forged(root, versions=2)
    for split, count in (("train", 4), ("valid", 2)):
        versions = found.samples(split)
        assert [len(version) for version in versions] == [count, count]
        for first, second in zip(*versions, strict=True):
            assert first.name.removesuffix("-0") == second.name.removesuffix("-1")
            assert first.image != second.image
            assert first.generator == second.generator == "forgeries"
            assert first.mask is None or first.mask_rule == "white"
    assert found.samples("test") == [[], []]


def test_what_is_there_is_not_made_again(root, cache, monkeypatch):
    before = forged(root, versions=1)
    manifest, files = before.manifest, states(before.folder)
    monkeypatch.setattr(folder_module, "forge", None)
    again = forged(root, versions=1)
    assert again.manifest == manifest and states(again.folder) == files


def test_further_versions_and_photos_leave_the_others_as_they_are(root, cache, tmp_path):
    first = forged(root, versions=1)
    few = first.manifest
    before = states(first.folder)
    more = forged(root, versions=2)
    assert more.folder == first.folder and more.manifest.forgeries[:6] == few.forgeries
    further = forged(root, versions=1, photos=[str(write_photos(tmp_path / "further", 3))])
    assert further.folder == first.folder
    assert further.manifest.photos == {"further": 3, "real": 6}
    same = {item.name for item in further.manifest.forgeries} & {i.name for i in few.forgeries}
    assert len(same) >= 3  # but for those whose other photo is one of the new ones
    after = states(first.folder)
    assert {name: after[name] for name in before} == before
    assert {path.name for path in first.folder.iterdir()} >= {"images", "masks"}
    assert len(list(first.folder.glob("manifest-*.json"))) == 3


@pytest.mark.parametrize("change", [{"seed": 1}, {"recipe": 99}, {"without": ["other"]}])
def test_another_seed_recipe_or_choice_of_operations_is_another_folder(
    root, cache, monkeypatch, change
):
    before = forged(root, versions=1)
    if "recipe" in change:
        monkeypatch.setattr(folder_module, "RECIPE", change["recipe"])
    after = forged(root, versions=1, **{k: v for k, v in change.items() if k != "recipe"})
    assert after.folder != before.folder
    pairs = zip(before.manifest.forgeries, after.manifest.forgeries, strict=True)
    assert all(first.sha256 != second.sha256 for first, second in pairs)


def test_the_result_depends_neither_on_workers_nor_on_an_interruption(root, cache, monkeypatch):
    whole = forged(root, versions=2).complete(workers=1)
    monkeypatch.setenv("DECLIP_CACHE", str(cache.parent / "other"))
    found, made = forged(root, versions=2), []

    def stops(*args):
        made.append(args)
        if len(made) > 5:
            raise KeyboardInterrupt
        return forge(*args)

    forge = folder_module.forge
    monkeypatch.setattr(folder_module, "forge", stops)
    with pytest.raises(KeyboardInterrupt):
        found.complete(workers=1)
    finished = states(found.folder / "images")
    assert 0 < len(finished) < 12 and not list(found.folder.glob("manifest-*"))
    (found.folder / "images" / ".unfinished-x.png").write_bytes(b"half")
    monkeypatch.setattr(folder_module, "forge", forge)
    assert found.complete(workers=3) == whole
    after = states(found.folder / "images")
    assert {name: after[name] for name in finished} == finished and len(after) == 12


@pytest.mark.parametrize("part", ["image", "mask", "manifest", "missing"])
def test_what_is_damaged_is_named_and_made_again(root, cache, capsys, part):
    found = forged(root, versions=1)
    manifest = found.manifest
    item = next(item for item in manifest.forgeries if item.about.mask_sha256)
    (listed,) = found.folder.glob("manifest-*.json")
    path = {"image": found.image(item.name), "mask": found.mask(item.name)}.get(part, listed)
    content = path.read_bytes()
    if part == "missing":
        found.image(item.name).unlink()
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    capsys.readouterr()
    again = forged(root, versions=1)
    assert again.manifest == manifest == read_manifest(listed)
    assert path.read_bytes() == content
    assert ("is damaged" in capsys.readouterr().out) == (part != "missing")


def test_an_image_without_manifest_is_read_against_its_checksums(root, cache):
    found = forged(root, versions=1)
    manifest = found.manifest
    (listed,) = found.folder.glob("manifest-*.json")
    listed.unlink()
    image = found.image(manifest.forgeries[0].name)
    content = image.read_bytes()
    image.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    assert forged(root, versions=1).manifest == manifest and image.read_bytes() == content


def test_a_photo_that_changes_meanwhile_is_named(root, cache, tmp_path):
    changing = small_tree(tmp_path / "changing")
    found = forged(changing, versions=1)
    Image.fromarray(make_photo(np.random.default_rng(1))).save(changing / "real/train/0.png")
    with pytest.raises(UserError, match=r"0\.png changed while it was forged"):
        found.complete()


def test_a_damaged_photo_is_named(root, cache, tmp_path):
    further = write_photos(tmp_path / "further", 1)
    (further / "broken.png").write_bytes(b"no photo")
    with pytest.raises(UserError, match=r"broken\.png is no photo"):
        forged(root, photos=[str(further)])


def test_a_place_that_can_not_be_written_is_one_error(root, cache, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DECLIP_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"forgeries can't be written into .*DECLIP_CACHE"):
        forged(root, versions=1)


def test_autoencoders_are_trained_once_on_training_photos_alone(root, cache, monkeypatch):
    seen, train = [], kept_autoencoders.train_autoencoder

    def noted(kind, photos, seed):
        seen.append(photos)
        return train(kind, photos, seed)

    monkeypatch.setattr(kept_autoencoders, "train_autoencoder", noted)
    forged(root, versions=1), forged(root, versions=2)
    (photos,) = seen
    expected = [read_photo(root / "real/train" / f"{index}.png") for index in range(4)]
    assert len(photos) == 4
    assert all(any(np.array_equal(photo, own) for own in expected) for photo in photos)
    damaged = next((cache / "forgeries/autoencoders").glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    forged(root, versions=1)
    assert len(seen) == 2


def test_the_command_makes_them_and_a_picture(root, cache, tmp_path, capsys):
    further = write_photos(tmp_path / "further", 2)
    picture = tmp_path / "sheet.png"
    options = [f"--photos={further}", "--versions=2", f"--output={picture}"]
    cli.main(["data", "forgeries", str(root), *options])
    printed = capsys.readouterr().out
    assert "16 of 8 photos (2 of further, 6 of real)" in printed and str(picture) in printed
    sheet = np.asarray(Image.open(picture))
    assert sheet.shape[1] == 6 * 256 and sheet.shape[0] > 3 * 256
    assert (sheet == (0, 255, 0)).all(-1).sum() > 500  # outlines
