"""Tiny data sets as the published ones are laid out, with the traps of each."""

import csv
import json
from pathlib import Path

import numpy as np
from conftest import make_photo
from PIL import Image

SIZE = 24
SPLITS = {"training": "train", "validation": "valid", "testing": "test"}


def box(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Return a mask ``[size, size]`` bool with a box of its own for each seed, True = fake."""
    mask = np.zeros((size, size), bool)
    mask[2 + seed % 5 : 14 + seed % 7, 3 + seed % 4 : 12 + seed % 9] = True
    return mask


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    """Write pixels, bool ones as black and white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    Image.fromarray(pixels).save(path, **options)
    return path


def photo(path: Path, seed: int = 0, size: int = SIZE) -> Path:
    """Write a photo with pixels of its own."""
    name = sum(path.as_posix().encode()) + 1000 * seed
    return save(path, make_photo(np.random.default_rng(name), size))


def autosplice(root: Path) -> Path:
    """Two photos; the first has two forgeries in each quality, which share its mask."""
    for number, name in enumerate(("10", "20")):
        photo(root / f"Authentic/{name}.jpg")
        save(root / f"Mask/{name}_mask.png", box(number))
        for quality in (75, 90, 100):
            for k in range(2 - number):
                photo(root / f"Forged_JPEG{quality}/{name}_{k}.jpg", quality + k)
    return root


def cocoglide(root: Path) -> Path:
    """Two photos, one of a category with a blank in its name."""
    for number, category in ((7, "dining table"), (31, "cat")):
        photo(root / f"real/{category}_{number}.png")
        photo(root / f"fake/glide_inpainting_val2017_{number}_up.png")
        save(root / f"mask/{category}_{number}_mask.png", box(number))
    return root


def tgif(root: Path) -> Path:
    """A photo in each split, with forgeries of all kinds; each kind has a mask of its own size."""
    for part in SPLITS:
        for number in (134886,):
            folder = f"{part}/hair drier"
            photo(root / f"original/{folder}/{number}_orig.png", len(part), 48)
            photo(root / f"original/{folder}/{number}_orig_512.png", len(part), 32)
            for kind, seed in (("segm", 0), ("bbox", 1)):
                mask = f"{number}_mask_{kind}"
                save(root / f"masks/{folder}/{mask}.png", box(seed + 5, 48))
                save(root / f"masks/{folder}/{mask}.png_ps_mask.png", box(seed, 48))
                save(root / f"masks/{folder}/{mask}_512.png", box(seed + 2, 32))
                for k in range(2):
                    photo(root / f"SD2-sp/{folder}/{mask}.png_ps_mask.png_sd2_{k}.png", k, 48)
                    photo(root / f"PS-sp/{folder}/{mask}.png_ps_{k}.png", k, 48)
                    photo(root / f"SD2-fr/{folder}/{mask}.png_sd2-512_{k}.png", k, 32)
    return root


def bfree(root: Path) -> Path:
    """Two photos for training and one for validation, in all six versions."""
    kinds = ("selfconditioned", "inpainted_samecat", "inpainted_diffcat")
    made = [f"SD2.1_{kind}{pasted}" for kind in kinds for pasted in ("", "_origBG")]
    lists = {"train": ["000000000001", "000000000002"], "valid": ["000000000003"]}
    for split, numbers in lists.items():
        with (root / f"{split}_list.csv").open("w") as file:
            csv.writer(file).writerows([["id", "category"], *([n, "a cat"] for n in numbers)])
        for number in numbers:
            save(root / f"mask/{number}.png", box(int(number)))
            save(root / f"bbox/{number}.png", box(int(number) + 3))
            for folder in ("COCO_real_512", *made):
                photo(root / f"{folder}/{number}.png")
    return root


def mani(root: Path) -> Path:
    """Forged photos with masks in grey RGB, of which one ends on _gt, and untouched ones."""
    for number, ending in enumerate(("", "_gt")):
        photo(root / f"Tp/photo{number}.jpg")
        save(root / f"Gt/photo{number}{ending}.png", np.stack([box(number)] * 3, -1))
        photo(root / f"Au/au{number}.jpg")
    return root


def imdl_json(root: Path) -> Path:
    """A list of a forged and an untouched photo, paths relative to it."""
    mani(root)
    entries = [["./Tp/photo0.jpg", "./Gt/photo0.png"], ["Au/au0.jpg", "Negative"]]
    (root / "list.json").write_text(json.dumps(entries))
    return root / "list.json"


def casia1(root: Path) -> Path:
    """A spliced photo and a copied region; masks are 1 where it is fake, one photo has none."""
    spliced, copied = "Sp_D_CND_A_pla0005_ani0023_0281", "Sp_S_CND_A_pla0016_pla0016_0196"
    for name in ("Au_ani_0023", "Au_pla_0016"):
        photo(root / f"Au/{name}.jpg")
    for number, (kind, name) in enumerate((("Sp", spliced), ("CM", copied))):
        photo(root / f"Tp/{kind}/{name}.jpg")
        truth = root / f"CASIA 1.0 groundtruth/{kind}/{name}_gt.png"
        save(truth, box(number).astype(np.uint8))
    photo(root / "Tp/Sp/Sp_D_NRN_A_cha0011_sec0011_0542.jpg")
    (root / "Tp/Sp/Thumbs.db").write_bytes(b"x")
    return root


def casia2(root: Path, count: int = 12) -> Path:
    """Photos of which each has a forgery; one mask ends on _gt3, one lies on its side."""
    for number in range(count):
        name = f"Tp_D_CRN_S_N_cha0006{number:03}_art0001{number:03}_118{number:02}"
        photo(root / f"Au/Au_art_0001{number:03}.jpg")
        photo(root / f"Tp/{name}.tif")
        mask = box(number)[:, :16] if number == 1 else box(number)
        save(root / f"CASIA 2 Groundtruth/{name}_gt{'3' * (number == 0)}.png", mask)
    return root


def columbia(root: Path) -> Path:
    """A spliced photo with a mask in green and red, as a JPEG."""
    photo(root / "4cam_auth/canong3_02_sub_01.tif")
    photo(root / "4cam_splc/canong3_canonxt_sub_01.tif")
    colours = np.where(box(0, 64)[..., None], [0, 200, 0], [200, 0, 0]).astype(np.uint8)
    save(root / "4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask.jpg", colours, quality=95)
    return root


def coverage(root: Path) -> Path:
    """Two photos with forgeries; one mask has another size, and there are masks of other things."""
    for number in (1, 41):
        photo(root / f"image/{number}.tif")
        photo(root / f"image/{number}t.tif")
        for kind, seed in (("forged", number), ("copy", 3), ("paste", 4)):
            mask = box(seed).astype(np.uint8) * 130
            save(root / f"mask/{number}{kind}.tif", mask[:, :16] if number == 41 else mask)
    (root / "readme.txt").write_text("x")
    return root


def nist16(root: Path) -> Path:
    """Two targets that share a mask, black = fake at a grey of 100, and an untouched photo."""
    for number in (1, 2, 3):
        photo(root / f"probe/NC2016_{number:04}.jpg")
    mask = "reference/manipulation/mask/NC2016_9000.png"
    save(root / mask, np.where(box(), 100, 255).astype(np.uint8))
    head = "TaskID|ProbeFileID|ProbeFileName|ProbeMaskFileName|IsTarget|BaseFileName"
    rows = [
        f"m|1|probe/NC2016_0001.jpg|{mask}|Y|world/base_7.jpg",
        f"m|2|probe/NC2016_0002.jpg|{mask}|Y|world/base_7.jpg",
        "m|3|probe/NC2016_0003.jpg||N|world/base_8.jpg",
    ]
    table = root / "reference/manipulation/NC2016-manipulation-ref.csv"
    table.write_text("\n".join([head, *rows]) + "\n")
    return root


def imd2020(root: Path) -> Path:
    """Two originals, one with two forgeries."""
    for folder, names in (("1a07yi", ("c8tf5mq_0", "c8u2q9_0")), ("z14", ("00030_fake",))):
        photo(root / f"{folder}/{folder}_orig.jpg")
        for number, name in enumerate(names):
            photo(root / f"{folder}/{name}.jpg")
            save(root / f"{folder}/{name}_mask.png", box(number))
    return root


def dso1(root: Path) -> Path:
    """A spliced and a normal photo; black = fake."""
    photo(root / "DSO-1/normal-01.png")
    photo(root / "DSO-1/splicing-09.png")
    save(root / "DSO-1-Fake-Images-Masks/splicing-09.png", ~box())
    return root


def manifest(root: Path) -> Path:
    """A list with all that a row can say."""
    photo(root / "a.jpg")
    photo(root / "b.jpg")
    photo(root / "c.jpg")
    photo(root / "d.jpg")
    save(root / "b.png", box(1))
    save(root / "d.png", ~box(2))
    rows = [
        ["image", "mask", "generator", "split", "source", "polarity", "prompt"],
        ["a.jpg", "", "", "test", "photo 1", "", ""],
        ["b.jpg", "b.png", "brush", "test", "photo 1", "", "a cat, asleep"],
        ["c.jpg", "all", "dream", "test", "", "", ""],
        ["d.jpg", "d.png", "brush", "train", "photo 2", "black", ""],
    ]
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root / "list.csv"


TREES = {
    "autosplice": autosplice,
    "bfree": bfree,
    "brgen": mani,
    "casia1": casia1,
    "casia2": casia2,
    "cocoglide": cocoglide,
    "columbia": columbia,
    "coverage": coverage,
    "dso1": dso1,
    "imd2020": imd2020,
    "imdl-json": imdl_json,
    "imdl-mani": mani,
    "manifest": manifest,
    "nist16": nist16,
    "tgif": tgif,
}
