"""``declip-pl forge``: from a folder of photos to data that train."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import check_all, make_photo, wait_until
from forge_example import own_registries, write_graph
from onnx import TensorProto
from PIL import Image

from declip_pl import cli
from declip_pl.data.inpainting.inpainter import INPAINTERS
from declip_pl.data.layout import SPLITS, build_layout, samples
from declip_pl.data.masks import read_mask

CLASSICAL = [name for name in INPAINTERS.names() if name not in ("onnx", "diffusers")]
COUNTS = {"train": 4, "valid": 2, "test": 2}

OWN = """
import os, time
from pathlib import Path
import numpy as np
from declip_pl.data.inpainting.doors import INPAINTERS

@INPAINTERS.register("brighter")
def brighter(photo, mask, rng, other, prompt):
    photo = photo // 2 + 100
    photo[mask] = other.mean((0, 1)) / 2 + len(prompt) + rng.integers(9)
    return photo

@INPAINTERS.register("waits")
def waits(photo, mask, rng):
    if os.environ.get("WAITS") and len(list(Path("made").glob("fake/waits/images/*/*"))) >= 3:
        time.sleep(3600)
    return 255 - photo

@INPAINTERS.register("idle")
def idle(photo, mask, rng):
    return photo
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, with a user's own inpainters."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_inpainters.py").write_text(OWN)
    monkeypatch.setenv("DECLIP_PARTS", "own_inpainters.py")
    own_registries(monkeypatch)
    return tmp_path


@pytest.fixture
def photos(tmp_path) -> Path:
    """Eight photos in folders for the splits."""
    rng = np.random.default_rng(3)
    for split, count in COUNTS.items():
        for index in range(count):
            path = tmp_path / "photos" / split / "more" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            grain = rng.integers(-9, 10, (72, 96, 3))
            pixels = make_photo(rng)[:72].astype(int) + grain
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def forge(photos, inpainter, *more, workers=1, output="made"):
    options = (f"--with={inpainter}", f"--output={output}", f"--workers={workers}", *more)
    cli.main(["forge", str(photos), *options])
    return Path(output)


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def content(root: Path) -> dict[str, bytes]:
    found = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != ".lock"}


def said(root: Path) -> dict:
    return json.loads((root / "forge.json").read_text())


@pytest.mark.parametrize("name", CLASSICAL)
def test_paste_changes_the_inside_alone(photos, name, capsys):
    root = forge(photos, name, "--format=png")
    data = build_layout("dolos", root)
    assert data.generators() == [name]
    for split in SPLITS:
        fakes, reals = samples(data, split, name), samples(data, split, "real")
        assert [f.name for f in fakes] == [r.name for r in reals]
        assert len(fakes) == COUNTS[split]
        for fake, real in zip(fakes, reals, strict=True):
            mask = read_mask(fake.mask, "black")
            assert 0.03 <= mask.mean() <= 0.25
            changed = (pixels(fake.image) != pixels(real.image)).any(2)
            assert not changed[~mask].any() and changed[mask].any()
            assert (pixels(real.image) == pixels(photos / split / f"{real.name}.png")).all()
    assert check_all(data, [name, "real"], "black").errors == []
    printed = capsys.readouterr().out
    assert f"{name}: 8 fakes (train 4, valid 2, test 2) by {name}" in printed
    assert "files: PNG, real and fake" in printed
    assert Image.open(root / f"forge-{name}.png").size == (3 * 2 * 256, 3 * (256 + 16))
    assert (root / f"forge-{name}.txt").read_text() in printed


def test_the_record_tells_of_every_picture(photos):
    root = forge(photos, "poisson", "--seed=5", "--masks=box")
    found = said(root)
    assert found["settings"] == {
        "seed": 5,
        "size": None,
        "resize": 1.0,
        "format": "jpeg",
        "quality": [95, 95],
    }
    made = found["generators"]["poisson"]
    assert made["about"]["masks"] == {"shapes": "box", "area": "0.03-0.25"}
    assert {"declip-pl", "numpy", "opencv"} == made["versions"].keys()
    assert found["photos"].keys() == made["fakes"].keys() and len(made["fakes"]) == 8
    sources = {original["source_sha256"]: key for key, original in found["photos"].items()}
    for key, fake in made["fakes"].items():
        assert fake["drawn"] == "box" and fake["pieces"] >= 1 and fake["inside"] > 0
        assert sources[fake["other"]].split("/")[0] == key.split("/")[0]  # no leak between splits
        assert sources[fake["other"]] != key
    assert str(photos) not in json.dumps(found)


def test_the_result_does_not_depend_on_workers_or_order(photos):
    one = content(forge(photos, "brighter", "--outside=both", "--quality=60-90"))
    two = content(
        forge(photos, "brighter", "--outside=both", "--quality=60-90", workers=2, output="two")
    )
    assert one.keys() == two.keys() and len(one) == 8 * 5 + 3
    assert [name for name in one if one[name] != two[name]] == []


def test_further_photos_leave_the_others_as_they_are(photos):
    first = content(forge(photos, "copy-move"))
    Image.fromarray(make_photo(np.random.default_rng(9))).save(photos / "train" / "further.png")
    second = content(forge(photos, "copy-move"))
    assert len(said(Path("made"))["generators"]["copy-move"]["fakes"]) == 9
    kept = [name for name in first if "/" in name]
    assert kept and all(second[name] == first[name] for name in kept)
    other_seed = content(forge(photos, "copy-move", "--seed=1", output="other"))
    changed = [name for name in kept if name.startswith("fake") and other_seed[name] != first[name]]
    assert len(changed) == len([name for name in kept if name.startswith("fake")])


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_its_workers_end(photos, count):
    command = [sys.executable, "-m", "declip_pl", "forge", str(photos), "--with=waits"]
    process = subprocess.Popen(
        [*command, "--output=made", f"--workers={count}"],
        env={**os.environ, "WAITS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    journal = Path("made/.forge-waits.jsonl")
    wait_until(lambda: journal.is_file() and len(journal.read_text().splitlines()) >= 3, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(workers) >= count - 1
    wait_until(lambda: not any(w.is_running() and w.status() != "zombie" for w in workers))
    finished = [json.loads(line)["key"] for line in journal.read_text().splitlines()[1:3]]
    times = {key: Path(f"made/fake/waits/images/{key}.jpg").stat().st_mtime_ns for key in finished}
    with journal.open("a") as file:
        file.write('{"key": "train/')  # killed while a line was written
    root = forge(photos, "waits")
    assert not journal.exists()
    for key, time in times.items():
        assert (root / f"fake/waits/images/{key}.jpg").stat().st_mtime_ns == time
    assert content(root) == content(forge(photos, "waits", output="at-once"))


def test_what_is_damaged_or_deleted_is_made_again(photos):
    before = content(forge(photos, "telea"))
    Path("made/fake/telea/images/train/more/0.jpg").write_bytes(b"damaged")
    Path("made/fake/telea/masks/train/more/1.png").unlink()
    Path("made/real/test/more/1.jpg").unlink()
    assert content(forge(photos, "telea")) == before
    shutil.rmtree("made/fake/telea")
    again = content(forge(photos, "telea", "--masks=box"))
    assert again.keys() == before.keys() and again["forge.json"] != before["forge.json"]
    shutil.rmtree("made/fake/telea")
    assert content(forge(photos, "telea")) == before


def test_several_generators_share_reals_and_masks(photos):
    before = content(forge(photos, "telea"))
    root = forge(photos, "fourier", "--name=low")
    after = content(root)
    assert build_layout("dolos", root).generators() == ["low", "telea"]
    for name, data in before.items():
        if name != "forge.json":
            assert after[name] == data
    masks = [name for name in before if "/masks/" in name]
    assert masks and all(after[name.replace("telea", "low")] == before[name] for name in masks)


def test_a_pair_differs_outside_of_the_same_mask(photos):
    Path("prompts.txt").write_text("a cat\n\n   a much longer text\n")
    options = ["--outside=both", "--prompts=prompts.txt", "--name=x"]
    root = forge(photos, "brighter", *options)
    data = build_layout("dolos", root)
    assert data.generators() == ["x-paste", "x-regenerated"]
    prompts = set()
    for split in SPLITS:
        parts = [samples(data, split, name) for name in ("x-paste", "x-regenerated", "real")]
        for paste, whole, real in zip(*parts, strict=True):
            mask = read_mask(paste.mask, "black")
            assert (mask == read_mask(whole.mask, "black")).all()
            inner = np.abs(pixels(paste.image) - pixels(whole.image))[mask]
            assert inner.mean() < 12  # JPEG's blocks reach over the edge
            assert np.abs(pixels(paste.image) - pixels(real.image))[~mask].mean() < 6
            assert np.abs(pixels(whole.image) - pixels(real.image))[~mask].mean() > 15
    for fake in said(root)["generators"]["x-paste"]["fakes"].values():
        prompts.add(fake["prompt"])
        assert fake["outside"] > 15
    assert prompts <= {"a cat", "a much longer text"} and prompts


def test_real_and_fake_are_alike_in_size_and_quality(photos):
    options = ["--size=80", "--resize=0.5", "--quality=50-95"]
    root = forge(photos, "telea", *options)
    data = build_layout("dolos", root)
    tables = set()
    for split in SPLITS:
        pairs = zip(samples(data, split, "telea"), samples(data, split, "real"), strict=True)
        for fake, real in pairs:
            with Image.open(fake.image) as image, Image.open(real.image) as other:
                assert image.size == other.size == (40, 30)
                assert image.format == other.format == "JPEG"
                assert image.quantization == other.quantization
                tables.add(str(image.quantization))
            assert read_mask(fake.mask, "black").shape == (30, 40)
    assert len(tables) > 3


def test_without_folders_a_hash_decides_on_the_split(tmp_path, capsys):
    folder = tmp_path / "flat"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(30):
        Image.fromarray(make_photo(rng, 64)).save(folder / f"{index}.png")
    Image.fromarray(make_photo(rng, 40)).save(folder / "small.png")
    shutil.copy(folder / "0.png", folder / "copy.png")
    root = forge(folder, "telea")
    counts = {split: len(list((root / "real" / split).iterdir())) for split in SPLITS}
    assert sum(counts.values()) == 30 and counts["train"] > 15 and all(counts.values())
    printed = capsys.readouterr().out
    assert "left out 1 photos with a side of less than 64 px" in printed
    assert "left out 1 photos that are copies of others" in printed


def test_a_difference_beside_the_fill_is_refused(photos, error_of, tmp_path):
    forge(photos, "telea")

    def refused(*more, folder=photos, inpainter="fourier", output="made"):
        return error_of("forge", str(folder), f"--with={inpainter}", f"--output={output}", *more)

    assert "was made with format jpeg, not png: real and fake" in refused("--format=png")
    assert "quality (95, 95), not (80, 80) and seed" not in refused("--quality=80", "--seed=1")
    assert "seed 0, not 1 and quality (95, 95), not (80, 80)" in refused("--quality=80", "--seed=1")
    # A folder of somebody else's: its real photos may be PNGs and ours JPEG.
    shutil.copytree(photos, tmp_path / "theirs/real")
    assert "something that forge did not make" in refused(output="theirs")
    assert "photos holds the photos" in refused(output="photos")
    other = tmp_path / "made/fake/strange/images"
    other.mkdir(parents=True)
    (other / "a.png").write_bytes(b"")
    assert "something that forge did not make" in refused("--name=strange")
    # The same generator in another way.
    message = refused("--masks=box", inpainter="telea")
    assert "made/fake/telea was made with masks" in message and "--name" in message
    # Photos that were compressed with losses, beside regenerated ones that never were.
    Image.open(photos / "train/more/0.png").save(photos / "train/more/0.jpg")
    (photos / "train/more/0.png").unlink()
    message = refused("--format=png", "--outside=both", output="png")
    assert "0.jpg was compressed with losses" in message and "--format jpeg" in message
    assert "holds another photo called train/more/0" in refused()


def test_leaks_and_clashes_are_refused(photos, error_of):
    shutil.copy(photos / "train/more/0.png", photos / "test/again.png")
    message = error_of("forge", str(photos), "--with=telea", "--output=made")
    assert "the same photo is in two splits" in message and "test/again.png" in message
    (photos / "test/again.png").unlink()
    Image.open(photos / "train/more/0.png").save(photos / "train/more/0.jpg")
    message = error_of("forge", str(photos), "--with=telea", "--output=made")
    assert "the same name but for the suffix" in message and "0.jpg" in message


def test_an_inpainter_that_changes_nothing_is_refused(photos, error_of):
    def refused(*more):
        return error_of("forge", str(photos), "--output=made", "--workers=1", *more)

    assert "idle changed no pixel inside the masks of the first 8" in refused("--with=idle")
    message = refused("--with=telea", "--outside=regenerated")
    assert "telea changed no pixel outside" in message and "say --outside paste" in message
    forge(photos, "telea")  # nothing is left of what was refused
    before = content(Path("made"))
    assert "changed no pixel outside" in refused("--with=telea", "--outside=both")
    assert content(Path("made")) == before


def test_what_is_typed_wrongly_is_told(photos, error_of, tmp_path):
    def refused(*more, folder=photos):
        return error_of("forge", str(folder), "--output=made", *more)

    assert "required" in refused()
    assert "no folder nowhere of photos" in refused("--with=telea", folder="nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty holds no photo" in refused("--with=telea", folder="empty")
    assert "no generator's name" in refused("--with=telea", "--name=real")
    assert "telea takes no prompt" in refused("--with=telea", "--prompts=x.txt")
    assert "x.txt can't be read" in refused("--with=brighter", "--prompts=x.txt")
    assert "--quality 101: expected a number or two" in refused("--with=telea", "--quality=101")
    assert not Path("made").exists()


def test_the_inpainter_of_the_documentation_fills_its_own_masks(photos, monkeypatch, capsys):
    part = Path(__file__).parents[1] / "docs/parts/my_inpainter.py"
    monkeypatch.setenv("DECLIP_PARTS", str(part))
    black = photos / "train/black.png"
    Image.new("RGB", (70, 70)).save(black)
    root = forge(photos, "mean", "--masks=dark")
    printed = capsys.readouterr().out
    assert "mean: 8 fakes" in printed and "by dark" in printed
    assert "left out: 1 photos (there is no mask)" in printed
    made = said(root)["generators"]["mean"]
    assert made["left_out"] == {"train/black": "there is no mask"}
    assert len(made["about"]["identity"]["code"]) == len(made["about"]["masks"]["code"]) == 16


def test_a_graph_is_named_by_a_mapping_too(photos, error_of):
    pytest.importorskip("onnxruntime")
    write_graph(Path("grey.onnx"), "black", TensorProto.FLOAT)
    root = forge(photos, "{class_path: onnx, init_args: {file: grey.onnx, levels: 0..1}}")
    about = said(root)["generators"]["grey"]["about"]
    assert about["identity"]["hole"] == "black" and about["identity"]["levels"] == "0..1"
    message = error_of("forge", str(photos), "--with=onnx:grey.onnx", "--output=made")
    assert "its image input is float32; say of which range" in message


@pytest.mark.slow
def test_forged_data_train(photos, fit_arguments, tmp_path):
    root = forge(photos, "telea")
    cli.main(fit_arguments(data__root=root.resolve(), data__generator="telea"))
    (folder,) = (tmp_path / "outputs").iterdir()
    scores = json.loads((folder / "test_metrics.json").read_text())["scores"]
    assert scores["telea"]["iou_n"] == COUNTS["test"]
