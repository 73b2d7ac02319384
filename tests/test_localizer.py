"""A photo in; heat map, mask, score and regions out, the same however the localizer was stored."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import tiles as benchmark
from conftest import make_clip, make_photo
from huggingface_hub import HfApi
from localizer_example import checkpoint_of, write_run
from PIL import Image
from scipy import ndimage

import declip_pl
from declip_pl import Localizer, cli, parts
from declip_pl.data.dataset import LocalizationDataset
from declip_pl.data.layout import Sample, build_layout, samples
from declip_pl.data.transforms import build_transform
from declip_pl.errors import UserError
from declip_pl.files import sha256
from declip_pl.inference import localizer
from declip_pl.inference.localization import find_regions
from declip_pl.inference.recorded_scores import recorded_scores
from declip_pl.metrics import Thresholds
from declip_pl.model import weights
from declip_pl.model.features import Preprocessing
from declip_pl.model.network import image_score
from declip_pl.training.task import LocalizationTask

RNG = np.random.default_rng(0)
PHOTOS = [make_photo(RNG, 300)[:height, :width] for height, width in [(96, 96), (40, 90), (1, 1)]]
LARGE = make_photo(RNG, 700)[:300]


def _trained(clip: Path, **options) -> LocalizationTask:
    """Return a task whose decoder gives maps with contrast, without training."""
    chosen = {"decoder": "light", "image_size": 64, "pooling": "top"} | options
    task = LocalizationTask(str(clip), "layer1", **chosen).eval()
    weight, start = task.network.decoder.fc[-1].weight, torch.Generator().manual_seed(0)
    torch.nn.init.normal_(weight, std=1, generator=start)  # whatever other tests have drawn
    return task


def _resized(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Return the one map of ``[1, 1, H, W]`` as a photo of this side has it."""
    return torch.nn.functional.interpolate(
        maps, size=(side, side), mode="bilinear", antialias=True
    )[0, 0]


@pytest.fixture(scope="module")
def task(clip) -> LocalizationTask:
    return _trained(clip)


@pytest.fixture(scope="module")
def file(task, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    return write_run(checkpoint_of(task), path)


@pytest.fixture(scope="module")
def model(file) -> Localizer:
    return Localizer.from_pretrained(file)


def test_a_photo(task, model):
    photo = PHOTOS[0]
    pixels = build_transform(Preprocessing(64))(image=photo)["image"][None]
    with torch.no_grad():
        logits = task(pixels)
    found = model(photo)
    np.testing.assert_allclose(found.heatmap, _resized(logits.sigmoid(), 96), atol=1e-6)
    assert found.heatmap.dtype == np.float32 and found.mask.dtype == bool
    assert np.array_equal(found.mask, found.heatmap > 0.5) and found.threshold == 0.5
    assert 0 < found.mask.mean() < 1
    assert found.score == pytest.approx(image_score(logits, "top").item())
    assert np.array_equal(found.photo, photo)


@pytest.mark.parametrize("tiles", [False, True])
def test_a_list_of_photos_of_any_size(model, tiles, tmp_path):
    Image.fromarray(PHOTOS[1]).save(tmp_path / "photo.png")
    photos = [*PHOTOS, tmp_path / "photo.png", Image.fromarray(PHOTOS[0]), LARGE] * 2
    many = model(photos, tiles=tiles)  # more than pass the network at once
    assert [found.heatmap.shape for found in many[:6]] == [
        (96, 96), (40, 90), (1, 1), (40, 90), (96, 96), (300, 700)
    ]  # fmt: skip
    for photo, found in zip(photos, many, strict=True):
        alone = model(photo, tiles=tiles)
        np.testing.assert_allclose(found.heatmap, alone.heatmap, atol=1e-5)
        assert found.score == pytest.approx(alone.score, abs=1e-5)
    assert model([]) == []


def test_the_threshold_decides_on_mask_and_regions(model):
    low, high = model(PHOTOS[0], threshold=0.3), model(PHOTOS[0], threshold=0.7)
    assert low.mask.sum() > high.mask.sum()
    assert np.array_equal(high.mask, low.heatmap > 0.7) and high.threshold == 0.7
    assert sum(region.area for region in high.regions) == high.mask.sum()
    for threshold in (50, -0.1, float("nan")):
        with pytest.raises(UserError, match=r"threshold .* not between 0 and 1"):
            model(PHOTOS[0], threshold=threshold)


@pytest.fixture(scope="module")
def sharp(clip) -> Localizer:
    """A localizer whose maps are near 0 in most places and near 1 in some."""
    task = _trained(clip)
    with torch.no_grad():
        pixels = build_transform(Preprocessing(64))(image=LARGE)["image"][None]
        logits, last = task(pixels), task.network.decoder.fc[-1]
        scale = 3 / logits.std()
        last.weight *= scale
        last.bias.copy_((last.bias - logits.mean()) * scale - 3)
    return Localizer("sharp", checkpoint_of(task), task.network)


def _with_floor(model: Localizer, floor: float | None) -> Localizer:
    """Return a localizer with the same network, whose checkpoint has this floor."""
    thresholds = Thresholds(pixel=0.7, image={}, floor=floor)
    return Localizer("model", replace(model.checkpoint, thresholds=thresholds), model.network)


def _of_highest_expected_iou(heatmap: np.ndarray) -> np.ndarray:
    """Return the mask of the highest expected IoU, of all that a threshold can give."""
    hottest = np.sort(heatmap, axis=None)[::-1].astype(np.float64)
    inside = np.cumsum(hottest)
    outside = inside[-1] - inside
    ratios = inside / (np.arange(1, hottest.size + 1) + outside)
    return heatmap >= hottest[ratios.argmax()]


@pytest.mark.parametrize("tiles", [False, True])
def test_with_a_floor_each_photo_has_its_own_threshold(sharp, tiles):
    photos = [PHOTOS[0], LARGE, LARGE[::-1].copy()]
    found = _with_floor(sharp, 0.0)(photos, tiles=tiles)
    assert len({one.threshold for one in found}) == 3
    for photo, one in zip(photos, found, strict=True):
        assert one.decision == "expected-iou" and not one.below_floor
        assert 0 < one.threshold <= 0.5 and 0 < one.mask.mean() < 0.9
        np.testing.assert_allclose(one.heatmap, sharp(photo, tiles=tiles).heatmap, atol=1e-5)
        assert np.array_equal(one.mask, _of_highest_expected_iou(one.heatmap))
        assert np.array_equal(one.mask, one.heatmap > one.threshold)
        assert sum(region.area for region in one.regions) == one.mask.sum()


@pytest.mark.parametrize("tiles", [False, True])
def test_below_the_floor_nothing_is_marked(sharp, tiles):
    """The peak is what 2 % of the pixels reach, at the photo's own size and with tiles blended."""
    heatmap = sharp(LARGE, tiles=tiles).heatmap
    peak = np.sort(heatmap, axis=None)[-heatmap.size // 50]
    low, high = (
        _with_floor(sharp, float(floor))(LARGE, tiles=tiles) for floor in (peak - 1e-5, peak + 1e-5)
    )
    assert low.mask.any() and not low.below_floor
    assert high.below_floor and high.threshold == 1 and high.decision == "expected-iou"
    assert not high.mask.any() and high.regions == []
    assert high.score == low.score and np.array_equal(high.heatmap, heatmap)
    cut = high.at_threshold(1.0)
    assert cut.decision == "fixed" and not cut.below_floor


def test_a_threshold_that_is_given_is_taken_whatever_the_floor(model):
    for floor in (0.0, 1.0, None):
        found = _with_floor(model, floor)(PHOTOS[0], threshold=0.3)
        assert (found.threshold, found.decision) == (0.3, "fixed")
        assert np.array_equal(found.mask, found.heatmap > 0.3)


def test_without_a_floor_photos_are_cut_in_the_middle(model):
    for one in (model, _with_floor(model, None)):
        found = one(PHOTOS[0])
        assert one.floor is None and (found.threshold, found.decision) == (0.5, "fixed")


def test_a_saved_localizer_has_its_floor(sharp, tmp_path):
    write_run(_with_floor(sharp, 0.25).checkpoint, tmp_path / "model.ckpt")
    ours = Localizer.from_pretrained(tmp_path / "model.ckpt")
    ours.save_pretrained(tmp_path / "saved")
    saved = Localizer.from_pretrained(tmp_path / "saved")
    assert saved.floor == ours.floor == 0.25
    assert saved(LARGE).threshold == ours(LARGE).threshold < 0.5


def test_a_photo_that_is_none_is_named(model, tmp_path):
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(UserError, match=r"text\.jpg is no photo"):
        model([PHOTOS[0], tmp_path / "text.jpg"])


@pytest.mark.parametrize("pooling", ["mean", "mean-logit", "max"])
def test_the_score_is_pooled_as_the_checkpoint_says(clip, tmp_path, pooling):
    task = _trained(clip, pooling=pooling)
    write_run(checkpoint_of(task), tmp_path / "model.ckpt")
    with torch.no_grad():
        logits = task(build_transform(Preprocessing(64))(image=PHOTOS[0])["image"][None])
    found = Localizer.from_pretrained(tmp_path / "model.ckpt")(PHOTOS[0])
    assert found.score == pytest.approx(image_score(logits, pooling).item(), abs=1e-6)


def test_small_photos_are_one_tile(model):
    for photo in (*PHOTOS, LARGE[:256, :256]):
        whole, tiles = model(photo), model(photo, tiles=True)
        assert np.array_equal(whole.heatmap, tiles.heatmap) and whole.score == tiles.score


def test_tiles_see_what_the_whole_photo_loses(model):
    found = model(LARGE, tiles=True)
    # The middle of the photo's left edge is in the first tile of each row alone.
    first, below = model(LARGE[:256, :256]), model(LARGE[44:, :256])
    hann = np.sin(np.pi * (np.arange(256) + 0.5) / 256) ** 2
    upper, lower = hann[150], hann[150 - 44]
    expected = (upper * first.heatmap[150, :100] + lower * below.heatmap[150 - 44, :100]) / (
        upper + lower
    )
    np.testing.assert_allclose(found.heatmap[150, :100], expected, atol=1e-5)
    assert found.score >= max(first.score, below.score) - 1e-6


def test_no_more_tiles_than_fit_are_held(model, monkeypatch):
    seen = []
    hook = model.network.encoder.register_forward_pre_hook(lambda _, a: seen.append(len(a[0])))
    try:
        model(LARGE, tiles=True)
        assert sum(seen) == 8 and max(seen) <= localizer.TOGETHER
        monkeypatch.setattr(localizer, "TOGETHER", 3)
        seen.clear()
        model(LARGE, tiles=True)
    finally:
        hook.remove()
    assert seen == [3, 3, 2]


def test_regions_are_connected_components():
    """Against scipy's labels, whose regions touch at corners as well when told so."""
    rng = np.random.default_rng(1)
    heatmap = rng.random((60, 80), np.float32)
    mask = heatmap > 0.7
    found = find_regions(heatmap, mask)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    expected = []
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels == index
        box = (columns.start, rows.start, columns.stop, rows.stop)
        expected.append((box, int(inside.sum()), heatmap[inside].mean()))
    assert len(found) == count > 10
    assert [r.area for r in found] == sorted((r.area for r in found), reverse=True)
    for region, (box, area, probability) in zip(sorted(found), sorted(expected), strict=True):
        assert (region.box, region.area) == (box, area)
        assert region.probability == pytest.approx(probability, abs=1e-6)
    json.dumps(found)  # plain numbers
    assert find_regions(heatmap, np.zeros_like(mask)) == []


def test_a_saved_localizer_is_bit_identical(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == [
        "README.md", "config.json", "model.safetensors"
    ]  # fmt: skip
    saved = Localizer.from_pretrained(tmp_path / "saved")
    assert (model.name, saved.name) == ("model", "saved")
    for photo in (*PHOTOS, LARGE):
        ours, theirs = model(photo, tiles=True), saved(photo, tiles=True)
        assert np.array_equal(ours.heatmap, theirs.heatmap) and ours.score == theirs.score
    with pytest.raises(UserError, match="name another folder"):
        saved.save_pretrained(tmp_path / "saved")


def test_a_run_is_saved_with_its_scores(fit_arguments, tmp_path):
    cli.main(fit_arguments(**{"run.name": "run"}))
    run = tmp_path / "outputs" / "run"
    by_folder = Localizer.from_pretrained(run)
    by_file = Localizer.from_pretrained(run / "checkpoints/best.ckpt")
    assert by_folder.name == by_file.name == "run"
    assert np.array_equal(by_folder(PHOTOS[0]).heatmap, by_file(PHOTOS[0]).heatmap)
    by_folder.save_pretrained(tmp_path / "saved")
    results = json.loads((run / "test_metrics.json").read_text())
    saved = Localizer.from_pretrained(tmp_path / "saved")
    assert recorded_scores(saved.checkpoint).scores == results["scores"]
    saved.save_pretrained(tmp_path / "again")
    again = (tmp_path / "again/config.json").read_text()
    assert again == (tmp_path / "saved/config.json").read_text()
    card = (tmp_path / "saved" / "README.md").read_text()
    iou, constant = results["scores"]["ldm"]["iou"], results["baselines"]["ldm"]["all fake"]["iou"]
    assert f"| IoU | {iou:.1f} | {constant:.1f} |" in card
    assert "On the 4 test photos of `ldm`" in card and "Intervals are unknown" in card
    assert str(tmp_path / "dolos") not in card and "`ldm` of `dolos`, with masks" in card
    # The last epoch was not tested, so the scores are not its own.
    last = Localizer.from_pretrained(run / "checkpoints/last.ckpt")
    if sha256(run / "checkpoints/last.ckpt") != sha256(run / "checkpoints/best.ckpt"):
        assert recorded_scores(last.checkpoint) is None


def test_an_encoder_that_is_gone_is_named(tmp_path):
    clip = make_clip(tmp_path / "clip")
    write_run(checkpoint_of(_trained(clip)), tmp_path / "model.ckpt")
    shutil.rmtree(clip)
    with pytest.raises(
        UserError, match=f"trained on clip layer1 .folder {clip}.* {clip} is neither"
    ):
        Localizer.from_pretrained(tmp_path / "model.ckpt")
    make_clip(clip, seed=1)
    with pytest.raises(UserError, match="belongs to another encoder"):
        Localizer.from_pretrained(tmp_path / "model.ckpt")


@pytest.mark.parametrize("damage", ["missing", "left over", "shape"])
def test_a_decoder_that_does_not_fit_is_refused(file, tmp_path, damage):
    checkpoint = torch.load(file, weights_only=True)
    state = checkpoint["state_dict"]
    name = next(iter(state))
    if damage == "missing":
        del state[name]
    elif damage == "left over":
        state["network.decoder.extra"] = state[name]
    else:
        state[name] = state[name][:1]
    torch.save(checkpoint, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"model: the decoder's weights do not fit"):
        Localizer.from_pretrained(tmp_path / "model.ckpt")


def test_a_device_that_is_none_is_named(file):
    for device in ("gpu", "cuda:99"):
        with pytest.raises(UserError, match=f"the device '{device}'"):
            Localizer.from_pretrained(file, device)


class Hub(HfApi):
    """A hub that keeps what it is given."""

    def __init__(self):
        self.given = {}

    def create_repo(self, repository, **options):
        self.given |= {"repository": repository, **options}
        return f"https://hub/{repository}"

    def upload_folder(self, repo_id, folder_path):
        self.given["files"] = {p.name: p.read_text("latin-1") for p in folder_path.iterdir()}


def _on(model: Localizer, monkeypatch, encoder) -> None:
    """Have a localizer's checkpoint name another encoder."""
    monkeypatch.setattr(model, "checkpoint", replace(model.checkpoint, encoder=encoder))


def test_push_to_hub(model, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(weights.huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(weights.huggingface_hub, "get_token", lambda: "token")
    with pytest.raises(UserError, match=r"encoder=HUB_ID"):  # the tiny encoder is a local folder
        model.push_to_hub("someone/localizer")
    assert not hub.given
    _on(model, monkeypatch, "openai/clip-vit-base-patch16")
    assert model.push_to_hub("someone/localizer", private=True) == "https://hub/someone/localizer"
    assert hub.given["private"] and hub.given["repository"] == "someone/localizer"
    files = hub.given["files"]
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    assert 'Localizer.from_pretrained("someone/localizer")' in files["README.md"]


def test_push_to_hub_without_an_account(model, monkeypatch):
    monkeypatch.setattr(weights.huggingface_hub, "get_token", lambda: None)
    _on(model, monkeypatch, "openai/clip")
    with pytest.raises(UserError, match="hf auth login"):
        model.push_to_hub("someone/localizer")


def test_push_to_hub_out_of_reach(model, monkeypatch):
    monkeypatch.setattr(weights.huggingface_hub, "get_token", lambda: "token")
    _on(model, monkeypatch, "openai/clip")
    for name in ("someone/localizer", "not/a/name"):  # the tests' hub is offline
        with pytest.raises(UserError, match=f"the Hugging Face hub failed for {name}"):
            model.push_to_hub(name)


def _named(name: object) -> dict:
    return {"class_path": "transformers", "init_args": {"name": str(name), "init": "random"}}


@pytest.mark.parametrize(
    "encoder",
    [
        str,
        _named,
        lambda clip: f"{clip}+RN50",
        lambda _: "RN50:/x/rn50.pt",
        lambda _: "openai/clip+RN50:/x/rn50.pt",
    ],
    ids=["folder", "folder in a spec", "fused", "RN50 from a file", "fused, RN50 from a file"],
)
def test_push_to_hub_of_an_encoder_on_this_machine(model, monkeypatch, clip, encoder):
    monkeypatch.setattr(weights.huggingface_hub, "get_token", lambda: None)
    _on(model, monkeypatch, encoder(clip))
    with pytest.raises(UserError, match="others can't load a localizer whose encoder is"):
        model.push_to_hub("someone/localizer")


@pytest.mark.parametrize(
    "encoder",
    ["RN50", "openai/clip+RN50", _named("openai/clip"), {"class_path": "my_parts.Encoder"},
     "pixels"],
    ids=str,
)  # fmt: skip
def test_push_to_hub_of_an_encoder_that_others_have(model, monkeypatch, encoder):
    monkeypatch.setattr(weights.huggingface_hub, "get_token", lambda: None)
    _on(model, monkeypatch, encoder)
    with pytest.raises(UserError, match="hf auth login"):  # the next thing that is asked for
        model.push_to_hub("someone/localizer")


ALONE = """
import socket, sys

def refuse(*call):
    calls.append(call)
    raise OSError("no network")

calls = []
socket.getaddrinfo = socket.socket.connect = refuse
from declip_pl import Localizer
Localizer.from_pretrained(sys.argv[1])(sys.argv[2])
print(calls, *sys.modules)
"""
"""Localizes, and says who was called and what was imported."""


def test_a_localizer_starts_without_what_trains_it(file, tmp_path):
    Image.fromarray(PHOTOS[0]).save(tmp_path / "photo.png")
    ask = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    command = [sys.executable, "-c", ALONE, str(file), str(tmp_path / "photo.png")]
    done = subprocess.run(command, check=True, env=ask, capture_output=True, text=True)
    calls, *modules = done.stdout.split()
    assert calls == "[]"
    assert "torch" in modules
    unwanted = {"lightning", "pytorch_lightning", "wandb", "matplotlib", "onnx", "torchmetrics"}
    assert not unwanted & set(modules)


PARTS = """
import torch
from torch import nn
from torch.nn import functional as F

class Corners(nn.Module):
    mean, std = (0.1, 0.2, 0.3), (0.9, 0.8, 0.7)

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Conv2d(3, width, 16, stride=16)

    def forward(self, pixels):
        return self.layer(pixels)

class Plane(nn.Module):
    def __init__(self, shape, gain=1.0):
        super().__init__()
        self.gain = gain
        self.layer = nn.Conv2d(shape.channels, 1, 1)

    def forward(self, features):
        return F.interpolate(self.gain * self.layer(features.grid), size=(256, 256))
"""
"""A user's own encoder and decoder."""


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    """A task on a user's own parts, which are forgotten afterwards."""
    name = "localizer_parts"
    (tmp_path / f"{name}.py").write_text(PARTS)
    monkeypatch.setattr(parts, "LOADED", {})
    monkeypatch.setenv("DECLIP_PARTS", str(tmp_path / f"{name}.py"))
    encoder = {"class_path": f"{name}.Corners", "init_args": {"width": 8}}
    decoder = {"class_path": f"{name}.Plane", "init_args": {"gain": 20.0}}
    yield LocalizationTask(encoder, "none", decoder, image_size=96).eval()
    sys.modules.pop(name)


def test_a_users_own_parts_are_saved_by_name_and_need_the_users_word(
    own_parts, tmp_path, monkeypatch
):
    photo, folder = PHOTOS[0], tmp_path / "saved"
    pixels = (torch.from_numpy(photo / 255).float() - torch.tensor([0.1, 0.2, 0.3])) / (
        torch.tensor([0.9, 0.8, 0.7])
    )
    with torch.no_grad():
        expected = own_parts(pixels.permute(2, 0, 1)[None]).sigmoid()
    write_run(checkpoint_of(own_parts), tmp_path / "model.ckpt")
    Localizer.from_pretrained(tmp_path / "model.ckpt", "cpu").save_pretrained(folder)
    found = Localizer.from_pretrained(folder, "cpu")
    np.testing.assert_allclose(found(photo).heatmap, _resized(expected, 96), atol=1e-5)
    assert "`export DECLIP_PARTS=localizer_parts.py`" in (folder / "README.md").read_text()
    monkeypatch.setattr(parts, "LOADED", {})
    monkeypatch.delenv("DECLIP_PARTS")
    with pytest.raises(UserError, match=r"export DECLIP_PARTS=localizer_parts\.py"):
        Localizer.from_pretrained(folder)


def test_a_users_own_parts_are_exported(own_parts, tmp_path):
    export = pytest.importorskip("declip_pl.inference.export")
    session = pytest.importorskip("onnxruntime").InferenceSession
    pytest.importorskip("onnxscript")
    write_run(checkpoint_of(own_parts), tmp_path / "model.ckpt")
    export.export(str(tmp_path / "model.ckpt"), output=tmp_path / "model.onnx")
    found = session(tmp_path / "model.onnx").run(None, {"pixels": PHOTOS[0][None]})[0]
    model = Localizer.from_pretrained(tmp_path / "model.ckpt", "cpu")
    found = torch.from_numpy(found)[None]
    np.testing.assert_allclose(_resized(found, 96), model(PHOTOS[0]).heatmap, atol=1e-4)
    assert found.std() > 0.1


def test_the_package_starts_quickly():
    code = "import sys, declip_pl; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        declip_pl.nothing  # noqa: B018


def test_the_benchmark_of_tiles(file, tree, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "UNTOUCHED", ("coffee.png",))
    options = f"--data {tree} --model {file} --generator ldm --photos 2 --times 1 4"
    monkeypatch.setattr("sys.argv", ["tiles", *options.split()])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines]
    assert [row[:2] for row in rows[2:6]] == [
        ["96", "whole"], ["96", "tiles"], ["384", "whole"], ["384", "tiles"]
    ]  # fmt: skip
    assert rows[2][2:5] == rows[3][2:5] and rows[4][2:5] != rows[5][2:5]
    assert lines[-1].startswith("| coffee, 600 x 400 px | ")


def test_a_canvas_holds_one_manipulated_photo_and_its_untouched_pair_none(tree):
    layout = build_layout("dolos", tree)
    fake = samples(layout, "test", "ldm")[0]
    reals = {sample.name: sample for sample in samples(layout, "test", "real")}
    canvas, mask = benchmark.compose(fake, reals, 3, seed=5)
    untouched, nothing = benchmark.compose(reals[fake.name], reals, 3, seed=5)
    assert canvas.shape == (288, 288, 3) and mask.shape == (288, 288)
    assert mask.sum() == 40 * 40 and not nothing.any()
    assert np.array_equal((canvas != untouched).any(2), mask)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_photo_gives_the_network_what_it_gave_in_training(model, tmp_path, orientation):
    """Whatever a camera wrote into EXIF: one reader, in training as here."""
    path = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(LARGE[:120, :90]).save(path, exif=exif)
    transform = build_transform(model.network.encoder.preprocessing)
    sample = Sample("photo", path, None, "real")
    trained_on = LocalizationDataset("train", [sample], transform, "black")[0]["image"]
    seen = []
    hook = model.network.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        model(path)
    finally:
        hook.remove()
    assert torch.equal(seen[0][0], trained_on)


def test_an_answer_that_is_no_number_is_an_error(clip):
    task = _trained(clip, decoder="linear")
    weight = task.network.decoder.fc[-1].weight
    with torch.no_grad():
        weight[:] = torch.where(torch.arange(weight.shape[1]) % 2 > 0, 3e38, -3e38)
    found = Localizer("mine", checkpoint_of(task), task.network)
    with pytest.raises(UserError, match="mine answers with NaN, which is no probability"):
        found(PHOTOS)
