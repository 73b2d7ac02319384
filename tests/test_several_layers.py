"""A model on several layers end to end: training, checkpoint, saved folder, cross-evaluation."""

import json

import pytest
import torch
from localizer_example import checkpoint_of, write_run

from declip_pl import Localizer, cli
from declip_pl.cross_eval.models import by_encoder, read_models
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import load_decoder, read_checkpoint, save
from declip_pl.model.encoder import build_encoder
from declip_pl.training.run_folder import run_name
from declip_pl.training.task import LocalizationTask

SEVERAL = "layer2+layer0"


def task_on(clip, layer, decoder="light"):
    return LocalizationTask(str(clip), layer, decoder, image_size=64)


def test_from_training_to_the_report(clip, tree, fit_arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    layers = {"layer2": "light", SEVERAL: "light"}
    for layer, decoder in layers.items():
        cli.main(fit_arguments(**{"model.layer": layer, "model.decoder": decoder,
                                  "trainer.max_epochs": 1}))  # fmt: skip
    runs = tmp_path / "outputs"
    run = runs / f"tiny-clip-{SEVERAL}-light-ldm"
    assert (run / "test_metrics.json").exists() and list((run / "panels").iterdir())
    task = LocalizationTask.load_from_checkpoint(
        run / "checkpoints/best.ckpt", weights_only=True
    ).eval()
    first = Localizer.from_pretrained(run, device="cpu")
    first.save_pretrained(tmp_path / "saved")
    second = Localizer.from_pretrained(tmp_path / "saved", device="cpu")
    assert json.loads((tmp_path / "saved/config.json").read_text())["layer"] == SEVERAL
    assert SEVERAL in (tmp_path / "saved/README.md").read_text()
    photo = next((tree / "fake/ldm/images/test").iterdir())
    assert (first(photo).heatmap == second(photo).heatmap).all()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(first.network(pixels), task(pixels))
    # Both encoders have the same weights; each model gets its own features all the same.
    models = [str(run), str(runs / "tiny-clip-layer2-light-ldm")]
    cli.main(["evaluate", *models, f"--data={tree}", "--name=both"])
    folder = tmp_path / "outputs/cross_eval/both"
    matrix = json.loads((folder / "matrix.json").read_text())
    assert {model["layer"] for model in matrix["models"]} == set(layers)
    assert len(matrix["rows"]) == 2
    for model in matrix["models"]:
        said = json.loads((runs / model["name"] / "test_metrics.json").read_text())["scores"]["ldm"]
        for name in ("iou", "ap", "image_auroc"):
            found = matrix["matrix"][name][model["row"]]["ldm"]["value"]
            assert found == pytest.approx(said[name], abs=1e-3)
    assert SEVERAL in (folder / "report.html").read_text()


def test_a_checkpoint_of_other_layers_is_refused(clip, tmp_path):
    """Also where the decoder's weights would fit."""
    path = write_run(checkpoint_of(task_on(clip, "layer0+layer2", "light")), tmp_path / "run.ckpt")
    for other in ("layer1+layer2", "layer2+layer0", "layer2"):
        with pytest.raises(UserError, match="belongs to another encoder"):
            task_on(clip, other, "light").load_weights(read_checkpoint(path))
        with pytest.raises(UserError, match="belongs to another encoder"):
            load_decoder(read_checkpoint(path), build_encoder(str(clip), other, 64))
    task_on(clip, "layer0+layer2", "light").load_weights(read_checkpoint(path))


def test_a_cross_evaluation_shares_an_encoder_among_models_of_the_same_layers(clip, tmp_path):
    names = {"a": "layer2", "b": "layer0+layer2", "c": "layer1+layer2", "d": "layer0+layer2"}
    for name, layer in names.items():
        save(checkpoint_of(task_on(clip, layer)), tmp_path / name)
    models, failures = read_models([tmp_path / name for name in names], ["ldm"])
    assert not failures and len({m.checkpoint.identity.sha256 for m in models}) == 1
    groups = [[model.name for model in group] for group in by_encoder(models)]
    assert groups == [["a"], ["b", "d"], ["c"]]


def test_a_runs_name_has_all_layers_or_a_hash_for_the_rest():
    assert run_name("org/clip", "layer3+layer5", "light", "lama+ldm") == (
        "clip-layer3+layer5-light-lama+ldm"
    )
    many = ["+".join(f"layer{n}" for n in range(last)) for last in (40, 41)]
    names = [run_name("org/clip", layer, "light", "ldm") for layer in many]
    assert names[0] != names[1] and all(len(name) <= 200 for name in names)
