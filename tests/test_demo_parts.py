"""What the page of ``declip-pl demo`` offers, says and writes, without a server."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_clip
from localizer_example import checkpoint_of, save_localizer, write_run
from PIL import Image
from scipy import ndimage

from declip_pl.data.file_kinds import Picture
from declip_pl.errors import UserError
from declip_pl.inference import demo_choices, demo_html, demo_text
from declip_pl.inference.about import About
from declip_pl.inference.demo_choices import Choice
from declip_pl.inference.demo_files import write_files
from declip_pl.inference.demo_look import Look, Photo
from declip_pl.inference.evidence import NO_PROOF, Evidence
from declip_pl.inference.localization import Localization, localization
from declip_pl.inference.localizer import Localizer, Region
from declip_pl.inference.photo_report import report_html
from declip_pl.inference.recorded_scores import recorded_scores
from declip_pl.model.checkpoint import BEST, read_checkpoint
from declip_pl.model.description import ForgedPhotos, TrainedOn
from declip_pl.training.run_folder import RESULTS
from declip_pl.training.task import LocalizationTask

NAME = 'my <b>photo "{{x}}".jpg'


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a saved localizer and two runs, beside what is no model."""
    folder = tmp_path_factory.mktemp("outputs")
    clip = make_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")
    task = LocalizationTask(str(clip), "layer1", "linear", image_size=64)
    save_localizer(folder / "first", clip, 0, "ldm", "mini is a stand-in", floor=0)
    for name in ("a run", "done"):
        write_run(checkpoint_of(task), folder / name / BEST)
    (folder / "done" / RESULTS).write_text("{}")
    (folder / "empty").mkdir()
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture
def look():
    """A look at a photo, 6 rows of 8 pixels, of which a corner was found; one was changed."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    heat = np.zeros((6, 8), np.float32)
    heat[:3, :4] = 0.9
    evidence = Evidence(0.4, 10, 2, "test photos of <mini>")
    found = localization(photo, heat, 0.75, 0.5, "expected-iou", evidence)
    about = About("first", "ldm of <mini>", "not on record", "a <stand-in>")
    picture = Photo(NAME, "ab" * 32, Picture(photo, 90.0), heat > 0.95)
    return Look(picture, found, about, "cd" * 32, False)


def test_models_are_runs_and_saved_folders_and_unfinished_runs_come_last(models):
    """A run whose test has not been is in training, or broke off."""
    found = demo_choices.find_models(str(models))
    assert list(found) == ["done", "first", "a run"]
    assert found == {
        "done": Choice(models / "done"),
        "first": Choice(models / "first"),
        "a run": Choice(models / "a run", finished=False),
    }
    one = demo_choices.find_models(str(models / "first"))
    assert one == {"first": Choice(models / "first")}
    best = models / "a run" / BEST
    for named in (best, best.parents[1]):
        assert demo_choices.find_models(str(named)) == {"a run": Choice(best, finished=False)}


def test_without_a_model_it_says_how_to_get_one(tmp_path, error_of):
    for folder in (tmp_path, tmp_path / "nowhere"):
        message = error_of("demo", "--model", str(folder))
        assert f"no trained localizer in {folder}" in message
        assert "make train" in message and "declip-pl import" in message


def test_samples_are_test_photos_where_there_are_any(tree, tmp_path, monkeypatch):
    found = demo_choices.find_samples(str(tree))
    assert [sample.generator for sample in found] == ["lama", "lama", "ldm", "ldm", "real", "real"]
    assert {sample.image.parent.name for sample in found} == {"test"}
    assert [sample.name for sample in found[:4]] == ["0", "1", "2", "3"]  # then there are no others
    assert [sample.mask is not None for sample in found] == [True] * 4 + [False] * 2
    assert {sample.mask_rule for sample in found} == {"black"}
    with pytest.raises(UserError, match="no folder"):
        demo_choices.find_samples(str(tmp_path / "nowhere"))
    monkeypatch.setenv("DECLIP_DATA", str(tmp_path / "nowhere"))
    assert demo_choices.find_samples(None) == []


def test_another_threshold_gives_what_the_heat_map_holds():
    heat = ndimage.gaussian_filter(np.random.default_rng(0).random((40, 60)), 2)
    heat = ((heat - heat.min()) / np.ptp(heat)).astype(np.float32)
    photo = np.zeros((40, 60, 3), np.uint8)
    found = Localization(photo, heat, heat > 0.5, 0.5, 0.5, []).at_threshold(0.6)
    labels, count = ndimage.label(heat > 0.6, np.ones((3, 3)))
    areas = sorted(np.bincount(labels.ravel())[1:], reverse=True)
    assert count > 2 and [region.area for region in found.regions] == areas
    assert (found.threshold, found.decision) == (0.6, "fixed")
    assert np.array_equal(found.mask, heat > 0.6)


def test_a_photo_below_the_floor_says_that_nothing_is_marked():
    heat = np.full((4, 6), 0.25, np.float32)
    found = Localization(
        np.zeros((4, 6, 3), np.uint8), heat, heat > 1, 0.2, 1.0, [], "expected-iou"
    )
    assert demo_text.UNMARKED in demo_html.score_html("photo", found)
    assert demo_text.UNMARKED not in demo_html.score_html("photo", found.at_threshold(1))


def test_only_the_largest_regions_are_listed():
    regions = [Region((i, 2, i + 3, 7), 100 - i, 0.75) for i in range(demo_text.SHOWN_REGIONS + 3)]
    text = demo_html.regions_html(regions, 1000)
    assert text.count("<tr>") == 1 + demo_text.SHOWN_REGIONS and "and 3 smaller ones" in text
    assert "<td>1, 2</td><td>3 x 5</td><td>9.9%</td><td>0.75</td>" in text
    assert "smaller" not in demo_html.regions_html(regions[:1], 1000)


def test_what_is_known_of_a_model_is_said(models):
    checkpoint = read_checkpoint(models / "first")
    text = demo_text.model_text(checkpoint, recorded_scores(checkpoint))
    assert "**ldm**" in text and "over **0.43**" in text and demo_text.STAND_IN in text
    text = demo_text.model_text(replace(checkpoint, trained_on=None), None)
    assert "**not known**" in text and demo_text.STAND_IN not in text
    made = ForgedPhotos("ab" * 32, {"<i>": 12}, 4, ("own", "everywhere:blur"))
    alone = TrainedOn(("forgeries",), "full", "f" * 64, "none", "", made, 7)
    text = demo_text.model_text(replace(checkpoint, trained_on=alone), None)
    assert "Trained on **forgeries** alone, of 12 photos, which no generator made. Enc" in text
    both = replace(alone, generators=("ldm",))
    text = demo_text.model_text(replace(checkpoint, trained_on=both), None)
    assert "**ldm**. And on **forgeries** of 12 photos" in text


def test_steps_find_the_same_and_say_how_far_they_are(models):
    localizer = Localizer.from_pretrained(models / "first", "cpu")
    photo = np.random.default_rng(0).integers(0, 255, (300, 1100, 3), dtype=np.uint8)
    for tiles, expected in ((False, []), (True, [(8, 12), (12, 12)])):
        steps, said = localizer.steps(photo, tiles=tiles), []
        while True:
            try:
                said.append(next(steps))
            except StopIteration as end:
                found = end.value
                break
        assert said == expected
        assert found == localizer(photo, tiles=tiles)
    with pytest.raises(UserError, match="threshold 2 is not between"):
        next(localizer.steps(photo, threshold=2))


def test_the_report_says_everything_and_needs_nothing(look):
    text = report_html(look)
    assert not [word for word in ("<script", "http", "url(", "@import", "<link") if word in text]
    assert "my &lt;b&gt;photo &#34;{{x}}&#34;.jpg" in text and "<b>photo" not in text
    for said in ("0.75", NO_PROOF, demo_text.LIMITS, "a &lt;stand-in&gt;", "ldm of &lt;mini&gt;"):
        assert said in text
    assert "Of 10 untouched test photos of &lt;mini&gt;, 2 scored higher." in text
    assert "25.0% of the photo (8 x 6 px) is above the threshold." in text
    assert "ab" * 32 in text and "cd" * 32 in text
    assert "<td>0, 0</td><td>4 x 3</td><td>25.0%</td><td>0.90</td>" in text
    assert text.count('<img src="data:image/jpeg;base64,') == 5
    unknown = replace(look, photo=replace(look.photo, truth=None))
    assert report_html(unknown).count("<img ") == 4
    assert demo_text.NOTHING_MARKED not in text


@pytest.mark.slow
def test_the_report_looks_the_same_without_a_script(chromium, look, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(report_html(look))
    for width, scheme in ((1280, "light"), (400, "dark")):
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=False,
            offline=True,
        )
        tab = context.new_page()
        asked = []
        tab.on("request", lambda request, asked=asked: asked.append(request.url))
        tab.goto(file.as_uri())
        assert tab.get_by_role("img").count() == 5
        box = tab.locator("main").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        context.close()


def test_files_are_of_the_photos_own_size(look, tmp_path):
    files = write_files(look, str(tmp_path))
    endings = ("report.html", "heatmap.png", "mask.png", "overlay.png", "localization.json")
    assert [file.rpartition("-")[2] for file in files] == list(endings)
    assert [Image.open(file).size for file in files[1:4]] == [(8, 6)] * 3
    assert np.array_equal(np.asarray(Image.open(files[2])) > 0, look.found.mask)
    said = json.loads(Path(files[4]).read_text())
    assert said.items() >= {"name": NAME, "score": 0.75, "model": "first", "tiles": False}.items()
    assert said["regions"] == [{"box": [0, 0, 4, 3], "area": 12, "probability": pytest.approx(0.9)}]


def test_half_the_files_are_none(look, tmp_path, monkeypatch):
    def full(file, pixels):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("declip_pl.inference.demo_files.write_png", full)
    with pytest.raises(UserError, match=r"can't be written \(No space left on device\)"):
        write_files(look, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_names_are_shown_as_they_are(look):
    for text in (demo_html.stage_html(look), demo_html.heat_html(look)):
        assert "<b>" not in text and "my &lt;b&gt;photo &quot;{{x}}&quot;.jpg" in text
    text = demo_html.errors_html(["a <b> is no photo"])
    assert "a &lt;b&gt; is no photo" in text and 'role="alert"' in text
