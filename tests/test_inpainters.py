"""What fills holes, and what chooses them: the package's own, graphs, pipelines, a user's."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import make_photo
from forge_example import own_registries, write_graph
from onnx import TensorProto, helper
from PIL import Image

from declip_pl import parts
from declip_pl.data.forgeries.regions import SHAPES
from declip_pl.data.inpainting.command import bounds
from declip_pl.data.inpainting.doors import INPAINTERS
from declip_pl.data.inpainting.holes import choose_holes
from declip_pl.data.inpainting.inpainter import Inpainter
from declip_pl.data.inpainting.photos import find_photos
from declip_pl.errors import UserError

CLASSICAL = ["telea", "navier-stokes", "laplace", "exemplar", "fourier", "poisson", "copy-move"]
HEIGHT, WIDTH = 75, 90


def photo(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grain = rng.integers(-9, 10, (height, width, 3))
    picture = make_photo(rng, max(height, width))[:height, :width].astype(int) + grain
    return picture.clip(0, 255).astype(np.uint8)


def hole(top: int = 20, left: int = 30, height: int = 25, width: int = 20) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_these_are_the_inpainters():
    assert INPAINTERS.names() == [*CLASSICAL, "onnx", "diffusers"]


@pytest.mark.parametrize(
    "mask", [hole(), hole(0, 0), hole(50, 70), hole(0, 0, 75, 40)], ids=range(4)
)
@pytest.mark.parametrize("name", CLASSICAL)
def test_a_fill_changes_the_hole_and_repeats_itself(name, mask):
    inpainter = Inpainter(name)
    other = photo(1, 60, 50) if inpainter.needs_photo else None
    first, again = (inpainter.fill(photo(), mask, rng(), other) for _ in range(2))
    assert first.shape == photo().shape and first.dtype == np.uint8
    assert np.abs(first.astype(int) - photo())[mask].mean() > 2
    assert (first == again).all()


@pytest.mark.parametrize("name", [n for n in CLASSICAL if n not in ("poisson", "copy-move")])
def test_a_fill_does_not_know_what_was_in_the_hole(name):
    mask = hole()
    # OpenCV's fills look at the hole's own pixels nowhere; neither do ours.
    green = np.where(mask[..., None], np.uint8([0, 255, 0]), photo())
    first, second = (Inpainter(name).fill(p, mask, rng()) for p in (photo(), green))
    assert np.abs(first.astype(int) - second)[mask].max() == 0


def test_copy_move_copies_pixels_of_the_photo():
    moved = Inpainter("copy-move").fill(photo(), hole(), rng())[hole()]
    known = {tuple(pixel) for pixel in photo().reshape(-1, 3)}
    assert {tuple(pixel) for pixel in moved} <= known


def test_poisson_blends_all_of_a_thin_hole():
    mask = hole(height=30, width=3)
    filled = Inpainter("poisson").fill(photo(), mask, rng(), photo(1))
    assert (filled != photo()).any(2)[mask].mean() > 0.95


def test_poisson_takes_the_other_photo_s_gradients_and_this_one_s_colours():
    grey, striped = np.full_like(photo(), 100), np.full_like(photo(), 30)
    striped[:, ::4] = 60
    filled = Inpainter("poisson").fill(grey, hole(), rng(), striped).astype(int)
    assert np.abs(np.diff(filled[30:35, 35:45, 0], axis=1)).max() > 15
    assert abs(filled[hole()].mean() - 100) < 15


def unusable(name, match, **init_args):
    with pytest.raises(UserError, match=match):
        said = {"class_path": name, "init_args": init_args} if init_args else name
        inpainter = Inpainter(said)
        inpainter.identity()
        inpainter.fill(photo(), hole(), rng(), prompt="")


def test_what_is_no_inpainter_is_told():
    unusable("tellea", "there is no inpainter 'tellea'; choose one of telea,")
    unusable("some.Class", "DECLIP_PARTS")
    unusable("onnx:", "expected onnx:FILE")
    unusable("onnx:no.onnx", "no file no.onnx|no.onnx can't be read")
    unusable("telea", "takes no init_args", radius=3)
    unusable("onnx", "it takes file, hole, levels, result", file="x", colour="red")


# Graphs: the hole in grey, whatever was there.


@pytest.mark.parametrize("colour", ["black", "white"])
def test_a_graph_fills_whichever_polarity_it_has(tmp_path, colour):
    pytest.importorskip("onnxruntime")
    inpainter = Inpainter(f"onnx:{write_graph(tmp_path / 'my graph.onnx', colour)}")
    filled = inpainter.fill(photo(), hole(), rng())
    assert (filled == np.where(hole()[..., None], 50, photo())).all()
    assert inpainter.name == "my graph"
    assert inpainter.identity()["hole"] == colour
    assert str(inpainter) == "onnx:my graph.onnx"


def test_a_float_graph_of_a_fixed_size_says_its_range(tmp_path):
    pytest.importorskip("onnxruntime")
    file = write_graph(tmp_path / "g.onnx", "white", TensorProto.FLOAT, 64)
    unusable("onnx", "say of which range: --with .*levels: 0..1", file=file)
    unusable("onnx", "expected one of 0..1, -1..1, 0..255", file=file, levels="0..2")
    unusable(
        "onnx", "the range of its values is another", file=file, levels="0..1", result="0..255"
    )
    inpainter = Inpainter({"class_path": "onnx", "init_args": {"file": file, "levels": "0..1"}})
    filled = inpainter.fill(photo(), hole(), rng())
    assert filled.shape == photo().shape
    inner = np.s_[26:40, 35:45]
    assert (np.abs(filled[inner].astype(int) - 50) <= 1).all()


def test_graphs_that_do_not_fit_are_told(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "text.onnx").write_text("no graph")
    unusable("onnx", "is no graph that onnxruntime runs", file=str(tmp_path / "text.onnx"))
    file = tmp_path / "copy.onnx"
    mask = helper.make_tensor_value_info("mask", TensorProto.UINT8, [1, 1, "h", "w"])
    image, result = (
        helper.make_tensor_value_info(name, TensorProto.UINT8, [1, 3, "h", "w"])
        for name in ("image", "result")
    )
    node = helper.make_node("Add", ["image", "mask"], ["result"])
    copy = helper.make_graph([node], "copy", [image, mask], [result])
    onnx.save(
        helper.make_model(copy, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file
    )
    unusable("onnx", "can't tell whether black or white means hole", file=str(file))
    node = helper.make_node("Identity", ["image"], ["result"])
    single = helper.make_graph([node], "single", [image], [result])
    onnx.save(helper.make_model(single, opset_imports=[helper.make_opsetid("", 17)]), file)
    unusable("onnx", "expected two inputs", file=str(file))


# Pipelines.


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """A random Stable Diffusion for inpainting, of one block and 20 words."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra: forge)")
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    place = tmp_path_factory.mktemp("pipeline")
    words = ["<|startoftext|>", "<|pad|>", "<|endoftext|>", "a</w>", "c", "a", "t</w>", "ca"]
    (place / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\nc a\n")
    tokenizer = CLIPTokenizer(
        str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=77
    )
    text = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4}
    text |= {"num_hidden_layers": 2, "vocab_size": 20}
    text |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    torch.manual_seed(0)
    made = diffusers.StableDiffusionInpaintPipeline(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            sample_size=32,
            in_channels=9,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
        ),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.save_pretrained(place / "tiny-sd")
    return place / "tiny-sd"


def test_a_pipeline_fills_by_prompt_and_seed(pipeline):
    init_args = {"model": str(pipeline), "steps": 2}
    inpainter = Inpainter({"class_path": "diffusers", "init_args": init_args})
    assert inpainter.needs_prompt and inpainter.name == "tiny-sd"
    assert {"sha256", "dtype", "num_inference_steps"} == inpainter.identity().keys()
    first, again, other = (
        inpainter.fill(photo(), hole(), rng(seed), prompt="a cat") for seed in (0, 0, 1)
    )
    assert first.shape == photo().shape and (first == again).all() and (first != other).any()
    assert (first != photo())[~hole()].any()  # through the autoencoder, everywhere


def test_what_is_no_pipeline_is_told(tmp_path):
    pytest.importorskip("diffusers", reason="diffusers is not installed (extra: forge)")
    unusable(f"diffusers:{tmp_path}", f"can't load {tmp_path} to inpaint")
    unusable("diffusers", "no type of numbers 'float17'", model=str(tmp_path), dtype="float17")


# A user's own.

MINE = """
import numpy as np
from declip_pl.data.inpainting.doors import INPAINTERS, MASKS

@INPAINTERS.register("red")
def red(photo, mask, rng, prompt):
    photo[...] = (255, len(prompt), 0)
    return photo

@INPAINTERS.register("floats")
def floats(photo, mask, rng):
    return photo / 255

@INPAINTERS.register("broken")
def broken(photo, mask, rng):
    raise RuntimeError("no weights")

class Level:
    def __init__(self, level=9):
        self.level = level

    def __call__(self, photo, mask, rng):
        return np.full_like(photo, self.level)

@MASKS.register("bright")
def bright(photo, rng):
    return photo.mean(2) > 127 if photo.mean() > 100 else None

@MASKS.register("wrong")
def wrong(photo, rng):
    return photo
"""


@pytest.fixture
def mine(tmp_path):
    """A user's file; what it registers is taken back."""
    (tmp_path / "mine.py").write_text(MINE)
    parts.load(tmp_path / "mine.py")


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    own_registries(monkeypatch)


def test_a_user_s_function_and_class_fill(mine):
    filled = Inpainter("red").fill(photo(), hole(), rng(), prompt="four")
    assert (filled == (255, 4, 0)).all()
    spec = {"class_path": "mine.Level", "init_args": {"level": 7}}
    assert (Inpainter(spec).fill(photo(), hole(), rng()) == 7).all()
    assert (Inpainter("mine.Level").fill(photo(), hole(), rng()) == 9).all()
    assert Inpainter("mine.Level").name == "level"
    assert len(Inpainter("red").identity()["code"]) == 16


def test_what_a_user_s_inpainter_does_wrong_is_told(mine):
    unusable("floats", r"floats: expected pixels \[H, W, 3\] uint8, found float64 \(75, 90, 3\)")
    unusable("broken", "broken failed: RuntimeError: no weights")


# Holes.


@pytest.fixture
def photos(tmp_path):
    """Six photos, two of each split, three of them dark."""
    folder = tmp_path / "photos"
    for index, split in enumerate(("train", "valid", "test") * 2):
        (folder / split).mkdir(parents=True, exist_ok=True)
        pixels = photo(index) // (4 if index % 2 else 1) + (0 if index % 2 else 60)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / split / f"p{index}.png")
    return find_photos(folder, tmp_path / "none")


def masks_of(photos, said, area="0.05-0.2", polarity="white"):
    holes = choose_holes(said, bounds(area, 0, 1, "--area"), polarity, photos)
    pixels = np.asarray(Image.open(photos[0].path))
    return [holes.draw(photos[0], pixels, rng(seed)) for seed in range(12)]


@pytest.mark.parametrize("area", ["0.005-0.01", "0.05-0.2", "0.5-0.7"])
def test_drawn_shapes_keep_to_the_range(photos, area):
    low, high = bounds(area, 0, 1, "--area")
    for kinds in [*SHAPES, "box+stroke"]:
        found = masks_of(photos, kinds, area)
        assert all(low <= hole.mask.mean() <= high for hole in found)
        assert {word for hole in found for word in hole.about.split("+")} <= set(kinds.split("+"))


def test_a_range_that_nothing_fits_is_told(photos):
    with pytest.raises(UserError, match=r"no box covers .* of a photo of 90 x 75 px"):
        masks_of(photos, "box", "0.00001")
    for wrong in ("0.3-0.2", "x", "1.2.3", "0.2-2"):
        with pytest.raises(UserError, match=f"--area {wrong}: expected a number or two"):
            bounds(wrong, 0, 1, "--area")


def write_masks(folder: Path, names, value: int = 255) -> Path:
    for index, name in enumerate(names):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.full((150, 180), 255 - value, np.uint8)
        mask[20 : 40 + 4 * index, 30:90] = value
        Image.fromarray(mask).save(path)
    return folder


def test_masks_of_files_are_the_photo_s_own_or_drawn(photos, tmp_path, capsys):
    own = write_masks(tmp_path / "own", [item.key for item in photos])
    found = masks_of(photos, str(own))
    assert {hole.about for hole in found} == {f"{photos[0].name}.png"}
    assert (found[0].mask == hole(10, 15, 10, 30)).all()  # at half the size, as the photo
    assert "each photo has its own" in capsys.readouterr().out
    others = write_masks(tmp_path / "others", ["a", "b"], value=0)
    found = masks_of(photos, str(others), polarity="black")
    assert {hole.about for hole in found} == {"a.png", "b.png"}
    assert all(hole.mask.mean() < 0.2 for hole in found)
    assert "drawn at random" in capsys.readouterr().out


def test_masks_for_some_photos_only_are_refused(photos, tmp_path):
    some = write_masks(tmp_path / "some", [item.key for item in photos[1:]])
    with pytest.raises(UserError, match=f"masks for 5 of 6 photos and none named {photos[0].key}"):
        masks_of(photos, str(some))
    train = write_masks(tmp_path / "train", ["train/a"])
    with pytest.raises(UserError, match="no mask for test and valid"):
        masks_of(photos, str(train))
    with pytest.raises(UserError, match="expected some of ellipse"):
        masks_of(photos, "circle")


def test_masks_of_a_data_set_are_read_by_its_polarity(photos, tree):
    found = masks_of(photos, str(tree), polarity="white")
    assert all(0.1 < hole.mask.mean() < 0.25 for hole in found)  # a box of 40 px in 96


def test_a_user_s_segmenter_finds_holes_or_none(photos, mine):
    holes = choose_holes("bright", (0.1, 0.2), "black", photos)
    found = {
        item.name: holes.draw(item, np.asarray(Image.open(item.path)), rng()) for item in photos
    }
    assert {name for name, hole in found.items() if hole} == {"p0", "p2", "p4"}
    assert found["p0"].about == "bright" and found["p0"].mask.dtype == bool
    with pytest.raises(UserError, match="wrong: expected a bool array"):
        masks_of(photos, "wrong")
