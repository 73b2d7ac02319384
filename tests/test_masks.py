"""What a mask may be: black and white however it is stored; everything else is refused by name."""

import io
import re

import numpy as np
import pytest
from conftest import check_all, make_tree
from hypothesis import given
from hypothesis import strategies as st
from image_files import GREY, PHOTO, SHORT_EXIF, file_of, turned
from PIL import Image

from declip_pl import cli
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.layout import build_layout
from declip_pl.data.masks import BAND, read_mask
from declip_pl.data.stamps import content_hash
from declip_pl.errors import UserError

FAKE = np.zeros((40, 24), bool)
FAKE[5:20, 3:12] = True
MASK = np.where(FAKE, 0, 255).astype(np.uint8)  # black is fake
COLUMBIA = np.where(FAKE[..., None], (0, 200, 0), (200, 0, 0)).astype(np.uint8)
STROKE = np.dstack([np.zeros((40, 24, 3), np.uint8), 255 - MASK])
DEEP = MASK.astype(np.uint16) * 257
CMYK = np.dstack([np.zeros((40, 24, 3), np.uint8), 255 - MASK])
LABELS = np.where(FAKE, 2, 1).astype(np.uint8)
LABELS[:3] = 0
THIRD = MASK.copy()
THIRD[25:35, 4:16] = 128
RAMP = np.tile(np.linspace(0, 255, 24).astype(np.uint8), (40, 1))
NOISY = np.random.default_rng(0).choice([0, 100, 150, 160], (40, 24)).astype(np.uint8)


def palette(array: np.ndarray, colours: list[int], **options) -> bytes:
    """Return indices ``[H, W]`` as a PNG with a palette."""
    image, buffer = Image.fromarray(array, "L"), io.BytesIO()
    image = Image.frombytes("P", image.size, array.tobytes())
    image.putpalette(colours)
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def pages(format_: str) -> bytes:
    """Return a mask with a second frame or page that says otherwise."""
    more = [Image.fromarray(255 - MASK)]
    return file_of(MASK, format_, save_all=True, append_images=more)


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(CMYK, "CMYK").save(buffer, "TIFF")
    return buffer.getvalue()


MASKS = {
    "plain.png": file_of(MASK, "PNG"),
    "one bit.png": file_of(MASK > 0, "PNG"),
    "colour.png": file_of(MASK, "PNG", mode="RGB"),
    "palette.gif": file_of(MASK, "GIF"),
    "palette of two.png": palette(np.uint8(1) * (MASK > 0), [0, 0, 0, 255, 255, 255]),
    "opaque.png": file_of(MASK, "PNG", mode="RGBA"),
    "ink.tif": cmyk(),
    "lossy.jfif": file_of(MASK, "JPEG", mode="RGB", quality=90),
    "very lossy.jpg": file_of(MASK, "JPEG", quality=30),
    "turned.png": turned("PNG", 6, np.rot90(MASK)),
    "short EXIF.png": file_of(MASK, "PNG", exif=SHORT_EXIF),
}
"""One mask, stored in several ways."""

NO_MASKS = {
    "red and green.png": (
        file_of(COLUMBIA, "PNG"),
        "red and green channels differ by up to 200",
    ),
    "blue.png": (file_of(np.dstack([MASK, MASK, GREY]), "PNG"), "green and blue channels differ"),
    "alpha over a photo.png": (
        file_of(np.dstack([PHOTO, MASK]), "PNG"),
        "its alpha channel goes from 0 to 255; save it as these two, or read it by a layout",
    ),
    "stroke on nothing.png": (file_of(STROKE, "PNG"), "its alpha channel goes from 0 to 255"),
    "grey and alpha.png": (
        file_of(STROKE, "PNG", mode="LA"),
        "its alpha channel goes from 0 to 255",
    ),
    "clear palette.png": (
        palette(np.uint8(1) * (MASK > 0), [0, 0, 0, 255, 255, 255], transparency=0),
        "its alpha channel goes from 0 to 255",
    ),
    "classes.png": (
        palette(np.uint8(1) * FAKE, [0, 0, 0, 128, 0, 0]),
        "red and green channels differ by up to 128",
    ),
    "deep.png": (file_of(DEEP, "PNG"), "expected 8 bits a channel, found PIL mode I;16"),
    "truncated.png": (file_of(MASK, "PNG")[:60], "can't be decoded as an image"),
    "pages.tif": (pages("TIFF"), "expected one mask, found several frames or pages"),
    "animated.gif": (pages("GIF"), "expected one mask, found several frames or pages"),
    "animated.png": (pages("PNG"), "expected one mask, found several frames or pages"),
    "animated.webp": (pages("WEBP"), "expected one mask, found several frames or pages"),
    "labels.png": (
        file_of(LABELS, "PNG"),
        "expected a mask in black and white, 0 and 255; found grey values up to 2",
    ),
    "third value.png": (
        file_of(THIRD, "PNG"),
        "expected a mask in black and white, 0 and 255; found the grey value 128 at column 8, "
        "row 29 and around",
    ),
    "third value.jpg": (file_of(THIRD, "JPEG", quality=75), "found the grey value 12"),
    "ramp.png": (file_of(RAMP, "PNG"), "found the grey value"),
    "a photo.png": (file_of(GREY, "PNG"), "found the grey value"),
    "noise.png": (file_of(NOISY, "PNG"), "found the grey value"),
}
"""What says more than black and white, or nothing."""


@pytest.fixture
def one_mask(tmp_path):
    """A data set with one training photo, and the path of its mask."""
    root = make_tree(tmp_path / "dolos", generators=("ldm",), counts={"train": 1})
    (root / "fake/ldm/images/train/0.png").write_bytes(file_of(PHOTO, "PNG"))
    (root / "fake/ldm/masks/train/0.png").unlink()
    return root, root / "fake/ldm/masks/train/0.png"


@pytest.mark.parametrize("name", MASKS)
def test_masks_stored_otherwise_read_the_same(tmp_path, name):
    (tmp_path / name).write_bytes(MASKS[name])
    found = read_mask(tmp_path / name, "black")
    assert found.dtype == bool and np.array_equal(found, FAKE)
    assert np.array_equal(read_mask(tmp_path / name, "white"), ~FAKE)


@pytest.mark.parametrize("name", NO_MASKS)
def test_other_masks_are_refused_by_name_everywhere(one_mask, name):
    """In training, evaluation and the check, by the same line."""
    content, message = NO_MASKS[name]
    root, mask = one_mask
    mask.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_mask(mask, "black")
    assert message in str(error.value) and str(mask) in str(error.value)
    report = check_all(build_layout("dolos", root), ["ldm"], "black")
    assert str(error.value) in report.errors
    data = LocalizationDataModule(str(root), "ldm", check=False)
    evaluated = data.evaluation_set("x", "train", "ldm")
    for read in (lambda: data.train_set()[0], lambda: evaluated[0], lambda: list(evaluated.masks()),
                 lambda: list(data.train_masks())):  # fmt: skip
        with pytest.raises(UserError, match=re.escape(str(error.value))):
            read()


SHAPES = st.lists(
    st.tuples(st.integers(0, 55), st.integers(0, 55), st.integers(6, 40), st.integers(6, 40)),
    min_size=1,
    max_size=5,
)
FILTERS = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]


@given(
    shapes=SHAPES,
    factor=st.sampled_from([0.5, 1, 1.5, 2, 3, 4]),
    filter_=st.sampled_from(FILTERS),
    quality=st.sampled_from([20, 50, 75, 95, None]),
)
def test_softened_edges_and_compression_noise_pass(tmp_path, shapes, factor, filter_, quality):
    """Masks that were resized with antialiasing and compressed are cut half-way."""
    mask = np.zeros((64, 64), np.uint8)
    for top, left, height, width in shapes:
        mask[top : top + height, left : left + width] = 255
    side = int(64 * factor)
    resized = Image.fromarray(mask).resize((side, side), filter_)
    path = tmp_path / ("mask.jpg" if quality else "mask.png")
    resized.save(path, **({"quality": quality} if quality else {}))
    found = read_mask(path, "white")
    clear = np.abs(np.asarray(resized, int) - 127.5) > 100  # noise may turn what is half-way
    assert np.array_equal(found[clear], (np.asarray(resized) > 127)[clear])


@given(
    value=st.integers(64, 191),
    top=st.integers(0, 56),
    left=st.integers(0, 56),
    quality=st.sampled_from([75, 95, None]),
)
def test_a_third_value_is_refused_wherever_it_stands(tmp_path, value, top, left, quality):
    side = BAND + 4 if quality else BAND  # compression softens its border
    mask = np.zeros((80, 80), np.uint8)
    mask[:, 60:] = 255
    mask[top : top + side, left : left + side] = value
    path = tmp_path / ("mask.jpg" if quality else "mask.png")
    Image.fromarray(mask).save(path, **({"quality": quality} if quality else {}))
    with pytest.raises(UserError, match=r"mask\.(jpg|png): expected a mask in black and white"):
        read_mask(path, "white")


def test_a_thin_third_value_is_told_by_the_check(one_mask):
    root, mask = one_mask
    outlined = MASK.copy()
    outlined[5:7, 3:12] = 128
    mask.write_bytes(file_of(outlined, "PNG"))
    report = check_all(build_layout("dolos", root), ["ldm"], "black")
    assert f"{mask}: not binary, 3 grey values; cut half-way" in report.warnings


GREEN = """
import csv

import numpy as np

from declip_pl.data.images import read_photo
from declip_pl.data.layouts.dolos import DolosLayout

class Green(DolosLayout):
    def __init__(self, root, cut=120):
        super().__init__(root)
        self.cut = cut
    def read_mask(self, path):
        return read_photo(path)[..., 1] > self.cut

class Grey(DolosLayout):
    def read_mask(self, path):
        return read_photo(path)[..., 1]
"""


@pytest.fixture
def green(one_mask, tmp_path, monkeypatch):
    """A data set whose masks are green where the photo is fake, and its layout outside."""
    root, mask = one_mask
    mask.write_bytes(file_of(COLUMBIA, "PNG"))
    (tmp_path / "green.py").write_text(GREEN)
    monkeypatch.setenv("DECLIP_PARTS", str(tmp_path / "green.py"))
    return root


def test_a_layout_reads_its_own_masks(green):
    data = LocalizationDataModule(str(green), "ldm", "green.Green")
    (mask,) = data.evaluation_set("x", "train", "ldm").masks()
    assert np.array_equal(mask, FAKE)
    assert np.array_equal(data.evaluation_set("x", "train", "ldm")[0]["mask"], FAKE)
    assert 0 < np.mean(list(data.train_masks())) < 0.5
    layout = build_layout("green.Green", green)
    report = check_all(layout, ["ldm"], layout.read_mask)
    assert not [line for line in report.errors if "photo of ldm" not in line]
    assert report.warnings == []


def test_its_code_and_arguments_tell_results_apart(green):
    def key(layout, polarity=None):
        data = LocalizationDataModule(str(green), "ldm", layout, polarity)
        return content_hash(data.files("train", "ldm"), data.mask_rule_key)

    other = {"class_path": "green.Green", "init_args": {"cut": 99}}
    keys = [key("green.Green"), key(other), key("dolos"), key("dolos", "white")]
    assert len(set(keys)) == 4 and key("green.Green") == keys[0]
    assert key("green.Green", "black") == key("dolos") == key("dolos", "black")


def test_a_polarity_that_is_named_reads_masks_as_grey(green):
    data = LocalizationDataModule(str(green), "ldm", "green.Green", polarity="white")
    with pytest.raises(UserError, match=r"0\.png: .*red and green channels differ"):
        data.evaluation_set("x", "train", "ldm")[0]


def test_what_an_own_reader_returns_is_checked(green):
    data = LocalizationDataModule(str(green), "ldm", "green.Grey")
    expected = r"0\.png: the layout's read_mask must return a bool array .* found uint8 \(40, 24\)"
    with pytest.raises(UserError, match=expected):
        data.train_set()[0]


def test_mostly_fake_masks_of_an_own_reader_name_no_switch(green):
    inverted = {"class_path": "green.Green", "init_args": {"cut": -1}}
    layout = build_layout(inverted, green)
    report = check_all(layout, ["ldm"], layout.read_mask)
    (line,) = [line for line in report.warnings if "of all pixels are fake" in line]
    assert line.startswith("ldm: 100 % of all pixels are fake; if that is not meant, correct")


def test_sixty_percent_painted_is_legal_and_told(tmp_path, capsys):
    """It proves nothing: the check says so by the switch, and ends with status 0."""
    root = make_tree(tmp_path / "dolos", generators=("ldm",))
    painted = np.zeros((96, 96), np.uint8)
    painted[58:] = 255
    for path in (root / "fake/ldm/masks").rglob("*.png"):
        Image.fromarray(painted).save(path)
    cli.main(["data", "check", str(root)])
    assert (
        "warning: ldm: 60 % of all pixels are fake if black means fake; if the masks are inverted, "
        "say --polarity white" in capsys.readouterr().out
    )
