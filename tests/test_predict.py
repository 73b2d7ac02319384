"""``declip-pl predict`` end to end: which photos, which files, what is left after a failure."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_photo
from image_files import PHOTO, SHORT_EXIF, file_of, turned
from localizer_example import checkpoint_of
from PIL import Image

from declip_pl import cli
from declip_pl.errors import UserError
from declip_pl.inference import predict, saved_folder
from declip_pl.inference.localizer import Localizer
from declip_pl.inference.predict import find_photos
from declip_pl.metrics import Thresholds
from declip_pl.training.task import LocalizationTask

SIZES = {"a/x.jpg": (90, 60), "a/x.png": (40, 80), "b/c/🌵 one.png": (1, 1), "b/x.jpg": (64, 64)}


def save_localizer(
    folder: Path, clip: Path, seed: int = 0, thresholds: Thresholds | None = None
) -> Path:
    task = LocalizationTask(str(clip), "layer1", "linear", 64, seed=seed)
    network = task.network
    weight, bias = network.decoder.state_dict().values()
    weight *= 20  # so that it finds something in part of a photo
    photo = torch.from_numpy(make_photo(np.random.default_rng(0), 64).copy()).permute(2, 0, 1)
    bias -= network((photo[None] / 255 - 0.45) / 0.27).median()
    task.network.decoder.load_state_dict({"fc.0.weight": weight, "fc.0.bias": bias})
    saved_folder.save(checkpoint_of(task, thresholds=thresholds), folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory, clip) -> str:
    return str(save_localizer(tmp_path_factory.mktemp("models") / "tiny", clip))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos() -> Path:
    """Photos whose names differ in the folder, in the suffix and by more than letters."""
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        save_photo(Path("photos") / name, rng, size)
    return Path("photos")


def save_photo(path: Path, rng: np.random.Generator, size=(96, 96)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_photo(rng)).resize(size).save(path)


def run(*arguments) -> int:
    """Run the command and return its exit status; a message goes to stderr, as Python does it."""
    try:
        cli.main(["predict", *map(str, arguments)])
    except SystemExit as stop:
        if isinstance(stop.code, int):
            return stop.code
        print(stop.code, file=sys.stderr)
        return 1
    return 0


def records(folder="out") -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "predictions.jsonl").open()]


def table() -> list[dict[str, str]]:
    with Path("out/predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pictures(folder="out") -> dict[str, int]:
    """Return every picture and when it was written."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in Path(folder).rglob("*.png")
    }


def cut(path: Path) -> None:
    """Take a file's last byte away."""
    path.write_bytes(path.read_bytes()[:-1])


def test_a_folder_of_photos(photos, model, capsys):
    assert run(photos, "--model", model, "--output", "out", "--threshold", 0.4) == 0
    found = records()
    assert [record["name"] for record in found] == list(SIZES)
    localizer = Localizer.from_pretrained(model)
    for record in found:
        assert record["path"] == str(Path.cwd() / "photos" / record["name"])
        expected = localizer(record["path"], threshold=0.4)
        heat, mask, overlay = (
            Image.open(Path("out") / record["files"][kind])
            for kind in ("heatmap", "mask", "overlay")
        )
        size = SIZES[record["name"]]
        assert size == heat.size == mask.size == overlay.size == (record["width"], record["height"])
        assert (heat.mode, mask.mode, overlay.mode) == ("L", "L", "RGB")
        levels = np.asarray(heat) / 255
        assert np.abs(levels - expected.heatmap).max() < 0.5 / 255 + 1e-4
        is_fake = np.asarray(mask) == 255
        assert (is_fake | (np.asarray(mask) == 0)).all()
        clear = np.abs(levels - 0.4) > 1 / 255
        assert np.array_equal(is_fake[clear], (levels > 0.4)[clear])
        assert record["area"] == is_fake.sum() and record["share"] == is_fake.mean()
        assert sum(region["area"] for region in record["regions"]) == record["area"]
        assert record["score"] == pytest.approx(expected.score, abs=1e-4)
        assert (record["pixel_threshold"], record["decision"]) == (0.4, "fixed")
        assert record["seconds"] > 0
    assert len({file for record in found for file in record["files"].values()}) == 12
    assert len(pictures()) == 12
    rows = table()
    assert [row["name"] for row in rows] == list(SIZES)
    for row, record in zip(rows, found, strict=True):
        assert float(row["score"]) == record["score"] and int(row["area"]) == record["area"]
        assert int(row["regions"]) == len(record["regions"]) and row["error"] == ""
        assert row["mask"] == record["files"]["mask"]
    printed = capsys.readouterr().out
    regions = sum(bool(record["regions"]) for record in found)
    assert f"4 photos: a region found in {regions}, none in {4 - regions}, 0 failed" in printed
    assert "out/predictions.csv" in printed and "masks:    every photo cut at 0.4\n" in printed


class TestDecision:
    """Of a model with a floor, below which two of the four photos stay."""

    @pytest.fixture
    def peaks(self, photos, model) -> list[float]:
        found = [Localizer.from_pretrained(model)(photos / name) for name in SIZES]
        return sorted(float(np.sort(f.heatmap, axis=None)[-1 - f.mask.size // 50]) for f in found)

    @pytest.fixture
    def decided(self, clip, peaks, tmp_path) -> Path:
        thresholds = Thresholds(None, {}, floor=(peaks[1] + peaks[2]) / 2)
        return save_localizer(tmp_path / "models/decided", clip, thresholds=thresholds)

    def test_each_photo_is_cut_at_its_own_threshold_or_not_marked(self, photos, decided, capsys):
        assert run(photos, "--model", decided, "--output", "out") == 0
        localizer = Localizer.from_pretrained(decided)
        for record, row in zip(records(), table(), strict=True):
            expected = localizer(record["path"])
            assert record["pixel_threshold"] == pytest.approx(expected.threshold, abs=1e-4)
            assert record["decision"] == row["decision"] == "expected-iou"
            assert float(row["pixel_threshold"]) == record["pixel_threshold"]
            mask = np.asarray(Image.open(f"out/{record['files']['mask']}")) == 255
            assert (mask == expected.mask).mean() > 0.99 and mask.sum() == record["area"]
            assert expected.below_floor == (record["pixel_threshold"] == 1) == (record["area"] == 0)
        assert [record["pixel_threshold"] for record in records()].count(1) == 2
        printed = capsys.readouterr().out
        assert "4 photos: a region found in 2, none in 2, 0 failed" in printed
        floor = f"{localizer.floor:g}"
        assert f"cut where its expected IoU is highest, none where its peak is below {floor}\n" in (
            printed
        )

    def test_json_says_the_same(self, photos, decided, capsys):
        assert run(photos / "a/x.jpg", "--model", decided, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        expected = Localizer.from_pretrained(decided)(photos / "a/x.jpg")
        assert (found["pixel_threshold"], found["decision"]) == (expected.threshold, "expected-iou")
        run(photos / "a/x.jpg", "--model", decided, "--json", "--threshold=0.3")
        found = json.loads(capsys.readouterr().out)
        assert (found["pixel_threshold"], found["decision"]) == (0.3, "fixed")

    def test_it_goes_on_by_the_same_decision_alone(self, photos, decided, clip, error_of):
        arguments = ["predict", str(photos), "--output=out", "--resume", f"--model={decided}"]
        cli.main(arguments)
        save_photo(photos / "new.png", np.random.default_rng(6))
        cli.main(arguments)
        assert len(records()) == 5
        message = error_of(*arguments, "--threshold=0.5")
        assert "made with " in message and "decision expected-iou, floor 0." in message
        assert "pixel_threshold 0.5" in message
        other = save_localizer(
            decided.parent / "other", clip, thresholds=Thresholds(None, {}, floor=0.0)
        )
        assert "floor 0.0: name another" in error_of(*arguments[:-1], f"--model={other}")
        settings = json.loads(Path("out/settings.json").read_text())
        assert settings["floor"] == Localizer.from_pretrained(decided).floor
        assert "pixel_threshold" not in settings


def test_overlays_show_the_photo_in_its_colours(model):
    Image.new("RGB", (64, 64), (200, 0, 0)).save("red.png")
    run("red.png", "--model", model, "--output", "out", "--threshold", 1)
    red, _, blue = np.asarray(Image.open("out/overlays/red.png.png"), int).transpose(2, 0, 1)
    heat = np.asarray(Image.open("out/heatmaps/red.png.png"))
    assert (red >= 120).all() and (red - blue)[heat < 64].min(initial=255) > 60


def test_damaged_files_are_reported_and_do_not_stop_the_rest(photos, model, capsys):
    (photos / "a/text.jpg").write_text("no photo")
    content = (photos / "b/x.jpg").read_bytes()
    (photos / "a/half.jpg").write_bytes(content[: len(content) // 2])
    (photos / "a/drawing.svg").write_text("<svg/>")
    (photos / "a/gone.jpg").symlink_to(photos / "nowhere.jpg")
    bad = {"a/text.jpg", "a/half.jpg", "a/gone.jpg"}
    # Each of the formats, cut where its pixels are.
    for format_ in ("PNG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", "PPM"):
        whole = file_of(PHOTO, format_)
        (photos / f"cut.{format_.lower()}").write_bytes(whole[: len(whole) // 2])
        bad.add(f"cut.{format_.lower()}")
    # An optional block is damaged, the pixels are whole.
    (photos / "short.png").write_bytes(file_of(PHOTO, "PNG", exif=SHORT_EXIF))
    checksum = bytearray(turned("PNG", 6, PHOTO))
    checksum[checksum.index(b"eXIf") + 10] ^= 1
    (photos / "sum.png").write_bytes(checksum)
    Image.new("CMYK", (30, 20), (10, 20, 30, 40)).save(photos / "cmyk.jpg")
    assert run(photos, "--model", model, "--output", "out") == 1
    by_name = {record["name"]: record for record in records()}
    assert set(by_name) == {*SIZES, *bad, "cmyk.jpg", "short.png", "sum.png"}
    failed = {name for name, record in by_name.items() if "error" in record}
    assert failed == bad
    assert all(Path(name).name in by_name[name]["error"] for name in bad)
    assert by_name["cmyk.jpg"]["width"] == 30 and len(pictures()) == 21
    assert by_name["sum.png"]["width"] == by_name["short.png"]["width"] == 24
    said = capsys.readouterr()
    assert "10 of 17 photos failed" in said.err and "a/half.jpg: " in said.err
    assert "left out what is no photo by its name: 1 .svg (a/drawing.svg)" in said.out
    assert "Traceback" not in said.err
    assert {row["name"] for row in table() if row["error"]} == failed


def test_a_named_file_is_looked_at_whatever_its_suffix(model, capsys):
    Path("drawing.svg").write_text("<svg/>")
    assert run("drawing.svg", "--model", model, "--output", "out") == 1
    assert "drawing.svg" in records()[0]["error"]
    said = capsys.readouterr()
    assert said.err.strip().endswith(f"error: {records()[0]['error']}")
    assert "masks:" not in said.out and "pictures:" not in said.out  # there are none


def test_batches_of_mixed_sizes_change_nothing(photos, model, monkeypatch):
    run(photos, "--model", model, "--output", "out")
    monkeypatch.setattr(predict, "BATCH_PIXELS", 1)
    run(photos, "--model", model, "--output", "one-by-one")
    for one, other in zip(records(), records("one-by-one"), strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert one["files"] == other["files"]


class TestWhichPhotos:
    def names(self, *paths, **options):
        return list(find_photos([str(path) for path in paths], **options))

    def test_names_begin_below_what_all_paths_share(self, photos):
        assert self.names(photos) == list(SIZES)
        assert self.names("photos/a", "photos/b/c") == ["a/x.jpg", "a/x.png", "b/c/🌵 one.png"]
        assert self.names("photos/b/c") == ["🌵 one.png"]
        assert self.names("photos/b/x.jpg") == ["x.jpg"]
        assert self.names("photos/b/x.jpg", "photos/a") == ["b/x.jpg", "a/x.jpg", "a/x.png"]

    def test_the_same_photo_twice_is_one(self, photos):
        several = (photos, "photos/a/x.jpg", Path("photos/b/../a/x.jpg").absolute(), photos)
        assert self.names(*several) == list(SIZES)

    def test_globs_are_expanded(self, photos):
        assert self.names("photos/*/x.jpg") == ["a/x.jpg", "b/x.jpg"]
        assert self.names("photos/**/*.png") == ["a/x.png", "b/c/🌵 one.png"]
        assert self.names(Path.cwd() / "photos/[b]") == ["c/🌵 one.png", "x.jpg"]

    def test_a_name_that_looks_like_a_glob(self, photos):
        shutil.copy(photos / "a/x.png", photos / "x[1].png")
        assert self.names("photos/x[1].png") == ["x[1].png"]

    def test_a_list_on_standard_input(self, photos, monkeypatch):
        lines = os.fsencode("photos/b/x.jpg\n\nphotos/b/c/🌵 one.png\r\nphotos/a\n")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
        assert self.names("-") == ["b/x.jpg", "b/c/🌵 one.png", "a/x.jpg", "a/x.png"]

    def test_hidden_files_and_the_output_are_not_searched(self, photos):
        for name in (".cache/x.jpg", "a/._x.jpg", "out/masks/x.png"):
            save_photo(photos / name, np.random.default_rng(0))
        assert self.names(photos, leave_out=photos / "out") == list(SIZES)


class TestResume:
    @pytest.fixture(autouse=True)
    def done(self, photos, model):
        self.arguments = (photos, "--model", model, "--output", "out")
        assert run(*self.arguments) == 0

    def test_what_is_done_is_left_alone(self):
        before, lines = pictures(), records()
        assert run(*self.arguments, "--resume") == 0
        assert pictures() == before and records() == lines

    def test_what_changed_is_done_again(self, photos):
        before, old = pictures(), {record["name"]: record for record in records()}
        save_photo(photos / "a/x.jpg", np.random.default_rng(5), (50, 50))
        save_photo(photos / "new.png", np.random.default_rng(6))
        assert run(*self.arguments, "--resume") == 0
        found = {record["name"]: record for record in records()}
        assert len(records()) == 5 and found["a/x.jpg"]["width"] == 50
        assert all(found[name] == old[name] for name in old if name != "a/x.jpg")
        again = {name for name, written in pictures().items() if before.get(name) != written}
        assert again == {
            f"{kind}s/{name}.png"
            for kind in ("heatmap", "mask", "overlay")
            for name in ("a/x.jpg", "new.png")
        }
        assert len(Path("out/predictions.csv").read_text().splitlines()) == 6

    def test_a_line_cut_off_by_a_kill(self):
        path = Path("out/predictions.jsonl")
        whole = records()
        path.write_bytes(path.read_bytes()[:-20])
        assert run(*self.arguments, "--resume") == 0
        assert [record["name"] for record in records()] == [record["name"] for record in whole]

    @pytest.mark.parametrize("damage", [Path.unlink, cut])
    def test_pictures_that_are_missing_or_cut_are_written_again(self, damage):
        picture = Path("out/masks/a/x.jpg.png")
        whole = picture.read_bytes()
        damage(picture)
        assert run(*self.arguments, "--resume") == 0
        assert picture.read_bytes() == whole and len(records()) == 4

    def test_a_failed_photo_is_tried_again(self, photos):
        (photos / "late.png").write_bytes(b"half")
        assert run(*self.arguments, "--resume") == 1
        assert run(*self.arguments, "--resume") == 1  # and its failure is not forgotten
        save_photo(photos / "late.png", np.random.default_rng(0))
        assert run(*self.arguments, "--resume") == 0
        assert "error" not in next(r for r in records() if r["name"] == "late.png")

    def test_other_photos_are_added(self, photos):
        save_photo(Path("more/y.png"), np.random.default_rng(0))
        assert run("more", *self.arguments[1:], "--resume") == 0
        assert [record["name"] for record in records()] == [*SIZES, "y.png"]

    def test_another_photo_of_the_same_name(self, photos, error_of):
        save_photo(Path("more/a/x.jpg"), np.random.default_rng(0))
        before = pictures()
        message = error_of("predict", "more", *map(str, self.arguments[1:]), "--resume")
        assert "holds the predictions of another a/x.jpg" in message
        assert pictures() == before

    def test_nothing_is_overwritten_unasked(self, error_of):
        message = error_of("predict", *map(str, self.arguments))
        assert "predictions stand in out: add --resume" in message

    def test_the_threshold_of_a_model_without_a_floor_may_be_named(self):
        before = pictures()
        assert run(*self.arguments, "--resume", "--threshold=0.5") == 0
        assert pictures() == before

    @pytest.mark.parametrize("change", [["--threshold=0.3"], ["--tiles"]])
    def test_other_settings_are_an_error(self, change, error_of):
        message = error_of("predict", *map(str, self.arguments), "--resume", *change)
        assert "the predictions in out were made with" in message and "not with" in message

    def test_another_model_is_an_error(self, clip, tmp_path, error_of):
        other = save_localizer(tmp_path / "models/tiny", clip, seed=1)
        message = error_of("predict", "photos", f"--model={other}", "--output=out", "--resume")
        assert "the predictions in out were made with" in message

    def test_the_same_model_elsewhere_is_none(self, model, tmp_path):
        shutil.copytree(model, tmp_path / "moved")
        assert run("photos", "--model", "moved", "--output", "out", "--resume") == 0

    @pytest.mark.parametrize("name", ["settings.json", "predictions.jsonl"])
    def test_a_damaged_folder_is_named(self, name, error_of):
        (Path("out") / name).write_text("{\n{}\n")
        message = error_of("predict", *map(str, self.arguments), "--resume")
        assert f"out/{name} is damaged" in message


def test_an_interruption_keeps_finished_photos(photos, model, monkeypatch, capsys):
    monkeypatch.setattr(predict, "BATCH", 2)
    localize, calls = Localizer.__call__, []

    def interrupted(self, found, **options):
        calls.append(len(found))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return localize(self, found, **options)

    monkeypatch.setattr(Localizer, "__call__", interrupted)
    arguments = (photos, "--model", model, "--output", "out")
    assert run(*arguments) == 130
    assert "the same command with --resume goes on from there" in capsys.readouterr().err
    assert len(records()) == 2 and not Path("out/predictions.csv").exists()
    assert run(*arguments, "--resume") == 0
    assert calls == [2, 2, 2] and len(records()) == 4


class TestJson:
    def test_prints_nothing_else(self, photos, model, capsys):
        assert run(photos / "a/x.jpg", "--model", model, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["name"] == "x.jpg" and (found["width"], found["height"]) == (90, 60)
        assert 0 <= found["score"] <= 1 and "files" not in found
        assert sorted(path.name for path in Path().iterdir()) == ["photos"]

    def test_is_what_a_folder_gets(self, photos, model, capsys):
        run(photos / "a/x.jpg", "--model", model, "--json")
        one = json.loads(capsys.readouterr().out)
        run(photos / "a/x.jpg", "--model", model, "--output", "out")
        (line,), made_by = records(), json.loads(Path("out/settings.json").read_text())
        assert one["model"] == made_by["model"]
        assert one.pop("model_sha256") == made_by["sha256"]
        assert line.keys() - one.keys() == {"files"}
        assert one | {"seconds": 0, "files": 0} == line | {"seconds": 0, "files": 0}

    def test_a_damaged_photo_is_an_error(self, model, error_of, capsys):
        Path("x.jpg").write_text("no photo")
        message = error_of("predict", "x.jpg", f"--model={model}", "--json")
        assert message.startswith("error: ") and "x.jpg" in message
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["photos", "--json"], "--json is for one photo, here are 4"),
            (["photos", "--json", "--output=out"], "--json writes no files"),
            (["photos", "--json", "--resume"], "--json writes no files"),
        ],
    )
    def test_does_not_go_with(self, photos, model, error_of, arguments, expected):
        assert expected in error_of("predict", *arguments, f"--model={model}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no photo to look at: name files, folders or globs"),
        (["nowhere.jpg"], "there is no file or folder nowhere.jpg"),
        (["two", "words.jpg"], "no file or folder two; with quotes: 'two words.jpg'"),
        (["empty"], "no photo in .*empty: looked for .apng, .avif, "),
        (["texts"], "no photo in .*texts: looked for .apng, .avif, "),
        (["photos/*.gif"], r"nothing matches photos/\*.gif"),
        (
            ["photos", "--threshold=50"],
            "--threshold is 50; expected a number less than or equal to 1",
        ),
        (["photos", "--model=nowhere"], "there is no localizer at nowhere"),
        (["photos", "--output=texts"], "texts holds other files: name a new or empty folder"),
        (["photos", "--output=texts/notes.txt"], "can't write to texts/notes.txt"),
    ],
)
def test_wrong_inputs(photos, model, error_of, arguments, expected):
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/notes.txt").write_text("no photo")
    Path("two words.jpg").touch()
    if not any(argument.startswith("--model") for argument in arguments):
        arguments = [*arguments, f"--model={model}"]
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(error_of("predict", *arguments))
    assert not Path("outputs").exists()


class TestDefaults:
    def test_without_a_run(self, photos, error_of):
        message = error_of("predict", "photos")
        assert "there is no finished run in outputs/train: train one (make train" in message

    def test_the_only_run_and_its_hint(self, photos, fit_arguments, capsys, error_of):
        cli.main(fit_arguments(**{"run.root": "outputs/train", "run.name": "one"}))
        assert "declip-pl predict PHOTO --model outputs/train/one" in capsys.readouterr().out
        unfinished = Path("outputs/train/unfinished/checkpoints")
        unfinished.mkdir(parents=True)
        (unfinished / "best.ckpt").touch()
        assert run("photos/a/x.jpg") == 0
        assert "model: outputs/train/one (the only finished run)" in capsys.readouterr().out
        assert len(records("outputs/predict")) == 1
        assert run("photos/a/x.jpg", "--json") == 0
        assert json.loads(capsys.readouterr().out)["name"] == "x.jpg"
        shutil.copytree("outputs/train/one", "outputs/train/two")
        message = error_of("predict", "photos", "--output=other")
        for text in ("2 finished runs", "--model outputs/train/one", "--model outputs/train/two"):
            assert text in message


def test_names_that_are_not_utf8(model):
    name = os.fsdecode(b"caf\xe9.png")
    save_photo(Path("photos/x.png"), np.random.default_rng(0))
    Path("photos/x.png").rename(f"photos/{name}")
    assert run("photos", "--model", model, "--output", "out") == 0
    assert records()[0]["name"] == name and len(pictures()) == 3
    assert b"caf\xe9.png" in Path("out/predictions.csv").read_bytes()


def test_a_name_too_long_for_its_pictures_fails_alone(photos, model):
    save_photo(photos / ("n" * 250 + ".png"), np.random.default_rng(0))
    assert run(photos, "--model", model, "--output", "out") == 1
    assert [r["name"][0] for r in records() if "error" in r] == ["n"]
    assert sum("error" not in record for record in records()) == 4


def test_find_photos_raises_for_nothing():
    with pytest.raises(UserError, match="no photo to look at"):
        find_photos([])


def test_names_of_photos_are_no_formulas(model):
    names = ["=1+1.png", "-x.png", "@x.png", "'x.png", "a\r=1.png", "x.png"]
    for name in names:
        save_photo(Path("photos") / name, np.random.default_rng(0))
    cli.main(["predict", "photos", f"--model={model}"])
    with Path("outputs/predict/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["name"].removeprefix("'") for row in rows) == sorted(names)
    assert {row["name"][0] for row in rows} == {"'", "a", "x"}
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    lines = Path("outputs/predict/predictions.jsonl").read_text().splitlines()
    for line in lines:
        json.loads(line, parse_constant=pytest.fail)
