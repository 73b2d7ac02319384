"""Layout, pairing, polarity, transforms, checks, and the data module."""

import re
import shutil

import albumentations as A
import numpy as np
import pytest
import torch
import yaml
from conftest import COUNTS, find, make_photo, make_tree
from PIL import Image

from declip_pl import cli
from declip_pl.data.check import check_data
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import LocalizationDataset, collate
from declip_pl.data.folders import walk
from declip_pl.data.images import read_photo
from declip_pl.data.index import DataIndex
from declip_pl.data.layout import SPLITS, build_layout, select_generators
from declip_pl.data.layouts.dolos import source_root
from declip_pl.data.masks import read_mask
from declip_pl.data.transforms import AntialiasedResize, build_transform, make_changes, resize_mask
from declip_pl.errors import UserError
from declip_pl.model.features import CLIP_MEAN, CLIP_STD, Preprocessing

SMALL = Preprocessing(64)


def module(root, **changes):
    options = {"generator": "ldm", "batch_size": 4, "num_workers": 0}
    data = LocalizationDataModule(str(root), **options | changes)
    data.preprocessing = SMALL
    return data


def check(root, *generators, polarity="black"):
    layout = build_layout("dolos", root)
    wanted = dict.fromkeys(SPLITS, generators or ["ldm"])
    return check_data(layout, wanted, polarity, DataIndex(layout.root), progress=False)


def test_samples_pair_by_relative_path_whatever_the_suffix(own_tree):
    folder = own_tree / "fake/ldm"
    for number, suffix in enumerate([".JPG", ".webp", ".Png", ".tiff"]):
        image = folder / "images/train" / f"{number}.png"
        Image.open(image).save(image.with_suffix(suffix))
        image.unlink()
    inner = folder / "images/train/inner"
    inner.mkdir()
    (folder / "masks/train/inner").mkdir()
    (folder / "images/train/7.png").rename(inner / "7.png")
    (folder / "masks/train/7.png").rename(folder / "masks/train/inner/7.PNG")
    found = find(own_tree, "ldm", "train")
    assert len(found) == COUNTS["train"]
    assert {s.image.suffix for s in found} >= {".JPG", ".webp", ".Png", ".tiff"}
    assert all(s.image.stem == s.mask.stem for s in found)


def test_root_may_be_the_source_or_the_folder_above(tmp_path):
    make_tree(tmp_path / "dolos/ffhq", counts={"train": 1})
    assert source_root(tmp_path / "dolos", "ffhq") == tmp_path / "dolos/ffhq"
    assert source_root(tmp_path / "dolos/ffhq") == tmp_path / "dolos/ffhq"
    with pytest.raises(UserError, match="expected Dolos' layout"):
        source_root(tmp_path / "dolos", "celebahq")
    with pytest.raises(UserError, match="is not celebahq; name the folder above"):
        source_root(tmp_path / "dolos/ffhq", "celebahq")
    with pytest.raises(UserError, match="there is no folder"):
        source_root(tmp_path / "nowhere")


def test_choice_of_generators(tree):
    assert select_generators(build_layout("dolos", tree), "ldm") == ["ldm"]
    assert select_generators(build_layout("dolos", tree), "ldm+lama") == ["ldm", "lama"]
    assert select_generators(build_layout("dolos", tree), "all") == ["lama", "ldm"]
    assert select_generators(build_layout("dolos", tree), "all-but-ldm") == ["lama"]
    assert select_generators(build_layout("dolos", tree), "ldm+ldm") == ["ldm"]
    with pytest.raises(UserError, match="leaves no generator"):
        select_generators(build_layout("dolos", tree), "all-but-ldm+lama")
    for typo in ("typo", "ldm+typo", "all-but-typo"):
        with pytest.raises(UserError, match=r"no generator 'typo'.*found: lama, ldm"):
            select_generators(build_layout("dolos", tree), typo)


def test_polarity_says_which_grey_value_is_fake(tmp_path):
    mask = np.full((8, 8), 255, np.uint8)
    mask[:2] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    black = read_mask(tmp_path / "mask.png", "black")
    white = read_mask(tmp_path / "mask.png", "white")
    assert black[:2].all() and not black[2:].any()
    assert black.dtype == bool and (black != white).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_8_bit_mode_reads_as_rgb(tmp_path, mode):
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    photo = Image.new("RGB", (4, 4), (255, 255, 255))
    photo.convert(mode).save(path)
    assert np.array_equal(read_photo(path), np.full((4, 4, 3), 255))


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [("images", np.float32, "8 or 16 bits"), ("masks", np.uint16, "8 bits")],
)
def test_files_that_pil_would_clip_are_refused(own_tree, kind, dtype, expected):
    path = own_tree / f"fake/ldm/{kind}/train/0.png"
    path.unlink()
    path = path.with_suffix(".tif")
    Image.fromarray(np.full((96, 96), 300, dtype)).save(path)
    message = f"{path}: expected {expected} a channel"
    with pytest.raises(UserError, match=re.escape(message)):
        module(own_tree).train_set()[0]
    assert message in check(own_tree).errors[0]


def test_photos_of_16_bits_train(own_tree):
    path = own_tree / "fake/ldm/images/train/0.png"
    path.unlink()
    deep = np.random.default_rng(0).integers(0, 2**16, (96, 96), dtype=np.uint16)
    Image.fromarray(deep).save(path)
    grey = np.dstack([(deep >> 8).astype(np.uint8)] * 3)
    expected = build_transform(SMALL)(image=grey)["image"]
    assert torch.equal(module(own_tree).train_set()[0]["image"], expected)
    assert check(own_tree).errors == []


def test_one_bit_masks(tmp_path):
    mask = np.ones((8, 8), bool)
    mask[:2] = False
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", "black").sum() == 16


@pytest.mark.parametrize(("size", "side"), [((300, 211), 64), ((40, 40), 64), ((64, 64), 64)])
def test_resize_equals_pil_antialiased_bilinear(size, side):
    photo = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    resized = AntialiasedResize(side)(image=photo)["image"]
    expected = Image.fromarray(photo).resize((side, side), Image.Resampling.BILINEAR)
    assert np.array_equal(resized, np.asarray(expected))
    # and PIL's is what "antialiased bilinear" says: a triangle filter as wide as the scale
    tensor = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    reference = torch.nn.functional.interpolate(
        tensor, (side, side), mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)
    assert np.abs(resized - reference.numpy()).max() <= 1.01


def test_transform_normalises_with_clip_statistics():
    photo = np.full((100, 80, 3), 128, np.uint8)
    pixels = build_transform(SMALL)(image=photo)["image"]
    expected = (128 / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    torch.testing.assert_close(pixels[:, 0, 0], expected, atol=1e-5, rtol=1e-5)


def test_resized_masks_stay_binary():
    mask = np.random.default_rng(0).random((50, 40)) > 0.5
    resized = resize_mask(mask, 256)
    assert resized.shape == (256, 256) and resized.dtype == bool
    assert resized.any() and not resized.all()


@pytest.mark.parametrize("name", ["blur", "jitter", "jpeg", "all"])
def test_augmentations_change_the_photo_reproducibly(name):
    photo = make_photo(np.random.default_rng(0))
    plain, transform = build_transform(SMALL)(image=photo)["image"], build_transform(SMALL, name)

    def apply(seed):
        transform.set_random_seed(seed)
        return transform(image=photo)["image"]

    first, again, other = apply(1), apply(1), apply(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, plain)


def test_dataset_item_and_batch(tree):
    data = LocalizationDataset("x", find(tree, "ldm", "test"), build_transform(SMALL), "black")
    item = data[0]
    assert item["image"].shape == (3, 64, 64)
    assert item["mask"].dtype == torch.bool and item["mask"].sum() == 40 * 40
    assert item["label"] == 1
    batch = collate([data[0], data[1]])
    assert batch["image"].shape == (2, 3, 64, 64)
    assert len(batch["mask"]) == len(batch["path"]) == 2
    real = LocalizationDataset("x", find(tree, "real", "test"), build_transform(SMALL), "black")[0]
    assert real["label"] == 0 and not real["mask"].any()


def test_masks_mark_the_pixels_that_were_changed(tree):
    """End to end polarity: where the mask says fake, the fake differs from its real photo."""
    for real, fake in zip(find(tree, "real", "test"), find(tree, "ldm", "test"), strict=True):
        changed = (np.asarray(Image.open(real.image)) != np.asarray(Image.open(fake.image))).any(2)
        marked = read_mask(fake.mask, "black")
        assert changed[marked].mean() > 0.99 and not changed[~marked].any()


def test_a_clean_data_set_has_no_findings(tree):
    report = check(tree, "ldm", "real")
    assert report.errors == report.warnings == []
    assert report.images == 3 * sum(COUNTS.values())  # photo, mask, real photo


def test_check_lists_everything_at_once(own_tree):
    images, masks = own_tree / "fake/ldm/images/train", own_tree / "fake/ldm/masks/train"
    (masks / "0.png").unlink()
    (images / "1.png").unlink()
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:900])
    (masks / "3.png").write_text("not an image")
    Image.fromarray(np.full((96, 96), 255, np.uint8)).save(masks / "4.png")
    Image.fromarray(np.arange(96 * 96, dtype=np.uint8).reshape(96, 96)).save(masks / "5.png")
    Image.open(masks / "6.png").resize((96, 40)).save(masks / "6.png")
    (own_tree / "fake/ldm/images/valid").rename(own_tree / "elsewhere")
    report = check(own_tree, "ldm", "lama")
    errors, warnings = "\n".join(report.errors), "\n".join(report.warnings)
    assert "train/0.png: no mask" in errors
    assert "train/1.png: no image" in errors
    assert "images/train/2.png: can't be decoded" in errors
    assert "masks/train/3.png is no photo: expected JPEG, PNG" in errors
    assert errors.count("masks/valid") == COUNTS["valid"]
    assert f"{own_tree}: no valid photo of ldm" in errors
    assert "masks/train/4.png: no fake pixel" in warnings
    assert "masks/train/5.png: expected a mask in black and white, 0 and 255" in errors
    assert "masks/train/6.png: (96, 40) px, another aspect ratio" in warnings
    assert "lama" not in errors + warnings
    with pytest.raises(UserError, match=r"2\.png"):
        report.raise_errors()


def test_inverted_masks_are_suspicious(tree):
    """More than half fake may be meant, so it is a warning, which names the switch."""
    report = check(tree, polarity="white")
    assert report.errors == [] and len(report.warnings) == 1
    assert "83 % of all pixels are fake if white means fake" in report.warnings[0]
    for switch in ("--polarity black", "POLARITY=black", "--data.polarity black"):
        assert switch in report.warnings[0]
    report.raise_errors()  # nothing


def test_masks_of_zeros_and_ones_are_errors_not_inverted(own_tree):
    for path in (own_tree / "fake/ldm/masks").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
    errors = check(own_tree).errors
    assert len(errors) == 16 and all("found grey values up to 1" in error for error in errors)


def test_a_set_without_any_fake_pixel_is_an_error(own_tree):
    for path in (own_tree / "fake/ldm/masks").rglob("*.png"):
        Image.new("L", (96, 96), 255).save(path)
    errors = check(own_tree).errors
    assert len(errors) == 1 and "no mask has a single fake pixel" in errors[0]


def test_a_damaged_photo_never_trains_silently(own_tree):
    image = own_tree / "fake/ldm/images/train/2.png"
    image.write_bytes(image.read_bytes()[:900])
    data = module(own_tree, check=False).train_set()
    with pytest.raises(UserError, match=r"2\.png: can't be decoded"):
        [data[index] for index in range(len(data))]


def test_files_of_a_folder_are_those_with_a_usual_suffix(tmp_path):
    for name in ("b.JPEG", "a.png", "notes.txt", ".DS_Store", "c.TIF"):
        (tmp_path / name).touch()
    assert [p.name for p in walk(tmp_path).photos] == ["a.png", "b.JPEG", "c.TIF"]


def test_sets_of_the_data_module(tree):
    data = module(tree, generator="lama+ldm")
    assert len(data.train_set()) == 2 * COUNTS["train"]
    assert data.train_set()[0]["mask"].shape == (256, 256)
    names = [s.name for s in data.test_sets()]
    assert names == ["test/lama", "test/ldm", "test/real"]
    assert [s.name for s in data.valid_sets()] == ["valid/lama+ldm", "valid/real"]


def test_weak_supervision_trains_on_reals_too(tree):
    data = module(tree, supervision="weak")
    labels = [data.train_set()[i]["label"] for i in range(len(data.train_set()))]
    assert sum(labels) == COUNTS["train"] and len(labels) == 2 * COUNTS["train"]
    assert len(data.val_dataloader()) == 2


def test_without_real_photos_there_is_no_real_set(own_tree):
    shutil.rmtree(own_tree / "real")
    data = module(own_tree)
    assert [s.name for s in data.test_sets() + data.valid_sets()] == ["test/ldm", "valid/ldm"]


def test_training_order_depends_on_seed_and_epoch_only(tree):
    def order(seed, epoch):
        loader = module(tree, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [path for batch in loader for path in batch["path"]]

    assert order(0, 0) == order(0, 0) != order(0, 1) != order(1, 1)
    assert sorted(order(0, 0)) == sorted(order(0, 1))


def test_fingerprint_follows_the_files(own_tree):
    before = module(own_tree).fingerprint
    assert module(own_tree).fingerprint == before
    path = own_tree / "fake/ldm/images/test/0.png"
    path.rename(path.with_name("renamed.png"))
    mask = own_tree / "fake/ldm/masks/test/0.png"
    mask.rename(mask.with_name("renamed.png"))
    assert module(own_tree).fingerprint != before


def test_train_masks(tree):
    masks = np.stack(list(module(tree).train_masks()))
    assert masks.shape == (COUNTS["train"], 256, 256) and masks.dtype == bool
    assert masks.mean() == pytest.approx((40 / 96) ** 2, rel=0.05)


@pytest.mark.parametrize("name", ["real", "all", "all-but-x", "a+b"])
def test_generators_with_names_that_mean_something_else_are_refused(own_tree, name):
    (own_tree / "fake" / name).mkdir()
    with pytest.raises(UserError, match="is no generator's name; rename it"):
        select_generators(build_layout("dolos", own_tree), "ldm")


def test_real_photos_of_one_name_are_an_error(own_tree):
    photo = own_tree / "real/test/0.png"
    Image.open(photo).save(photo.with_suffix(".jpg"))
    with pytest.raises(UserError, match="the same name as"):
        find(own_tree, "real", "test")


@pytest.mark.parametrize(
    "options", [{"views": -1, "augmentation": "blur"}, {"views": 2}, {"views": 2, "cache": False}]
)
def test_views_are_of_augmented_cached_photos(tree, options):
    with pytest.raises(UserError, match="views counts the cached versions of augmented photos"):
        LocalizationDataModule(str(tree), "ldm", **options)


LIST = """
- class_path: albumentations.GaussNoise
  init_args: {std_range: [0.2, 0.4], p: 1.0}
- blur
- class_path: albumentations.ToGray
  init_args: {p: 1.0}
"""


def seeded(transform, photo, seed=3):
    transform.set_random_seed(seed)
    return transform(image=photo)["image"]


def test_a_list_of_albumentations_from_yaml():
    photo = make_photo(np.random.default_rng(0))
    ours = build_transform(SMALL, yaml.safe_load(LIST))
    noise, blur, grey = make_changes(yaml.safe_load(LIST))
    assert isinstance(noise, A.GaussNoise) and noise.std_range == (0.2, 0.4) and noise.p == 1
    assert isinstance(blur, A.GaussianBlur) and isinstance(grey, A.ToGray)
    theirs = A.Compose(
        [
            AntialiasedResize(64),
            A.GaussNoise(std_range=(0.2, 0.4), p=1.0),
            *make_changes("blur"),
            A.ToGray(p=1.0),
            A.Normalize(SMALL.mean, SMALL.std),
            A.pytorch.ToTensorV2(),
        ]
    )
    assert torch.equal(seeded(ours, photo), seeded(theirs, photo))
    assert not torch.equal(seeded(ours, photo), seeded(ours, photo, seed=4))
    levels = seeded(ours, photo) * torch.tensor(CLIP_STD).view(3, 1, 1)
    levels += torch.tensor(CLIP_MEAN).view(3, 1, 1)
    torch.testing.assert_close(levels[0], levels[2], atol=1e-5, rtol=0)  # grey comes last


def test_a_perturbation_comes_before_the_resize_and_an_augmentation_after():
    photo = make_photo(np.random.default_rng(0))
    grey = [{"class_path": "albumentations.Posterize", "init_args": {"num_bits": [1, 1], "p": 1.0}}]
    before = build_transform(SMALL, perturbation=grey)(image=photo)["image"]
    after = build_transform(SMALL, grey)(image=photo)["image"]
    assert len(after.unique()) <= 6 < len(before.unique())  # two levels in each channel
    small = AntialiasedResize(64)(image=A.Posterize(num_bits=(1, 1), p=1.0)(image=photo)["image"])
    expected = A.Normalize(SMALL.mean, SMALL.std)(image=small["image"])["image"]
    assert torch.equal(before, torch.from_numpy(expected).permute(2, 0, 1))


def _spec(name, **init_args):
    return {"class_path": f"albumentations.{name}", "init_args": init_args}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("blurr", "no augmentation 'blurr'; choose one of jitter, jpeg, blur"),
        (["blur", "blurr"], "no augmentation 'blurr'"),
        ([_spec("GaussianBlur", blur=3)], "'blur'"),  # albumentations itself only warns
        ([_spec("GaussianBlur", blur_limit=(5, 5), sigma=1)], "'sigma'"),
        ([_spec("GaussianBlur", blur_limit="wide")], "GaussianBlur"),
        ([_spec("Blurr")], "albumentations has no class Blurr"),
        ([_spec("HorizontalFlip")], "may move pixels"),
        ([_spec("Rotate", limit=3)], "may move pixels"),
        ([_spec("RandomCrop", height=8, width=8)], "may move pixels"),
        ([_spec("ElasticTransform")], "may move pixels"),
        ([{"class_path": "shutil.Error"}], "code outside declip-pl"),
    ],
)
@pytest.mark.parametrize("option", ["augmentation", "perturbation"])
def test_changes_that_are_wrong_are_refused_at_once(tree, option, changes, message):
    with pytest.raises(UserError, match=message):
        module(tree, **{option: changes})
    with pytest.raises(UserError, match=message):
        build_transform(SMALL, **{option: changes})


def test_training_photos_are_changed_and_evaluated_ones_are_not(tree):
    dark = [_spec("RandomBrightnessContrast", brightness_limit=[-0.5, -0.5], p=1.0)]
    plain, changed = module(tree), module(tree, augmentation=dark)
    perturbed = module(tree, perturbation=dark)
    before = plain.train_set()[0]["image"]
    assert changed.train_set()[0]["image"].mean() < before.mean() - 0.3
    assert torch.equal(perturbed.train_set()[0]["image"], before)
    before, same, darker = (
        data.valid_sets()[0][0]["image"] for data in (plain, changed, perturbed)
    )
    assert torch.equal(before, same) and darker.mean() < before.mean() - 0.3


def test_a_change_of_ones_own(tmp_path, monkeypatch):
    body = (
        "import albumentations as A\n"
        "class Invert(A.ImageOnlyTransform):\n"
        "    def apply(self, img, **params):\n"
        "        return 255 - img\n"
    )
    (tmp_path / "own_changes.py").write_text(body)
    monkeypatch.setenv("DECLIP_PARTS", str(tmp_path / "own_changes.py"))
    changes = [{"class_path": "own_changes.Invert", "init_args": {"p": 1.0}}]
    photo = make_photo(np.random.default_rng(0), 64)
    found = build_transform(SMALL, changes)(image=photo)["image"]
    assert torch.equal(found, build_transform(SMALL)(image=255 - photo)["image"])


FLAT = """
from declip_pl.data.layout import REAL, Sample

class Flat:
    polarity = "white"
    def __init__(self, root, reals="true"):
        self.root, self.reals = root, reals
    def generators(self):
        return ["brush"]
    def samples(self, split):
        found = []
        for photo in sorted((self.root / split).glob("*.png")):
            if not photo.stem.endswith("_mask"):
                mask = photo.with_name(photo.stem + "_mask.png")
                fake = mask.is_file()
                generator = "brush" if fake else REAL
                found.append(Sample(photo.stem, photo, mask if fake else None, generator))
        return found
"""


@pytest.fixture
def flat(tmp_path):
    """A data set of another layout: masks beside photos, white is fake."""
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        (tmp_path / "flat" / split).mkdir(parents=True)
        for index in range(3):
            path = tmp_path / "flat" / split / f"{index}.png"
            Image.fromarray(make_photo(rng)).save(path)
            if index:
                mask = np.zeros((96, 96), np.uint8)
                mask[:24] = 255
                Image.fromarray(mask).save(path.with_name(f"{index}_mask.png"))
    (tmp_path / "own_layout.py").write_text(FLAT)
    return tmp_path / "flat"


def test_a_layout_of_ones_own(flat, monkeypatch):
    spec = {"class_path": "own_layout.Flat"}
    with pytest.raises(UserError, match=r"data layout own_layout\.Flat is code outside"):
        module(flat, layout=spec)
    monkeypatch.setenv("DECLIP_PARTS", str(flat.parent / "own_layout.py"))
    data = module(flat, layout=spec, generator="all", supervision="weak")
    assert (data.generators, data.mask_rule, data.has_reals) == (["brush"], "white", True)
    items = [data.train_set()[index] for index in range(3)]
    assert [item["label"] for item in items] == [1, 1, 0]
    assert [item["mask"].float().mean().item() for item in items] == [0.25, 0.25, 0]
    names = [photos.name for photos in data.test_sets()]
    assert names == ["test/brush", "test/real"]
    assert module(flat, layout=spec, generator="brush", polarity="black").mask_rule == "black"
    wanted = dict.fromkeys(SPLITS, ("brush", "real"))
    report = check_data(data.layout, wanted, "white", data.index, progress=False)
    assert report.errors == report.warnings == [] and report.images == 9 + 6
    with pytest.raises(UserError, match=r"no generator 'ldm' in .*found: brush"):
        module(flat, layout=spec, generator="ldm")
    with pytest.raises(UserError, match=r"Flat: .*'depth'; it takes root, reals"):
        module(flat, layout=spec | {"init_args": {"depth": 3}})


def test_unknown_layouts(tree):
    with pytest.raises(UserError, match=r"no data layout 'flat'; choose one of .*dolos, "):
        module(tree, layout="flat")


def test_the_command_checks_a_layout_of_ones_own(flat, monkeypatch, capsys):
    monkeypatch.setenv("DECLIP_PARTS", str(flat.parent / "own_layout.py"))
    cli.main(["data", "check", str(flat), "--layout", "own_layout.Flat"])
    printed = capsys.readouterr().out
    assert "15 files decoded" in printed and "warning" not in printed
    cli.main(["data", "check", str(flat), "--layout", "own_layout.Flat", "--polarity", "black"])
    assert "75 % of all pixels are fake if black means fake" in capsys.readouterr().out
