"""What a score is held against: the cut-off, untouched test photos, the kind of the file."""

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from conftest import make_photo
from localizer_example import checkpoint_of
from PIL import Image

from declip_pl import Localization, Localizer, cli
from declip_pl.data.file_kinds import Picture, jpeg_quality, read_picture, seen_photos
from declip_pl.errors import UserError
from declip_pl.inference.about import about
from declip_pl.inference.evidence import NO_PROOF, sentences, weigh
from declip_pl.metrics import Thresholds
from declip_pl.model import description
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.model.description import Description, SeenPhotos, TrainedOn, describe
from declip_pl.panels import overlay
from declip_pl.training.scoring import Scoring
from declip_pl.training.task import LocalizationTask

SCORES = (0.1, 0.2, 0.3, 0.4, 0.9)
SEEN = SeenPhotos((256, 1024), (80, 95))
TRAINED = TrainedOn(("ldm",), "full", "", "mini", "a notice", None, None, SEEN)
TESTED = description.TestedOn("test", "mini", ("ldm",), SCORES, "a notice")
PHOTO = make_photo(np.random.default_rng(0), 300)


@pytest.fixture(scope="module")
def checkpoint(clip):
    task = LocalizationTask(str(clip), "layer1", "linear", 64)
    thresholds = Thresholds(0.5, {"top": 0.35}, 0.2)
    known = {"trained_on": TRAINED, "tested_on": TESTED, "thresholds": thresholds}
    return checkpoint_of(task, name="tiny", **known)


def jpeg(quality: int) -> Image.Image:
    file = BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", quality=quality)
    return Image.open(file)


class TestFiles:
    @pytest.mark.parametrize("quality", [20, 30, 50, 75, 95, 100])
    def test_the_quality_is_what_libjpeg_was_asked_for(self, quality):
        assert jpeg_quality(jpeg(quality)) == pytest.approx(quality, abs=1)
        assert read_picture(jpeg(quality)).quality == jpeg_quality(jpeg(quality))

    def test_what_is_no_jpeg_has_none(self, tmp_path):
        Image.fromarray(PHOTO).save(tmp_path / "x.png")
        for source in (PHOTO, str(tmp_path / "x.png"), Image.fromarray(PHOTO)):
            assert read_picture(source).quality is None

    def test_ranges_of_training_photos(self, tmp_path):
        for side, quality in ((100, 70), (150, 80), (200, 90)):
            photo = Image.fromarray(PHOTO).resize((side, 50))
            photo.save(tmp_path / f"{side}.jpg", quality=quality)
        (tmp_path / "damaged.jpg").write_bytes(b"no photo")
        found = seen_photos(sorted(tmp_path.iterdir()))
        assert found.sides == pytest.approx((101, 199)) and 69 < found.qualities[0] < 72
        assert seen_photos([]) is None
        Image.fromarray(PHOTO).save(tmp_path / "x.png")
        assert seen_photos([tmp_path / "x.png"]) == SeenPhotos((300, 300), None)


class TestWords:
    def weighed(self, checkpoint, score, pixels=PHOTO, quality=None, tiled=False):
        return weigh(checkpoint, score, Picture(pixels, quality), tiled)

    def test_a_score_beside_cut_off_and_untouched_photos(self, checkpoint):
        said = sentences(0.35, self.weighed(checkpoint, 0.35))
        assert "not above the model's cut-off of 0.35" in said[0]
        assert said[1] == "Of 5 untouched test photos of mini, 2 scored higher."
        assert said[-1] == NO_PROOF and len(said) == 4
        assert sentences(0.95, self.weighed(checkpoint, 0.95))[0].startswith("Score 0.95, above")

    def test_numbers_that_two_decimals_do_not_tell_apart(self, checkpoint):
        said = sentences(0.3504, self.weighed(checkpoint, 0.3504))
        assert said[0].startswith("Score 0.3504, above the model's cut-off of 0.3500")

    def test_validation_photos_are_called_so(self, checkpoint):
        valid = replace(checkpoint, tested_on=replace(TESTED, split="valid"))
        said = sentences(0.5, self.weighed(valid, 0.5))[1]
        assert said.startswith("Of 5 untouched validation photos of mini, which also chose")

    def test_scores_of_tiles_are_held_against_nothing(self, checkpoint):
        found = self.weighed(checkpoint, 0.9, tiled=True)
        assert (found.image_threshold, found.photos, found.higher) == (None, None, None)
        said = " ".join(sentences(0.9, found))
        assert "highest of theirs" in said and "scored" not in said.split("No proof")[0]

    def test_what_is_not_on_record_is_said(self, checkpoint):
        bare = replace(checkpoint, trained_on=None, tested_on=None, thresholds=None)
        said = " ".join(sentences(0.9, self.weighed(bare, 0.9)))
        assert "no cut-off" in said and "is not on record" in said and said.endswith(NO_PROOF)

    @pytest.mark.parametrize(
        ("side", "quality", "expected"),
        [
            (300, None, ()),
            (300, 80, ()),
            (300, 95.4, ()),
            (200, None, ("200 px on its longer side (theirs 256 to 1024)",)),
            (1200, 85, ("1200 px on its longer side (theirs 256 to 1024)",)),
            (300, 60, ("JPEG of quality 60 (theirs 80 to 95)",)),
        ],
    )
    def test_a_photo_unlike_the_training_photos(self, checkpoint, side, quality, expected):
        pixels = np.zeros((50, side, 3), np.uint8)
        assert self.weighed(checkpoint, 0.5, pixels, quality).unlike == expected

    @pytest.mark.parametrize(
        ("quality", "expected"),
        [
            (90, "or JPEG quality sets it apart from the photos of the training; camera and"),
            (None, "size sets it apart from the photos of the training; compression (it is no J"),
        ],
    )
    def test_what_was_not_compared_is_said_of_a_photo_like_them(
        self, checkpoint, quality, expected
    ):
        found = self.weighed(checkpoint, 0.5, quality=quality)
        assert found.unlike == () and ("JPEG quality" in found.compared) is (quality is not None)
        (said,) = (line for line in sentences(0.5, found) if expected in line)
        assert said.endswith("not compared, and untouched photos of other kinds may score higher.")

    def test_nothing_is_compared_where_the_training_photos_are_not_on_record(self, checkpoint):
        unknown = replace(checkpoint, trained_on=replace(TRAINED, photos=None))
        found = self.weighed(unknown, 0.5, quality=90)
        assert found.compared == ()
        assert "Of what kind the training photos were is not on record" in sentences(0.5, found)[2]

    def test_a_jpeg_is_unlike_what_was_none(self, checkpoint):
        trained_on = replace(TRAINED, photos=SeenPhotos((256, 1024)))
        found = self.weighed(replace(checkpoint, trained_on=trained_on), 0.5, quality=90)
        assert found.unlike == ("JPEG of quality 90 (theirs were no JPEGs)",)


def test_a_description_comes_back_as_it_was(checkpoint):
    said = checkpoint.description().as_dict()
    assert describe(json.loads(json.dumps(said)), "x") == checkpoint.description()
    older = {name: value for name, value in said.items() if name != "tested_on"}
    older["trained_on"] = {k: v for k, v in said["trained_on"].items() if k != "photos"}
    found = describe(older, "x")
    assert found.tested_on is None and found.trained_on.photos is None


def test_about_says_what_a_model_is(checkpoint):
    found = about(checkpoint)
    assert found == ("tiny", "ldm of mini (masks)", "ldm of mini, 5 untouched photos", "a notice")
    alone = replace(TRAINED, generators=("forgeries",), data="none")
    said = about(replace(checkpoint, trained_on=alone, tested_on=None))
    assert said.trained_on.startswith("forgeries alone") and said.tested_on == "not on record"
    assert isinstance(checkpoint.description(), Description)


@pytest.fixture(scope="module")
def found(clip, checkpoint) -> Localization:
    task = LocalizationTask(str(clip), "layer1", "linear", 64)
    return Localizer("tiny", checkpoint, task.network)(PHOTO)


class TestLocalization:
    def test_says_in_one_line_what_was_found(self, found):
        assert repr(found).startswith("<Localization of 300 x 300 px, score 0.")
        assert len(repr(found)) < 100

    def test_is_compared_by_what_it_holds(self, found):
        same = replace(found, heatmap=found.heatmap.copy(), photo=found.photo.copy())
        assert found == same
        assert found != found.at_threshold(0.9) and found != "a photo"
        heat = found.heatmap.copy()
        heat[0, 0] = 0.123
        assert found != replace(found, heatmap=heat)

    def test_is_saved_and_not_over_another(self, found, tmp_path):
        found.save(tmp_path / "out")
        said = json.loads((tmp_path / "out/localization.json").read_text())
        assert said == json.loads(json.dumps(found.to_dict()))
        assert said["pixel_threshold"] == found.threshold and said["above"] is found.above
        shown = np.asarray(Image.open(tmp_path / "out/overlay.png"))
        assert np.array_equal(shown, np.asarray(found.overlay()))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out/mask.png")) > 0, found.mask)
        with pytest.raises(UserError, match=r"heatmap\.png exists; name another folder"):
            found.save(tmp_path / "out")

    def test_is_shown_in_a_notebook(self, found):
        shown = found._repr_html_()
        assert "data:image/png;base64," in shown and NO_PROOF in shown and "<script" not in shown

    def test_a_missing_file_is_called_so(self, clip, checkpoint):
        localizer = Localizer(
            "tiny", checkpoint, LocalizationTask(str(clip), "layer1", "linear", 64).network
        )
        with pytest.raises(UserError, match=r"there is no file nowhere\.jpg"):
            localizer("nowhere.jpg")
        assert repr(localizer).startswith("<Localizer tiny, trained on ldm of mini (masks), on cpu")
        assert repr(localizer).endswith("; a notice>")


def test_overlays_show_the_photo_where_nothing_is_found():
    heat = np.zeros((300, 300), np.float32)
    heat[:, 150:] = np.linspace(0.1, 1, 150, dtype=np.float32)
    shown = overlay(PHOTO, heat, np.zeros((300, 300), bool)).astype(int)
    change = np.abs(shown - PHOTO).sum(2).mean(0)
    assert change[:150].max() <= 1
    assert change[160] < change[220] < change[299] and change[299] > 100


def test_a_run_holds_the_scores_of_untouched_test_photos(fit_arguments, tree, tmp_path, capsys):
    cli.main(fit_arguments(**{"run.name": "run"}))
    run = tmp_path / "outputs/run"
    tested_on = read_checkpoint(run).tested_on
    assert (tested_on.split, tested_on.data, tested_on.generators) == ("test", "dolos", ("ldm",))
    localizer = Localizer.from_pretrained(run)
    reals = sorted((tree / "real/test").iterdir())
    expected = sorted(localizer(path).score for path in reals)
    assert tested_on.untouched == pytest.approx(expected, abs=1e-4) and len(expected) == 4
    results = json.loads((run / "test_metrics.json").read_text())
    assert results["checkpoint"]["sha256"] == read_checkpoint(run).sha256
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["declip_pl"]
    assert last["tested_on"]["split"] == "valid" and len(last["tested_on"]["untouched"]) == 4
    assert read_checkpoint(run).trained_on.photos == SeenPhotos((96.0, 96.0), None)
    localizer.save_pretrained(tmp_path / "saved")
    assert read_checkpoint(tmp_path / "saved").tested_on == tested_on
    card = (tmp_path / "saved/README.md").read_text()
    assert "| scores of 4 untouched test photos | half of them above 0." in card
    capsys.readouterr()
    cli.main(["predict", str(reals[0]), f"--model={run}", f"--output={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    assert "trained on: ldm of dolos (masks); tested on: ldm of dolos, 4 untouched" in printed
    assert "Of 4 untouched test photos of dolos, " in printed and NO_PROOF in printed
    (line,) = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    assert json.loads(line)["untouched_photos"] == 4
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert settings["trained_on"] == "ldm of dolos (masks)" and settings["model"] == "run"


@pytest.mark.parametrize("photos", [0, 1, 3])
def test_scores_of_any_number_of_untouched_photos_are_kept(photos):
    scoring = Scoring(["test/ldm", "test/real"], "top", torch.device("cpu"))
    masks = [torch.zeros(9, 9, dtype=torch.bool)]
    for value in range(photos):
        logits = torch.full((1, 1, 256, 256), float(-value))
        scoring.add(1, logits, {"mask": masks, "label": torch.zeros(1)})
    expected = sorted(torch.sigmoid(-torch.arange(photos).float()).tolist())
    assert scoring.untouched_scores() == pytest.approx(tuple(expected), abs=1e-6)
