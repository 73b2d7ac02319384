"""Parts from outside the package: those that the documentation shows, put through every command.

The commands run in processes of their own, as a user starts them, with nothing but
``DECLIP_PARTS``.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import make_tree

from declip_pl.cross_eval.cell import read_cell

pytestmark = pytest.mark.slow  # every command in a process of its own
PARTS = Path(__file__).parents[1] / "docs/parts"
NAMES = ("my_encoder", "my_decoder", "my_loss", "my_metric", "my_layout")

RECIPE = {
    "model": {
        "encoder": {"class_path": "my_encoder.NoiseEncoder", "init_args": {"patch": 16}},
        "layer": "none",
        "decoder": {"class_path": "my_decoder.SmallDecoder", "init_args": {"width": 8}},
        "loss": {"class_path": "my_loss.TverskyLoss", "init_args": {"missed": 0.6}},
        "image_size": 64,
        "learning_rate": 1e-2,
    },
    "data": {
        "root": "x",
        "generator": "x",
        "layout": {"class_path": "my_layout.TableLayout"},
        "augmentation": [
            {"class_path": "albumentations.ToGray", "init_args": {"p": 0.5}},
            "blur",
        ],
        "views": 2,
        "batch_size": 4,
        "num_workers": 0,
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
}


COMMANDS = """
import sys
from pathlib import Path
from declip_pl import cli

data, perturbation = sys.argv[1:]
recipe = [f"--data={data}", "--config=recipe.yaml"]
cli.main(["train", "--generator=ldm", *recipe])
(run,) = map(str, Path("outputs/train").iterdir())
cli.main(["cross-eval", *recipe, f"--perturbation={perturbation}", "--name=mine"])
folder = "outputs/cross_eval/mine"
cli.main(["compare", folder, folder, "--metric=recall"])
cli.main(["predict", f"{data}/tree/fake/ldm/images/test/0.png", f"--model={run}", "--output=found"])
cli.main(["test", run, "--generator=lama", "--data.augmentation=none", "--data.views=0"])
try:
    import onnxruntime
except ImportError:
    sys.exit()
cli.main(["export", run, "--output=mine.onnx"])
"""
"""One process for all, as each would import everything anew; of the two trainings that the
cross-evaluation takes, it starts one in a process of its own."""


def make_table(root: Path) -> Path:
    """Write a data set as ``my_layout`` wants it: a table, and masks in which white is fake."""
    from PIL import Image, ImageOps

    tree = make_tree(root / "tree", counts={"train": 4, "valid": 2, "test": 2})
    rows = []
    for image in sorted(tree.rglob("*.png")):
        kind, *middle, split, name = image.relative_to(tree).parts
        if "masks" in middle:
            ImageOps.invert(Image.open(image)).save(image)
            continue
        generator = "real" if kind == "real" else middle[0]
        mask = "" if kind == "real" else image.relative_to(root).as_posix()
        rows.append({
            "split": split, "generator": generator, "name": Path(name).stem,
            "image": image.relative_to(root).as_posix(),
            "mask": mask.replace("/images/", "/masks/"),
        })  # fmt: skip
    with (root / "photos.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return root


class Place:
    """A folder with data, a recipe and the parts, from which commands are started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = make_table(folder / "table")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        self.parts = ",".join(str(PARTS / f"{name}.py") for name in NAMES)

    def run(self, *arguments: object, parts: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"DECLIP_PARTS": parts, "OMP_NUM_THREADS": "1"}
        environment |= {"DECLIP_FEATURES": str(self.folder / "features")}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=self.folder, env=environment
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    """A finished cross-evaluation with a part of one's own at every door."""
    made = Place(tmp_path_factory.mktemp("doors"))
    perturbation = PARTS / "my_perturbation.yaml"
    done = made.run("-c", COMMANDS, made.data, perturbation, parts=made.parts)
    assert done.returncode == 0, done.stdout + done.stderr
    made.printed = done.stdout
    return made


RUN = "noiseencoder-smalldecoder-ldm-augmented-{}-tverskyloss"


@pytest.fixture(scope="module")
def run(place) -> Path:
    (found,) = (place.folder / "outputs/train").glob(RUN.format("*"))
    return found


def test_encoder_decoder_and_loss_are_trained_with(place, run):
    results = json.loads((run / "test_metrics.json").read_text())
    assert results["model"]["loss"] == RECIPE["model"]["loss"]
    assert results["encoder"]["name"] == "noiseencoder"
    assert results["encoder"]["arithmetic"]["init_args"] == {"patch": 16}
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


def test_the_layout_tells_generators_masks_and_polarity(place, run):
    matrix = json.loads((place.folder / "outputs/cross_eval/mine/matrix.json").read_text())
    assert matrix["columns"] == ["lama", "ldm"] and matrix["rows"] == ["lama", "ldm"]
    tests = matrix["data"]["tests"]
    assert {name: part["photos"] for name, part in tests.items()} == {
        "lama": 2, "ldm": 2, "real": 2
    }  # fmt: skip
    all_fake = json.loads((run / "test_metrics.json").read_text())["baselines"]["ldm"]["all fake"]
    assert all_fake["iou"] == pytest.approx(100 * 40 * 40 / 96**2, abs=0.1)  # the boxes, not around


def test_the_augmentation_is_encoded_in_views_of_its_own(place):
    caches = [path.name for path in (place.folder / "features").iterdir()]
    assert sum("2-changes0" in name for name in caches) == 1
    assert sum("2-changes1" in name for name in caches) == 1


def test_the_perturbation_is_in_cache_cells_and_matrix(place):
    folder = place.folder / "outputs/cross_eval/mine"
    matrix = json.loads((folder / "matrix.json").read_text())
    assert "albumentations" in matrix["perturbation"]
    cell = read_cell(next((folder / "cells").rglob("ldm.*")))
    assert cell.key.perturbation == matrix["perturbation"]
    assert any("perturbed" in path.name for path in (place.folder / "features").iterdir())
    assert "albumentations" in (folder / "report.html").read_text()


def test_the_metric_appears_everywhere(place, run):
    folder = place.folder / "outputs/cross_eval/mine"
    assert "recall" in json.loads((run / "test_metrics.json").read_text())["scores"]["ldm"]
    assert "recall" in json.loads((folder / "matrix.json").read_text())["metrics"]
    assert ",recall," in (folder / "matrix.csv").read_text()
    page = (folder / "report.html").read_text()
    assert "Recall" in page and "share of the fake pixels that are found" in page
    assert "recall in percent" in place.printed


def test_predict_and_test_and_export_take_the_localizer(place, run):
    assert "marked: " in place.printed and (place.folder / "found/masks/0.png.png").is_file()
    assert (run / "test_metrics_lama.json").is_file()
    pytest.importorskip("onnxruntime")
    assert "largest difference" in place.printed
    assert (place.folder / "mine.onnx").is_file()


def test_code_that_the_user_did_not_name_is_not_imported(place, run):
    """What a checkpoint names runs only where its file is in DECLIP_PARTS."""
    others = ",".join(str(PARTS / f"{name}.py") for name in NAMES if name != "my_decoder")
    photo = place.data / "tree/fake/ldm/images/test/0.png"
    command = ["-m", "declip_pl", "predict", photo, "--model", run, "--output", "other"]
    done = place.run(*command, parts=others)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "decoder my_decoder.SmallDecoder is code outside declip-pl" in done.stderr
    assert "DECLIP_PARTS=my_decoder.py" in done.stderr


def test_a_script_with_a_trainer_of_ones_own(tmp_path, tree, clip):
    """The documentation's script, on small data and a small encoder."""
    script = (PARTS / "my_training.py").read_text()
    assert script in (PARTS.parent / "extend/script.md").read_text()
    for before, after in (
        ('"data/mini", "ldm", batch_size=16', f"{str(tree)!r}, 'ldm', batch_size=4, num_workers=0"),
        ("openai/clip-vit-base-patch16", str(clip)),
        ("layer5", "layer1"),
        ("max_epochs=8", "max_epochs=1, accelerator='cpu'"),
    ):
        assert before in script
        script = script.replace(before, after)
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/mine/best.ckpt").is_file() and "'iou': " in done.stdout
    assert "torch.Size([4, 1, 256, 256])" in done.stdout
    assert "0         Non-trainable params" not in done.stdout + done.stderr
