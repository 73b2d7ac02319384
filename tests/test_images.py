"""What each odd input gives: its pixels, upright and in 8-bit RGB, or one error that names it."""

import io
import struct
import warnings
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from conftest import check_all, make_tree
from hypothesis import given
from hypothesis import strategies as st
from image_files import CUT_EXIF, GREY, PHOTO, SHORT_EXIF, file_of, turned
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.images import read_photo, size_of
from declip_pl.data.layout import build_layout
from declip_pl.data.masks import read_mask
from declip_pl.data.transforms import build_transform
from declip_pl.errors import UserError
from declip_pl.model.encoder import build_encoder


def _png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(header))
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + check + file_of(PHOTO, "PNG")[33:]
    )


ALPHA = np.dstack([PHOTO, np.arange(40 * 24, dtype=np.uint8).reshape(40, 24)])
DEEP = np.arange(40 * 24, dtype=np.uint16).reshape(40, 24) * 68
DEEP_SEEN = (DEEP >> 8).astype(np.uint8)[..., None]
BLACK = np.broadcast_to(np.uint8(0), (8000, 12000, 1))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
TOO_LARGE = "more than 175,000,000 pixels"
NO_PHOTO = "is no photo: expected JPEG, PNG, WEBP, TIFF, BMP, GIF"
JPEG_ERROR = 8  # levels
DAMAGED = "can't be decoded as an image"


def _deep_colour() -> bytes:
    """Return a PNG with 16 bits a channel, which PIL reads and can't write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.dstack([DEEP] * 3))
    header = struct.pack(">IIBBBBB", 24, 40, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _animated(format_: str) -> bytes:
    other = [Image.fromarray(255 - GREY)]
    return file_of(GREY, format_, save_all=True, append_images=other, lossless=True)


GIVEN = {
    # A phone held upright stores a photo that lies on its side, and says so.
    "phone photo, EXIF rotation.jpg": (turned("JPEG", 6, np.rot90(PHOTO)), PHOTO),
    "mirrored.png": (turned("PNG", 2, PHOTO[:, ::-1]), PHOTO),
    "turned.tif": (turned("TIFF", 3, PHOTO[::-1, ::-1]), PHOTO),
    "12,000 x 8,000 px.png": (file_of(BLACK[..., 0] > 0, "PNG"), BLACK),
    "1 x 1 px.png": (file_of(PHOTO[:1, :1], "PNG"), PHOTO[:1, :1]),
    "CMYK.jpg": (file_of(PHOTO, "JPEG", mode="CMYK", quality=100), PHOTO),
    "CMYK.tif": (file_of(PHOTO, "TIFF", mode="CMYK"), PHOTO),
    "16-bit grey.png": (file_of(DEEP, "PNG"), DEEP_SEEN),
    "16-bit colour.png": (_deep_colour(), DEEP_SEEN),
    "grey.png": (file_of(GREY, "PNG"), GREY[..., None]),
    "black and white.png": (file_of(GREY > 99, "PNG"), np.uint8(255) * (GREY > 99)[..., None]),
    "palette.png": (file_of(GREY, "PNG", mode="P"), GREY[..., None]),
    # What lies under transparency is analysed, as in training.
    "transparent.png": (file_of(ALPHA, "PNG"), PHOTO),
    "transparent palette.png": (
        file_of(GREY, "PNG", mode="P", transparency=b"\0\x7f"),
        GREY[..., None],
    ),
    # Of several frames the first.
    "animated.gif": (_animated("GIF"), GREY[..., None]),
    "animated.webp": (_animated("WEBP"), GREY[..., None]),
    "animated.png": (_animated("PNG"), GREY[..., None]),
    "a name with spaces and 🦊.png": (file_of(PHOTO, "PNG"), PHOTO),
    "a PNG named.jpg": (file_of(PHOTO, "PNG"), PHOTO),
    "a drawing.svg": (SVG, NO_PHOTO),
    "text named.jpg": (b"this is no photo", NO_PHOTO),
    "empty.jpg": (b"", NO_PHOTO),
    "PostScript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_PHOTO),
    "truncated.png": (file_of(PHOTO, "PNG")[:-99], DAMAGED),
    "truncated.jpg": (file_of(PHOTO, "JPEG")[:-99], DAMAGED),
    "header cut.png": (file_of(PHOTO, "PNG")[:20], DAMAGED),
    "decompression bomb.png": (_png_header(60_000, 60_000), TOO_LARGE),
    "large without a bomb.png": (_png_header(13_300, 13_200), TOO_LARGE),
    "32-bit floats.tif": (file_of(GREY.astype(np.float32), "TIFF"), "found PIL mode F"),
}
"""A file's name: its content, and its pixels or what the error says."""


@pytest.mark.parametrize("name", GIVEN)
def test_files(tmp_path, name):
    content, expected = GIVEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if isinstance(expected, str):
            with pytest.raises(UserError) as error:
                read_photo(path)
            assert expected in str(error.value) and str(path) in str(error.value)
            return
        found = read_photo(path)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    assert found.shape == (*expected.shape[:2], 3)
    if content.startswith(b"\xff\xd8"):
        assert np.abs(found.astype(int) - expected).max() <= JPEG_ERROR
    else:
        assert (found.transpose(2, 0, 1) == expected.transpose(2, 0, 1)).all()  # rows are faster


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_every_orientation(tmp_path, orientation, format_):
    (tmp_path / "photo").write_bytes(turned(format_, orientation, PHOTO))
    with Image.open(tmp_path / "photo") as image:
        upright = ImageOps.exif_transpose(image)
    assert np.array_equal(read_photo(tmp_path / "photo"), upright)
    with Image.open(tmp_path / "photo") as image:
        assert np.array_equal(read_photo(image), upright)
        image.load()  # still the caller's
    assert np.array_equal(read_photo(upright), upright)


def test_damaged_exif_does_not_matter(tmp_path):
    content = turned("JPEG", 6, PHOTO)
    assert content.count(b"MM\0*") == 1
    (tmp_path / "photo.jpg").write_bytes(content.replace(b"MM\0*", b"MM\0?"))
    assert read_photo(tmp_path / "photo.jpg").shape == PHOTO.shape


ARRAYS = {
    "uint8": (PHOTO, PHOTO),
    "alpha": (ALPHA, PHOTO),
    "grey": (GREY, GREY[..., None]),
    "one channel": (GREY[..., None], GREY[..., None]),
    "floats": (PHOTO / 255, PHOTO),
    "half floats": ((PHOTO / 255).astype(np.float16), PHOTO),
    "uint16": (PHOTO.astype(np.uint16) * 257, PHOTO),
    "big-endian": (PHOTO.astype(">u2") * 256, PHOTO),
    "a view": (PHOTO[::2, ::-1], PHOTO[::2, ::-1]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name):
    array, expected = ARRAYS[name]
    found = read_photo(array)
    assert found.dtype == np.uint8 and found.shape == (*expected.shape[:2], 3)
    assert (found == expected).all()
    assert not np.shares_memory(found, array)


def test_tensors_have_their_channels_first():
    tensor = torch.from_numpy(PHOTO.copy()).movedim(-1, 0)
    for same in (tensor, tensor.float() / 255, tensor.double() / 255, tensor.clone()):
        assert np.array_equal(read_photo(same), PHOTO)
    assert np.abs(read_photo((tensor / 255).bfloat16()).astype(int) - PHOTO).max() <= 1
    assert np.array_equal(read_photo((tensor / 255).requires_grad_()), PHOTO)
    assert (read_photo(tensor[0]) == GREY[..., None]).all()
    assert (read_photo(tensor[:1]) == GREY[..., None]).all()


REFUSED = {
    "NaN": (np.full((4, 4, 3), np.nan), "found values from nan to nan"),
    "infinity": (np.full((4, 4, 3), np.inf), "found values from inf to inf"),
    "floats up to 255": (PHOTO.astype(np.float32), r"floats in \[0, 1\].*found values from"),
    "normalised": (torch.randn(3, 4, 4), "found values from -"),
    "integers": (PHOTO.astype(int), "found int64"),
    "booleans": (GREY > 9, "found bool"),
    "text": (np.full((4, 4, 3), "a"), "found <U1"),
    "channels first": (PHOTO.transpose(2, 0, 1), r"found the shape \(3, 40, 24\)"),
    "channels last": (torch.from_numpy(PHOTO.copy()), r"found the shape \(24, 3, 40\)"),
    "a batch": (PHOTO[None], r"found the shape \(1, 40, 24, 3\)"),
    "two channels": (PHOTO[..., :2], r"found the shape \(40, 24, 2\)"),
    "no pixel": (PHOTO[:0], r"found the shape \(0, 24, 3\)"),
    "32-bit PIL image": (Image.fromarray(DEEP.astype(np.int32)), "found PIL mode I"),
    "bytes": (b"photo", "found bytes"),
    "nothing": (None, "found NoneType"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_photo_is_refused(name):
    given, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        read_photo(given)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.jpg", tmp_path / ("x" * 999)):
        with pytest.raises(UserError, match=str(path)):
            read_photo(path)


def test_a_truncated_pil_image_is_named(tmp_path):
    (tmp_path / "cut.png").write_bytes(file_of(PHOTO, "PNG")[:-99])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(UserError, match=r"cut\.png"):
        read_photo(image)


ODD = {
    "orientation 3.png": turned("PNG", 3, np.rot90(PHOTO, 2)),
    "orientation 6.png": turned("PNG", 6, np.rot90(PHOTO)),
    "orientation 6.tif": turned("TIFF", 6, np.rot90(PHOTO)),
    "cut EXIF.png": file_of(PHOTO, "PNG", exif=CUT_EXIF),
    "short EXIF.png": file_of(PHOTO, "PNG", exif=SHORT_EXIF),
    "short EXIF.jpg": file_of(PHOTO, "JPEG", exif=SHORT_EXIF, quality=100, subsampling=0),
    "usual.jfif": file_of(PHOTO, "JPEG", quality=100, subsampling=0),
    "orientation 6.JFIF": turned("JPEG", 6, np.rot90(PHOTO)),
}
"""The same photo, stored in other ways."""


@pytest.mark.parametrize("name", ODD)
def test_the_same_photo_stored_otherwise_reads_the_same(tmp_path, name):
    (tmp_path / name).write_bytes(ODD[name])
    if name == "short EXIF.png":  # the case is what it says: PIL's own reader stumbles over it
        with Image.open(tmp_path / name) as image, pytest.raises(struct.error):
            ImageOps.exif_transpose(image)
    elif name.startswith("orientation") and not name.endswith("tif"):  # PIL turns a TIFF itself
        with Image.open(tmp_path / name) as image:
            assert not np.array_equal(np.asarray(image), PHOTO)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = read_photo(tmp_path / name)
    assert not told
    error = np.abs(found.astype(int) - PHOTO).max()
    assert error <= (JPEG_ERROR if name.lower().endswith(("jpg", "jfif")) else 0)


@pytest.fixture
def odd_tree(tmp_path):
    """A data set with one photo, and what else a test puts beside its mask."""
    root = make_tree(tmp_path / "dolos", generators=("ldm",), counts={"train": 1})
    photo = root / "fake/ldm/images/train/0.png"
    photo.unlink()
    return root, photo


@pytest.mark.parametrize("name", ["plain.png", *ODD, "16-bit grey.png", "transparent.png"])
def test_training_evaluation_cache_and_inference_see_the_same(clip, odd_tree, tmp_path, name):
    """One file gives one tensor, whichever way it comes in."""
    root, photo = odd_tree
    photo = photo.with_suffix("." + name.rpartition(".")[2])
    content = {"plain.png": file_of(PHOTO, "PNG"), **ODD}.get(name) or GIVEN[name][0]
    photo.write_bytes(content)
    encoder = build_encoder(str(clip), "layer1", 64)
    data = LocalizationDataModule(str(root), "ldm")
    data.preprocessing = encoder.preprocessing
    trained = data.train_set()[0]["image"]
    evaluated = data.evaluation_set("x", "train", "ldm")[0]["image"]
    cache = FeatureCache(encoder, root=tmp_path / "features")
    inferred = build_transform(encoder.preprocessing)(image=read_photo(photo))["image"]
    assert trained.shape == (3, 64, 64) and trained.std() > 0.1
    for found in (evaluated, inferred):
        assert torch.equal(trained, found)
    features = cache.fetch([photo], torch.device("cpu"))[photo].float()
    expected = encoder(inferred[None])
    torch.testing.assert_close(features.grid, expected.grid[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(features.cls, expected.cls[0], atol=2e-3, rtol=2e-3)
    if name in ODD and name.endswith(("png", "tif")):
        plain = build_transform(encoder.preprocessing)(image=PHOTO)["image"]
        assert torch.equal(trained, plain)
    layout = build_layout("dolos", root)
    report = check_all(layout, ["ldm"], "black")
    assert not [line for line in report.errors if "valid photo" not in line and "test" not in line]


DECODERS_RAISE = (
    *(struct.error, SyntaxError, OverflowError, ZeroDivisionError, MemoryError, RecursionError),
    *(Image.DecompressionBombError, UnidentifiedImageError, OSError, EOFError, KeyError),
    *(TypeError, ValueError, IndexError, AttributeError, AssertionError, UnicodeDecodeError),
)


@pytest.mark.parametrize("raised", DECODERS_RAISE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("read", [read_photo, partial(read_mask, rule="black"), size_of])
def test_whatever_a_decoder_raises_is_one_error_that_names_the_file(
    tmp_path, monkeypatch, raised, read
):
    def damaged(*args, **options):
        raise raised(*(("utf-8", b"", 0, 1, "") if raised is UnicodeDecodeError else ()))

    (tmp_path / "photo.png").write_bytes(file_of(PHOTO, "PNG"))
    monkeypatch.setattr(Image, "open", damaged)
    with pytest.raises(UserError) as error:
        read(tmp_path / "photo.png")
    assert str(tmp_path / "photo.png") in str(error.value) and "\n" not in str(error.value)


def _whole() -> dict[str, bytes]:
    """Return the same photo in every format that PIL reads and writes here."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifVersion] = b"0232"
    more = {"save_all": True, "append_images": [Image.fromarray(255 - PHOTO)]}
    return {
        "photo.jpg": file_of(PHOTO, "JPEG", exif=exif),
        "several pictures.jpg": file_of(PHOTO, "MPO", exif=exif, **more),
        "photo.png": file_of(PHOTO, "PNG", exif=exif),
        "photo.webp": file_of(PHOTO, "WEBP", exif=exif),
        "photo.avif": file_of(PHOTO, "AVIF", exif=exif),
        "photo.tif": file_of(PHOTO, "TIFF", exif=exif),
        "packed.tif": file_of(PHOTO, "TIFF", compression="tiff_lzw"),
        "photo.jp2": file_of(PHOTO, "JPEG2000"),
        "photo.bmp": file_of(PHOTO, "BMP"),
        "photo.gif": file_of(PHOTO, "GIF", **more),
        "photo.ppm": file_of(PHOTO, "PPM"),
    }


WHOLE = _whole()


@pytest.mark.parametrize("name", WHOLE)
@given(data=st.data())
def test_a_damaged_file_is_read_or_named(tmp_path, name, data):
    """Cut anywhere, with any bytes replaced: pixels, or one line with the file's name."""
    content = bytearray(WHOLE[name])
    content = content[: data.draw(st.integers(0, len(content)))]
    places = st.dictionaries(st.integers(0, max(0, len(content) - 1)), st.integers(0, 255))
    for place, value in data.draw(places).items() if content else ():
        content[place] = value
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_photo, partial(read_mask, rule="black")):
        try:
            found = read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert found.dtype in (np.uint8, bool) and found.size


def _turned_ways(pixels: np.ndarray) -> list[np.ndarray]:
    ways = [np.rot90(pixels, turns) for turns in range(4)]
    return ways + [way[:, ::-1] for way in ways]


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
BLOCKS = {
    ("photo.jpg", b"Exif\0\0"): file_of(PHOTO, "JPEG", exif=CUT_EXIF + bytes(40)),
    ("profile.jpg", b"ICC_PROFILE\0"): file_of(PHOTO, "JPEG", icc_profile=PROFILE),
    ("index.jpg", b"MPF\0"): WHOLE["several pictures.jpg"],
    ("photo.png", b"eXIf"): WHOLE["photo.png"],
    ("profile.png", b"iCCP"): file_of(PHOTO, "PNG", icc_profile=PROFILE),
    ("density.png", b"pHYs"): file_of(PHOTO, "PNG", dpi=(72, 72)),
    ("photo.webp", b"EXIF"): file_of(PHOTO, "WEBP", lossless=True, exif=CUT_EXIF + bytes(40)),
}
"""A file, and how an optional block in it begins."""


@pytest.mark.parametrize(("name", "start"), BLOCKS)
@given(data=st.data())
def test_damaged_optional_blocks_leave_intact_pixels_readable(tmp_path, name, start, data):
    """The photo is read, in one of the ways it may be turned, whatever a block holds."""
    content = bytearray(BLOCKS[name, start])
    stored = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    begin = content.index(start) + len(start)
    inside = st.integers(begin, begin + (12 if start == b"pHYs" else 30))
    for place, value in data.draw(st.dictionaries(inside, st.integers(0, 255))).items():
        if not (start == b"EXIF" and place < begin + 4):  # a WebP's length belongs to its structure
            content[place] = value
    (tmp_path / name).write_bytes(content)
    found = read_photo(tmp_path / name)
    assert any(np.array_equal(found, way) for way in _turned_ways(stored))


def test_a_png_whose_block_fails_its_checksum_is_read_as_not_turned(tmp_path):
    content = bytearray(turned("PNG", 6, PHOTO))
    content[content.index(b"eXIf") + 10] ^= 1
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(UnidentifiedImageError):  # the case is what it says
        Image.open(tmp_path / "photo.png")
    assert np.array_equal(read_photo(tmp_path / "photo.png"), PHOTO)


def test_a_damaged_note_leaves_the_orientation(tmp_path):
    content = bytearray(_with_note(turned("PNG", 6, np.rot90(PHOTO))))
    content[content.index(b"a note")] ^= 1
    (tmp_path / "photo.png").write_bytes(content)
    assert np.array_equal(read_photo(tmp_path / "photo.png"), PHOTO)


def _with_note(png: bytes) -> bytes:
    """Return a PNG with a text block after its header."""
    note = b"tEXtComment\0a note"
    block = struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note))
    return png[:33] + block + png[33:]


def test_damaged_pixels_are_not_mended(tmp_path):
    content = bytearray(turned("PNG", 6, PHOTO))
    content[content.index(b"IDAT") + 9] ^= 1
    content[content.index(b"eXIf") + 10] ^= 1
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(UserError, match=r"photo\.png"):
        read_photo(tmp_path / "photo.png")
