"""Cross-evaluation end to end: what is trained, scored, kept, redone, and what a cell holds."""

import csv
import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GENERATORS, make_clip, make_tree, wait_until
from matplotlib.figure import Figure
from PIL import Image

from declip_pl import cli
from declip_pl.cross_eval import build, cells, scoring
from declip_pl.cross_eval.cell import cell_path, finished_cell, read_cell
from declip_pl.cross_eval.matrix import read_matrix
from declip_pl.cross_eval.models import read_models, row_name
from declip_pl.cross_eval.views import wandb_run
from declip_pl.cross_eval.views.wandb_dashboard import plan
from declip_pl.data.masks import mostly_fake
from declip_pl.errors import UserError
from declip_pl.metrics import untouched_metrics
from declip_pl.model.checkpoint import BEST, save
from declip_pl.model.checkpoint import read_checkpoint as read_model
from declip_pl.model.transformers_encoder import TransformersEncoder
from declip_pl.training.recipe import Options, Recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, an encoder, a recipe and two trained models; no test changes it."""
    folder = tmp_path_factory.mktemp("place")
    make_tree(folder / "dolos")
    make_clip(folder / "tiny-clip")
    (folder / "tiny.yaml").write_text(
        f"model: {{encoder: {folder}/tiny-clip, layer: layer1, decoder: linear, image_size: 64}}\n"
        "data: {root: x, generator: x, batch_size: 4, num_workers: 0}\n"
        "trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false, logger: false}\n"
    )
    for generator in GENERATORS:
        cli.main(
            ["fit", f"--config={folder}/tiny.yaml", f"--data.root={folder}/dolos",
             f"--data.generator={generator}", f"--run.root={folder}/outputs/train"]
        )  # fmt: skip
    return folder


@pytest.fixture
def drawn(place, tmp_path, monkeypatch):
    """The trained models, to be scored in a folder of the test's own."""
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    return tmp_path


@pytest.fixture
def here(drawn, blank_plots):
    """The same for tests that don't look at plots."""
    return drawn


def cross_eval(place, *models):
    """Score these models, or train what is missing."""
    recipe = [] if models else [f"--config={place}/tiny.yaml"]
    command = "evaluate" if models else "cross-eval"
    cli.main([command, *map(str, models), f"--data={place}/dolos", *recipe])


def result(here):
    """Return the cross-evaluation that was written last, and its matrix."""
    found = (here / "outputs/cross_eval").glob("*/matrix.json")
    folder = max(found, key=lambda path: path.stat().st_mtime_ns).parent
    return folder, json.loads((folder / "matrix.json").read_text())


def without_thresholds(run):
    """Make a run's checkpoint one of before, for which a cross-evaluation chooses them."""
    saved = torch.load(run / BEST, weights_only=True)
    del saved["declip_pl"]["thresholds"]
    torch.save(saved, run / BEST)
    return run


def numbers(here):
    """Return all that must not depend on how often a cross-evaluation was interrupted."""
    matrix = result(here)[1]
    return {
        k: v for k, v in matrix.items() if k not in ("made", "panels", "models", "sha256", "inputs")
    }


def cell_files(here):
    folder, _ = result(here)
    return {
        p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("cells/*/*")
    }


def fail_on(monkeypatch, test, error):
    """Have every cell of a test set fail when it is scored and drawn."""
    write = cells.write_cell

    def fail(path, cell):
        if cell.test == test:
            raise error
        write(path, cell)

    monkeypatch.setattr(cells, "write_cell", fail)


@pytest.fixture
def encoded(monkeypatch):
    """Count the photos that pass the encoder, four at a time; it looks at a blank when built."""
    counted = []
    forward = TransformersEncoder.forward

    def count(self, pixels):
        if len(pixels) > 1:
            counted.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(TransformersEncoder, "forward", count)
    return counted


def test_cross_eval_leaves_everything_the_readme_promises(place, drawn, capsys):
    cross_eval(place)
    folder, matrix = result(drawn)
    assert folder.name == "dolos-tiny-clip-layer1-linear"
    files = ("matrix.csv", "matrix.json", "matrix.png", "matrix.pdf", "by_kind.csv", "photos.csv")
    for name in (*files, "cite.bib", "tables/iou.tex", "tables/iou.md", "report.html"):
        assert (folder / name).stat().st_size > 500, name
    assert matrix["rows"] == matrix["columns"] == ["lama", "ldm"]
    assert matrix["in_domain"] == {"lama": ["lama"], "ldm": ["ldm"]}
    for column in GENERATORS:
        for row in GENERATORS:
            assert matrix["matrix"]["iou"][row][column]["n"] == 4
            for panel in matrix["panels"][row][column].values():
                assert (folder / panel["file"]).exists()
    printed = capsys.readouterr().out
    for text in ("out-of-domain mean", f"outputs/cross_eval/{folder.name}/report.html", "ldm"):
        assert text in printed


def test_the_encoder_is_put_away_while_decoders_score(place, here, monkeypatch):
    load, built, held = scoring.load_encoder, [], []
    monkeypatch.setattr(scoring, "load_encoder", lambda *of: built.append(load(*of)) or built[-1])
    score = cells.Cells.score

    def watch(self, *arguments):
        held.append(sum(tensor.numel() for tensor in built[-1].parameters()))
        return score(self, *arguments)

    monkeypatch.setattr(cells.Cells, "score", watch)
    cross_eval(place)
    assert len(built) == 1 and held == [0] * 6  # two models on two generators and the reals


def test_matrix_csv_is_tidy(place, here):
    cross_eval(place)
    folder, matrix = result(here)
    with (folder / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["train", "test", "metric", "value", "ci_low", "ci_high", "n"]
    answers = {"all fake", "all real", "mean train mask"}
    tuned = {"iou_tuned", "f1_tuned", "image_accuracy_tuned"}  # an answer has no threshold
    assert {row["train"] for row in rows} == {*GENERATORS, *answers}
    assert len([row for row in rows if row["train"] in GENERATORS]) == 4 * len(matrix["metrics"])
    assert len([r for r in rows if r["train"] in answers]) == 6 * len({*matrix["metrics"]} - tuned)
    found = next(r for r in rows if (r["train"], r["test"], r["metric"]) == ("lama", "ldm", "ap"))
    expected = matrix["matrix"]["ap"]["lama"]["ldm"]
    assert [float(found[k]) for k in ("value", "ci_low", "ci_high")] == [
        expected[k] for k in ("value", "low", "high")
    ]
    assert expected["low"] <= expected["value"] <= expected["high"]


def test_cells_agree_with_declip_test(place, here):
    """The same scores on another path: Lightning's test loop and torchmetrics."""
    cross_eval(place)
    matrix = result(here)[1]["matrix"]
    run = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    cli.main(["test", str(run), "--generator=lama"])
    for generator, file in (("ldm", "test_metrics.json"), ("lama", "test_metrics_lama.json")):
        scores = json.loads((run / file).read_text())["scores"][generator]
        for name in ("iou", "f1_plain", "f1_fixed", "f1_best", "ap", "image_ap", "image_auroc",
                     "image_accuracy"):  # fmt: skip
            assert matrix[name]["ldm"][generator]["value"] == pytest.approx(scores[name], abs=1e-3)
    tuned = matrix["image_accuracy_tuned"]["ldm"]["ldm"]["value"]
    in_domain = json.loads((run / "test_metrics.json").read_text())["scores"]["ldm"]
    assert tuned == pytest.approx(in_domain["image_accuracy_tuned"], abs=1e-3)


def test_each_photo_passes_the_encoder_once_whatever_the_number_of_models(place, here, encoded):
    first, second = sorted((here / "outputs/train").iterdir())
    cross_eval(place, first)
    assert sum(encoded) == (2 + 1) * 4  # two generators, real; thresholds are in the checkpoint
    encoded.clear()
    shutil.rmtree(here / "features")
    shutil.copytree(second, here / "third")
    cross_eval(place, first, second, here / "third")
    assert sum(encoded) == 3 * 4
    encoded.clear()
    cross_eval(place, first, second, "--name=again")
    assert not encoded


def test_finished_cells_are_reused_and_stale_ones_redone(place, here):
    cross_eval(place)
    first, expected = cell_files(here), numbers(here)
    cross_eval(place)
    assert cell_files(here) == first and numbers(here) == expected
    run = here / "outputs/train/tiny-clip-layer1-linear-lama"
    saved = torch.load(run / BEST, weights_only=True)
    saved["state_dict"]["network.decoder.fc.0.bias"] += 1
    torch.save(saved, run / BEST)
    cross_eval(place)
    redone = {name for name, when in cell_files(here).items() if when != first[name]}
    assert redone == {name for name in first if "linear-lama/" in name} and len(redone) == 3
    assert numbers(here) != expected


def test_changed_photos_and_masks_make_cells_stale(place, here):
    shutil.copytree(place / "dolos", here / "dolos")
    runs = sorted((here / "outputs/train").iterdir())
    options = ["evaluate", *map(str, runs), f"--data={here}/dolos"]
    cli.main(options)
    first = cell_files(here)
    masks = here / "dolos/fake/ldm/masks/test"
    shutil.copy(masks / "1.png", masks / "0.png")
    cli.main(options)
    redone = {name for name, when in cell_files(here).items() if when != first[name]}
    assert {Path(name).stem for name in redone} == {"ldm"} and len(redone) == 2


def test_one_failing_cell_loses_nothing_else(place, here, monkeypatch, error_of):
    second = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    with monkeypatch.context() as patch:
        fail_on(patch, "lama", RuntimeError("out of memory\nand more"))
        message = error_of("evaluate", str(second), f"--data={place}/dolos")
    assert f"failed:\n  {second.name} on lama: out of memory\n" in message
    _, matrix = result(here)
    assert list(matrix["matrix"]["iou"]["ldm"]) == ["ldm"]
    assert matrix["failed"][0]["what"] == f"{second.name} on lama"
    kept = cell_files(here)
    cli.main(["evaluate", str(second), f"--data={place}/dolos"])
    assert set(cell_files(here)) - set(kept) == {f"cells/{second.name}/lama.safetensors"}
    assert not result(here)[1]["failed"]


def test_a_damaged_checkpoint_is_named_and_the_rest_scored(place, here, error_of):
    runs = sorted((here / "outputs/train").iterdir())
    (runs[0] / BEST).write_bytes(b"nonsense")
    message = error_of("evaluate", *map(str, runs), f"--data={place}/dolos")
    assert str(runs[0] / BEST) in message and "damaged" in message
    assert list(result(here)[1]["matrix"]["iou"]) == ["ldm"]


@pytest.mark.parametrize("damage", ["photo", "mask", "split"])
def test_a_damaged_test_set_is_named_and_the_rest_scored(place, here, error_of, damage):
    data = Path(shutil.copytree(place / "dolos", here / "dolos"))
    if damage == "photo":
        (data / "fake/lama/images/test/0.png").write_bytes(b"nonsense")
    elif damage == "mask":
        (data / "fake/lama/masks/test/0.png").unlink()
    else:
        shutil.rmtree(data / "fake/lama/images/test")
        shutil.rmtree(data / "fake/lama/masks/test")
    runs = sorted((here / "outputs/train").iterdir())
    message = error_of("evaluate", *map(str, runs), f"--data={data}")
    assert "test set lama: " in message and "Traceback" not in message
    folder, matrix = result(here)
    assert {row: list(cells) for row, cells in matrix["matrix"]["iou"].items()} == {
        "lama": ["ldm"],
        "ldm": ["ldm"],
    }
    assert (folder / "report.html").exists()


def test_nothing_to_score_is_an_error_without_a_traceback(place, here, error_of):
    data = Path(shutil.copytree(place / "dolos", here / "dolos"))
    for photo in data.glob("*/*/images/test/0.png"):
        photo.write_bytes(b"nonsense")
    run = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    message = error_of("evaluate", str(run), f"--data={data}")
    assert "test set lama: " in message and "test set ldm: " in message
    assert "Traceback" not in message


def damage_by(path, how):
    """Damage a file as a full disk, a killed process or a failing disk would."""
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes({"empty": b"", "flipped": flipped, "{}": b"{}"}[how])


@pytest.mark.parametrize("how", ["empty", "flipped", "{}"])
def test_whatever_is_damaged_is_named_once_and_made_anew(place, here, capsys, how):
    run = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    # Thresholds that are not in the checkpoint stand in a file.
    save(dataclasses.replace(read_model(run), thresholds=None), here / "old")
    cross_eval(place, here / "old")
    folder, expected = result(here)[0], numbers(here)
    files = ["cells/old/ldm.safetensors", "panels/old/lama/best.png", "matrix.json"]
    files += ["thresholds/old.json"] * (how != "{}")  # nothing says that it is not an older one
    for file in files:
        damage_by(folder / file, how)
    capsys.readouterr()
    cross_eval(place, here / "old")
    lines = [line for line in capsys.readouterr().out.splitlines() if "made anew" in line]
    assert len(lines) == len(files)
    for file in files:
        assert any(f"{folder.name}/{file} is" in line for line in lines), file
    assert numbers(here) == expected
    cross_eval(place, here / "old")
    assert "made anew" not in capsys.readouterr().out


def test_what_killed_processes_left_is_deleted(place, here):
    cross_eval(place)
    folder, _ = result(here)
    for path in (folder, folder / "cells/tiny-clip-layer1-linear-ldm", folder / "thresholds"):
        path.mkdir(exist_ok=True)
        (path / ".unfinished-abc.safetensors").write_bytes(b"half")
    cross_eval(place)
    assert not list(folder.rglob(".unfinished-*"))


def test_with_all_cells_finished_nothing_is_loaded_or_computed_again(place, here, monkeypatch):
    cross_eval(place)
    expected = numbers(here)

    def never(*_args, **_options):
        raise AssertionError("this was done before")

    for module, name in ((scoring, "load_encoder"), (scoring, "load_decoder"), (build, "sampled")):
        monkeypatch.setattr(module, name, never)
    cross_eval(place)
    assert numbers(here) == expected
    with pytest.raises(AssertionError, match="this was done before"):
        cli.main(["cross-eval", f"--config={place}/tiny.yaml", f"--data={place}/dolos",
                  "--pooling=mean"])  # fmt: skip


def test_stale_cells_are_not_read(place, here, monkeypatch, error_of):
    """A model was trained anew and one of its cells fails: the old one is not taken for it."""
    cross_eval(place)
    folder, _ = result(here)
    run = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    saved = torch.load(run / BEST, weights_only=True)
    saved["state_dict"]["network.decoder.fc.0.bias"] += 1
    torch.save(saved, run / BEST)
    fail_on(monkeypatch, "lama", RuntimeError("out of memory"))
    error_of("cross-eval", f"--data={place}/dolos", f"--config={place}/tiny.yaml")
    matrix = read_matrix(folder)
    (model,) = [m for m in matrix.models if m.row == "ldm"]
    assert cell_path(folder, run.name, "lama").exists()
    assert finished_cell(folder, matrix, model, "lama") is None
    assert finished_cell(folder, matrix, model, "ldm")


def test_masks_of_mostly_fake_pixels_are_scored_with_a_warning(place, here, capsys):
    run = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    cli.main(["evaluate", str(run), f"--data={place}/dolos", "--polarity=white"])
    printed = capsys.readouterr().out.splitlines()
    share = 100 * (1 - 40**2 / 96**2)
    for test in GENERATORS:
        (line,) = [text for text in printed if text.startswith(f"warning: {test}")]
        # The same words as data check and training.
        assert line == f"warning: {mostly_fake(test, share / 100, 'white')}"
        assert f"{share:.0f} % of all pixels are fake if white means fake" in line
        assert "--polarity black" in line
    assert list(result(here)[1]["matrix"]["iou"]["ldm"]) == list(GENERATORS)


def test_masks_of_few_fake_pixels_give_no_warning(place, here, capsys):
    cross_eval(place, here / "outputs/train/tiny-clip-layer1-linear-ldm")
    assert "warning" not in capsys.readouterr().out


def test_what_is_left_out_of_a_test_set_is_told(place, here, capsys):
    other = place / "dolos/fake/lama/images/test/9.heic"
    other.touch()
    cross_eval(place, here / "outputs/train/tiny-clip-layer1-linear-ldm")
    other.unlink()
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "warning" in text]
    assert line.endswith("by its name: 1 .heic (fake/lama/images/test/9.heic)")


def test_a_model_whose_training_data_are_not_on_record_has_a_row_outside_all_means(place, here):
    runs = sorted((here / "outputs/train").iterdir())
    lama, _ = (read_model(run) for run in runs)
    save(dataclasses.replace(lama, trained_on=None), here / "imported")
    cross_eval(place, *runs)
    without = result(here)[1]
    cross_eval(place, *runs, here / "imported")
    folder, matrix = result(here)
    assert matrix["rows"] == ["imported", "lama", "ldm"]
    assert matrix["in_domain"]["imported"] == []
    assert matrix["matrix"]["iou"]["imported"] == matrix["matrix"]["iou"]["lama"]
    assert matrix["summary"] == without["summary"]
    assert "not on record" in (folder / "report.html").read_text()


def test_a_metric_from_a_file_outside_appears_everywhere(
    place, here, own_metric, capsys, monkeypatch
):
    own_metric("false_alarms")
    runs = sorted((here / "outputs/train").iterdir())
    drawn = []
    savefig = Figure.savefig

    def watched(figure, *args, **options):
        drawn.extend(axes.get_title("left") for axes in figure.axes)
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    cross_eval(place, *runs)
    folder, _ = result(here)
    matrix = read_matrix(folder)
    table = matrix.matrix["false_alarms"]
    assert list(table) == list(GENERATORS) and drawn.count("False alarms") == 2  # PNG and PDF
    worst = matrix.summary["false_alarms"].worst_out_of_domain
    outside = [table["lama"]["ldm"].value, table["ldm"]["lama"].value]
    assert worst.value == max(outside)  # less is better
    assert "lama,ldm,false_alarms," in (folder / "matrix.csv").read_text()
    page = (folder / "report.html").read_text()
    assert "False alarms" in page and "share of real pixels over 0.5" in page
    scored = [(model, finished_cell(folder, matrix, model, "ldm")) for model in matrix.models]
    assert any(row[2] == "false_alarms" for row in wandb_run.matrix_rows(matrix))
    assert "false_alarms" in wandb_run.photo_table(lambda: scored)[0]
    assert "false_alarms/by_train/lama" in wandb_run.summary_figures(matrix)
    keys = [key for panels in plan(matrix).values() for panel in panels for key in panel.keys]
    assert "test/ldm/false_alarms" in keys
    capsys.readouterr()
    cli.main(["test", str(runs[1])])
    printed = capsys.readouterr().out
    assert "  false_alarms " in printed
    (file,) = re.findall(r"^results: (.*)$", printed, re.MULTILINE)
    scores = json.loads(Path(file).read_text())["scores"]["ldm"]
    assert scores["false_alarms"] == pytest.approx(table["ldm"]["ldm"].value, abs=1e-3)
    cli.main(["compare", *map(str, runs), "--metric=false_alarms"])
    assert "false_alarms in percent" in capsys.readouterr().out


def test_cells_written_before_a_metric_was_added_are_scored_anew(place, here, own_metric):
    run = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    cross_eval(place, run)
    first = cell_files(here)
    own_metric("false_alarms")
    cross_eval(place, run)
    assert all(when != first[name] for name, when in cell_files(here).items())
    matrix = result(here)[1]
    assert matrix["metrics"][11] == "false_alarms"
    again = cell_files(here)
    cross_eval(place, run)
    assert cell_files(here) == again
    own_metric("false_alarms", threshold=0.6)  # the same name, other code
    cross_eval(place, run)
    assert all(when != again[name] for name, when in cell_files(here).items())


def test_the_recipes_polarity_holds_for_scoring(place, here):
    """White-is-fake data, said in the YAML alone: the same scores as black-is-fake ones."""
    cross_eval(place)
    expected = result(here)[1]["matrix"]["iou"]
    data = Path(shutil.copytree(place / "dolos", here / "dolos"))
    for mask in data.glob("fake/*/masks/*/*.png"):
        Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    text = (place / "tiny.yaml").read_text().replace("root: x", "root: x, polarity: white")
    (here / "white.yaml").write_text(text)
    shutil.rmtree(here / "outputs")
    for generator in GENERATORS:
        cli.main(["train", f"--data={data}", f"--config={here}/white.yaml",
                  f"--generator={generator}"])  # fmt: skip
    cli.main(["cross-eval", f"--data={data}", f"--config={here}/white.yaml"])
    assert result(here)[1]["matrix"]["iou"] == expected


def test_a_run_of_another_recipe_is_not_taken(place, here, error_of):
    text = (place / "tiny.yaml").read_text()
    (here / "other.yaml").write_text(
        text.replace("image_size: 64", "image_size: 64, learning_rate: 0.1")
    )
    message = error_of("cross-eval", f"--data={place}/dolos", f"--config={here}/other.yaml")
    assert "was trained by another recipe (model.learning_rate is 0.001, here 0.1)" in message


PAPER = "{class_path: declip_pl.training.schedules.PaperSchedule, init_args: {patience: %s}}"


@pytest.mark.parametrize(
    ("schedule", "taken"),
    [
        (PAPER % 5, True),  # the run's own file names every option, the recipe one of them
        ("PaperSchedule", True),
        (PAPER % 3, False),
        ("{class_path: OneCycle}", False),
        ("{class_path: of.mine.PaperSchedule}", False),
    ],
)
def test_a_run_of_another_schedule_is_not_taken(place, here, schedule, taken):
    text = (place / "tiny.yaml").read_text() + f"\nschedule: {schedule}\n"
    (here / "same.yaml").write_text(text)
    recipe = Recipe(place / "dolos", here / "same.yaml", Options())
    run = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    if taken:
        recipe.check(run, "ldm")
    else:
        with pytest.raises(UserError, match=r"another recipe \(schedule(.patience is 5| is Paper)"):
            recipe.check(run, "ldm")


def test_models_that_differ_in_more_than_the_seed_have_rows_of_their_own(place, here):
    run = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    shutil.copytree(run, here / "faster")
    cross_eval_models = [run, here / "faster"]
    cli.main(["evaluate", *map(str, cross_eval_models), f"--data={place}/dolos"])
    assert result(here)[1]["rows"] == ["ldm (faster)", f"ldm ({run.name})"]


def test_models_find_their_encoder_where_any_of_them_or_the_user_says(place, here, error_of):
    """One model names a folder that has gone, then both do."""
    runs = sorted((here / "outputs/train").glob("*/"))
    names = [here / "there", here / "gone"]
    shutil.copytree(place / "tiny-clip", names[0])
    for index, run in enumerate(runs):
        content = torch.load(run / BEST, weights_only=True)
        content["declip_pl"]["encoder"] = str(names[index])
        content["declip_pl"]["identity"]["source"] = f"folder {names[index]}"
        torch.save(content, run / BEST)
    cross_eval(place, *reversed(runs))
    expected = numbers(here)
    shutil.rmtree(here / "outputs/cross_eval")
    names[0].rename(here / "moved")
    message = error_of("evaluate", *map(str, runs), f"--data={place}/dolos")
    assert "gone is neither a folder" in message
    cross_eval(place, *runs, f"--encoder={here}/moved")
    assert numbers(here) == expected


def test_given_models_are_scored_by_evaluate_alone(place, here, error_of):
    run = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    message = error_of("cross-eval", str(run), f"--data={place}/dolos")
    assert "finished models are scored by: declip-pl evaluate" in message
    message = error_of("evaluate", str(run), f"--data={place}/dolos", "--seeds=2")
    assert "--seeds" in message


def test_leaving_one_out_takes_three(place, here, error_of):
    message = error_of("cross-eval", f"--data={place}/dolos", f"--config={place}/tiny.yaml",
                       "--loo")  # fmt: skip
    assert "too few to leave one out; it takes three" in message


def test_forgeries_alone_need_forgeries(place, here, error_of):
    given = (f"--data={place}/dolos", f"--config={place}/tiny.yaml", "--none")
    assert "none trains on forgeries alone" in error_of("cross-eval", *given)


def test_another_data_sets_results_are_not_replaced(place, here, error_of):
    runs = sorted((here / "outputs/train").iterdir())
    cli.main(["evaluate", *map(str, runs), f"--data={place}/dolos", "--name=x"])
    before = (here / "outputs/cross_eval/x/matrix.json").read_bytes()
    data = shutil.copytree(place / "dolos", here / "dolos")
    message = error_of("evaluate", *map(str, runs), f"--data={data}", "--name=x")
    assert "is of the data" in message and "RUN=" in message
    message = error_of("evaluate", *map(str, runs), f"--data={place}/dolos", "--name=x",
                       "--perturbation=jpeg")  # fmt: skip
    assert "with the perturbation none, not jpeg" in message
    assert (here / "outputs/cross_eval/x/matrix.json").read_bytes() == before


def test_a_subset_does_not_replace_the_whole(place, here):
    cross_eval(place)
    cli.main(["evaluate", str(here / "outputs/train/tiny-clip-layer1-linear-ldm"),
              f"--data={place}/dolos"])  # fmt: skip
    names = sorted(p.name for p in (here / "outputs/cross_eval").iterdir())
    assert names == ["dolos-tiny-clip-layer1-linear", "dolos-tiny-clip-layer1-linear-ldm"]


def test_a_data_set_without_reals(place, here):
    data = Path(shutil.copytree(place / "dolos", here / "dolos"))
    shutil.rmtree(data / "real")
    runs = sorted((here / "outputs/train").iterdir())
    cli.main(["evaluate", *map(str, runs), f"--data={data}"])
    folder, matrix = result(here)
    assert not any(metric.startswith("image") for metric in matrix["metrics"])
    assert "iou_tuned" in matrix["metrics"] and (folder / "report.html").exists()


def test_interrupted_three_times_it_ends_with_the_same_numbers(place, here, monkeypatch):
    cross_eval(place)
    expected = numbers(here)
    shutil.rmtree(here / "outputs/cross_eval")
    shutil.rmtree(here / "features")
    write = cells.write_cell
    for after in (0, 2, 3):
        left = iter(range(after))

        def interrupted(*args, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            write(*args)

        monkeypatch.setattr(cells, "write_cell", interrupted)
        with pytest.raises(SystemExit) as exit_:
            cross_eval(place)
        assert exit_.value.code == 130
    monkeypatch.setattr(cells, "write_cell", write)
    cross_eval(place)
    assert numbers(here) == expected


@pytest.mark.slow  # the command in processes, twice
def test_missing_models_are_trained_also_after_the_command_was_killed(place, here):
    """The real command, killed with its training; what it left is no hindrance to the next one."""
    name = "tiny-clip-layer1-linear-lama"
    shutil.rmtree(here / "outputs/train" / name)
    arguments = ["cross-eval", f"--data={place}/dolos", f"--config={place}/tiny.yaml"]
    run = subprocess.Popen([sys.executable, "-m", "declip_pl", *arguments])
    wait_until((here / "outputs/train" / name / "config.yaml").exists, run)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(run.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert len(children) == 1
    training = Path(f"/proc/{children[0]}")
    wait_until(lambda: not training.exists())  # it does not outlive the command that started it
    cli.main(arguments)
    theirs = json.loads((place / "outputs/train" / name / "test_metrics.json").read_text())
    value = result(here)[1]["matrix"]["iou"]["lama"]["lama"]["value"]
    assert value == pytest.approx(theirs["scores"]["lama"]["iou"], abs=1e-3)


def test_a_failed_training_is_named_and_the_rest_scored(place, here, error_of, monkeypatch):
    commands, start = [], subprocess.Popen

    def failing(command, **options):
        if "train" in command:
            commands.append(command)
            command = [sys.executable, "-c", "raise SystemExit(1)"]
        return start(command, **options)

    monkeypatch.setattr(subprocess, "Popen", failing)
    shutil.rmtree(here / "outputs/train/tiny-clip-layer1-linear-lama")
    message = error_of("cross-eval", f"--data={place}/dolos", f"--config={place}/tiny.yaml")
    assert "training tiny-clip-layer1-linear-lama: exit status 1" in message
    assert list(result(here)[1]["matrix"]["iou"]) == ["ldm"]
    assert len(commands) == 1 and "--generator=lama" in commands[0]
    assert "--resume" in commands[0] and "--seed=0" in commands[0]


def test_a_run_trained_on_other_data_is_not_taken(place, here, error_of):
    make_tree(here / "dolos", counts={"train": 3, "valid": 2, "test": 2})
    message = error_of("cross-eval", f"--data={here}/dolos", f"--config={place}/tiny.yaml")
    assert "was trained on other data than" in message and "declip-pl evaluate " in message
    assert not (here / "outputs/cross_eval").exists()


def test_models_of_before_that_were_trained_elsewhere_have_no_threshold(place, here, tmp_path):
    make_tree(tmp_path / "other", ("telea",))
    run = without_thresholds(here / "outputs/train/tiny-clip-layer1-linear-ldm")
    cli.main(["evaluate", str(run), f"--data={tmp_path}/other"])
    _, matrix = result(here)
    assert matrix["in_domain"] == {"ldm": []} and matrix["columns"] == ["telea"]
    assert "iou_tuned" not in matrix["metrics"] and "in_domain" not in matrix["summary"]["iou"]
    assert matrix["models"][0]["thresholds"] == {"pixel": None, "image": None}


def test_seeds_and_leave_one_out(place, here):
    folder = here / "outputs/train"
    for choice, seed in (("lama", 1), ("ldm", 1), ("lama+ldm", 0)):
        arguments = ["fit", f"--config={place}/tiny.yaml", f"--data.root={place}/dolos",
                     f"--data.generator={choice}", f"--seed_everything={seed}"]  # fmt: skip
        cli.main([*arguments, f"--run.root={folder}"])
    cross_eval(place, *sorted(folder.iterdir()))
    _, matrix = result(here)
    assert matrix["rows"] == ["all", "lama", "ldm"] and matrix["seeds"] == [0, 1]
    by_seed = []
    for seed in ("", "-seed1"):
        run = folder / f"tiny-clip-layer1-linear-ldm{seed}"
        by_seed.append(json.loads((run / "test_metrics.json").read_text())["scores"]["ldm"]["iou"])
    assert matrix["matrix"]["iou"]["ldm"]["ldm"]["value"] == pytest.approx(
        np.mean(by_seed), abs=1e-3
    )
    # The row of several generators has no part in the means of single ones.
    cellwise = matrix["matrix"]["iou"]
    assert matrix["summary"]["iou"]["in_domain"]["value"] == pytest.approx(
        (cellwise["lama"]["lama"]["value"] + cellwise["ldm"]["ldm"]["value"]) / 2
    )
    assert matrix["summary"]["iou"]["worst_out_of_domain"]["value"] == pytest.approx(
        min(cellwise["lama"]["ldm"]["value"], cellwise["ldm"]["lama"]["value"])
    )


def test_thresholds_are_chosen_on_validation_photos(place, here):
    for run in (here / "outputs/train").iterdir():
        without_thresholds(run)
    cross_eval(place)
    _, matrix = result(here)
    before = {m["name"]: m["thresholds"] for m in matrix["models"]}
    shutil.copytree(place / "dolos", here / "dolos")
    for generator in GENERATORS:  # other test photos and masks
        for part in ("images", "masks"):
            for file in (here / "dolos/fake" / generator / part / "test").iterdir():
                shutil.copy(here / "dolos/fake" / generator / part / "train" / file.name, file)
    runs = sorted((here / "outputs/train").iterdir())
    cli.main(["evaluate", *map(str, runs), f"--data={here}/dolos"])
    _, changed = result(here)
    assert {m["name"]: m["thresholds"] for m in changed["models"]} == before
    assert changed["matrix"]["iou_tuned"] != matrix["matrix"]["iou_tuned"]


def test_a_second_process_in_the_same_folder_is_refused(place, here, error_of):
    folder = here / "outputs/cross_eval/x"
    folder.mkdir(parents=True)
    script = (
        f"from filelock import FileLock; lock = FileLock('{folder}/.lock'); lock.acquire(); input()"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        wait_until((folder / ".lock").exists, other)
        runs = sorted((here / "outputs/train").iterdir())
        message = error_of("evaluate", *map(str, runs), f"--data={place}/dolos", "--name=x")
    finally:
        other.communicate(b"\n")
    assert "another process is cross-evaluating into" in message


def test_models_of_several_kinds_are_told_apart(place, here):
    arguments = ["fit", f"--config={place}/tiny.yaml", f"--data.root={place}/dolos",
                 "--data.generator=ldm", "--model.supervision=weak"]  # fmt: skip
    cli.main([*arguments, "--run.root=outputs/train"])
    cross_eval(place, *sorted((here / "outputs/train").iterdir()))
    folder, matrix = result(here)
    assert folder.name.startswith("dolos-3-models-")
    assert "ldm (tiny-clip layer1 linear weak)" in matrix["rows"] and len(matrix["rows"]) == 3


@pytest.mark.parametrize(
    ("trained_on", "expected"),
    [
        (["ldm"], "ldm"),
        (["lama", "telea"], "all-but-ldm"),
        (["lama", "ldm", "telea"], "all"),
        (["lama", "elsewhere"], "lama+elsewhere"),
    ],
)
def test_names_of_rows(trained_on, expected):
    assert row_name(trained_on, ["lama", "ldm", "telea"]) == expected


def test_a_recipe_finds_the_run_that_train_makes(place):
    recipe = Recipe(place / "dolos", place / "tiny.yaml", Options())
    assert recipe.run("ldm", 0).name == "tiny-clip-layer1-linear-ldm"
    changed = Options(decoder="conv-4", supervision="weak")
    weak = Recipe(place / "dolos", place / "tiny.yaml", changed)
    assert weak.run("all-but-ldm", 2).name == "tiny-clip-layer1-conv-4-all-but-ldm-weak-seed2"


def test_two_models_of_one_name_are_an_error(place, here):
    run = here / "outputs/train/tiny-clip-layer1-linear-ldm"
    shutil.copytree(run, here / run.name)
    with pytest.raises(UserError, match="two models are called"):
        read_models([run, here / run.name], GENERATORS)


@pytest.mark.parametrize("wrong", ["nowhere", "empty"])
def test_what_is_no_model_is_named(here, place, error_of, wrong):
    (here / "empty").mkdir()
    assert f"there is no localizer at {wrong}" in error_of(
        "evaluate", wrong, f"--data={place}/dolos"
    )


def test_cell_holds_every_photos_scores(place, here):
    cross_eval(place)
    folder, _ = result(here)
    cell = read_cell(cell_path(folder, "tiny-clip-layer1-linear-ldm", "lama"))
    assert cell.photos == ["0", "1", "2", "3"] and cell.test == "lama"
    assert set(cell.image_scores) == {"mean", "mean-logit", "max", "top"}
    assert all(len(values) == 4 for values in cell.scores.values())
    count, _, fake = cell.histogram.sum(2).T.tolist()
    assert (count, fake) == ([96 * 96] * 4, [40 * 40] * 4)
    middle = cell.curve.thresholds.index(0.5)
    assert cell.curve.iou[middle] == pytest.approx(cell.scores["iou"].mean(), abs=1e-3)
    real = read_cell(cell_path(folder, "tiny-clip-layer1-linear-ldm", "real"))
    assert real.histogram[:, 2].sum() == 0
    assert set(real.scores) == {entry.name for entry in untouched_metrics(decided=True)}
    assert all(len(values) == len(real.photos) for values in real.scores.values())


def test_a_models_file_can_name_no_folder(place, here, error_of):
    """Names of generators in a checkpoint become names of rows, pictures and W&B's files."""
    run = sorted((here / "outputs/train").iterdir())[0]
    path = run / "checkpoints/best.ckpt"
    content = torch.load(path, weights_only=True)
    content["declip_pl"]["trained_on"]["generators"] = ["../../../x"]
    torch.save(content, path)
    message = error_of("evaluate", str(run), f"--data={place}/dolos")
    assert "'../../../x' can't be a generator's name" in message
    assert not (here / "outputs/cross_eval").exists()
