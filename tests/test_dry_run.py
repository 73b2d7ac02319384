"""What ``--dry-run`` counts, on whatever data set the command itself takes."""

import shutil

import pytest
import yaml
from conftest import make_clip, make_tree
from localizer_example import checkpoint_of

from declip_pl import cli
from declip_pl.cross_eval import elsewhere
from declip_pl.cross_eval.counts import count, photos_in
from declip_pl.data import feature_share
from declip_pl.inference import saved_folder
from declip_pl.training.recipe import Options, Recipe
from declip_pl.training.task import LocalizationTask

QUESTION = """
question: Does more training help?
recipe: tiny.yaml
grid: {trainer.max_epochs: [1, 2]}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, an encoder, a recipe and questions; nothing is trained."""
    folder = tmp_path_factory.mktemp("place")
    make_tree(folder / "dolos")
    make_clip(folder / "tiny-clip")
    recipe(folder)
    (folder / "each.yaml").write_text(QUESTION)
    (folder / "one.yaml").write_text(f"{QUESTION}fixed: {{data.generator: ldm}}\n")
    task = LocalizationTask(str(folder / "tiny-clip"), "layer1", "linear", 64)
    saved_folder.save(checkpoint_of(task), folder / "model")
    return folder


def recipe(folder, name="tiny.yaml", **data):
    """Write a recipe of two epochs, and return what it trains on the data set."""
    data = {"root": "x", "generator": "x", "batch_size": 4, "num_workers": 0, **data}
    model = {"encoder": f"{folder}/tiny-clip", "layer": "layer1", "decoder": "linear"}
    trainer = {"max_epochs": 2, "accelerator": "cpu", "logger": False}
    said = {"model": {**model, "image_size": 64}, "data": data, "trainer": trainer}
    (folder / name).write_text(yaml.safe_dump(said))
    return Recipe(folder / "dolos", folder / name, Options())


@pytest.fixture
def without(place, tmp_path, monkeypatch):
    """Return a copy of the data set in which the generator lama lacks some splits."""
    monkeypatch.chdir(tmp_path)

    def remove(*splits):
        shutil.copytree(place / "dolos", tmp_path / "data")
        for split in splits:
            for kind in ("images", "masks"):
                shutil.rmtree(tmp_path / f"data/fake/lama/{kind}/{split}")
        return f"--data={tmp_path}/data"

    return remove


COMMANDS = {
    "cross-eval": ["cross-eval", "--config={}/tiny.yaml"],
    "ablate": ["ablate", "{}/one.yaml"],
    "ablate each": ["ablate", "{}/each.yaml"],
    "robustness": ["robustness", "--config={}/tiny.yaml"],
    "robustness of a model": ["robustness", "{}/model"],
}
TRAIN_ON_EACH = ("cross-eval", "ablate each", "robustness")


@pytest.mark.parametrize("splits", [("train", "valid"), ("valid",), ("test",)])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_generator_may_lack_splits(place, without, capsys, name, splits):
    """What the command itself names as failed, and goes on, is named and not counted."""
    command = [word.format(place) for word in COMMANDS[name]]
    cli.main([*command, without(*splits), "--dry-run"])
    printed = capsys.readouterr().out
    assert "together: up to about " in printed and "measured in " in printed
    told = [line for line in printed.splitlines() if "can't be trained, and is not counted" in line]
    assert len(told) == (name in TRAIN_ON_EACH) * (2 if name == "ablate each" else 1)
    assert all(f"no {splits[0]} photo of lama" in line for line in told)


@pytest.mark.parametrize(
    ("splits", "encoded"),
    # 16 photos of ldm and 8 real ones; of lama the test photos, or none, as it is not trained.
    [(("train", "valid"), 28), (("test",), 24)],
)
def test_what_can_not_be_trained_is_not_encoded(
    place, without, capsys, monkeypatch, tmp_path, splits, encoded
):
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    command = ["cross-eval", f"--config={place}/tiny.yaml", "--part=encode:1/1"]
    cli.main([*command, without(*splits)])
    assert f"encoded {encoded} photos" in capsys.readouterr().out


def test_pieces_elsewhere_are_told_as_well(place, without, capsys):
    command = ["cross-eval", f"--config={place}/tiny.yaml", "--on=local:2", "--dry-run"]
    cli.main([*command, without("train", "valid")])
    printed = capsys.readouterr().out
    # Of two models one is trained; one share is encoded, two models are scored, one report.
    assert "start: " in printed and "(5 processes)" in printed and "with 2 at once" in printed


def test_an_ablation_encodes_in_shares_unless_a_photo_passes_for_several_layers(
    place, without, capsys, monkeypatch
):
    monkeypatch.setattr(elsewhere, "SHARD", 8)
    (place / "layers.yaml").write_text(
        QUESTION.replace("trainer.max_epochs: [1, 2]", "model.layer: [layer1, layer2]")
    )
    data = without()
    for name, pieces in (("each", "2 pieces"), ("layers", "1 piece")):
        cli.main(["ablate", f"{place}/{name}.yaml", data, "--on=local:2", "--dry-run"])
        assert f"  encode: {pieces}\n" in capsys.readouterr().out


def test_shares_of_an_ablation_are_all_of_it(place, without, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    monkeypatch.setattr(feature_share, "SHARD", 8)
    data = without()
    encoded = []
    for part in ("1/2", "2/2", "1/1"):
        cli.main(["ablate", f"{place}/each.yaml", data, f"--part=encode:{part}"])
        lines = capsys.readouterr().out.splitlines()
        encoded += [int(line.split()[1]) for line in lines if line.startswith("encoded ")]
    assert min(encoded[0], encoded[2]) > 0 and encoded[0] + encoded[2] == 40
    assert encoded[1] == encoded[3] == 0  # the second variant finds them
    assert encoded[4:] == [0, 0]


@pytest.mark.parametrize(
    ("data", "encoded", "cached", "trained", "scored", "drawn"),
    [
        # 16 training photos; 8 validation photos and 4 real ones, and as many for tests. An epoch
        # sees 8 of training, scores 4 and the 4 real ones, and draws the 4; a test scores 8; then
        # both models all 12.
        ({}, 40, 40, 32, 72, 16),
        ({"augmentation": "blur", "views": 3}, 24 + 3 * 16, 72, 32, 72, 16),
        ({"augmentation": "blur"}, 24 + 32, 24, 32, 72, 16),
        ({"cache": False}, 12 + 2 * (2 * 16 + 8), 12, 32, 72, 16),
        ({"train_photos": 4}, 32, 32, 16, 72, 16),
        # Beside the 8 training photos 8 real ones and one of the 2 versions of each of them are
        # seen, and all versions of the 4 real ones for validation.
        ({"forgeries": {"versions": 2}}, 40 + 8 + 24, 72, 2 * 2 * 24, 72 + 2 * 2 * 8, 16),
    ],
    ids=["as they are", "views", "new each time", "not cached", "fewer", "forgeries"],
)
def test_photos_are_counted_as_often_as_they_are_seen(
    place, data, encoded, cached, trained, scored, drawn
):
    of = recipe(place, "other.yaml", **data)
    everything = of.data_module("all")
    found = count(of, everything, ["lama", "ldm"], scorings=2)
    assert found == (encoded, cached, trained, scored, drawn, 2, ())
    assert count(None, everything, [], 2, changed=3)[:4] == (12 + 36, 12, 0, 24)
    assert photos_in(everything) == (48 if "forgeries" in data else 40)
