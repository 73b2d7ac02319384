"""`declip-pl robustness`: degradations from files, one encoder pass each, and what is kept."""

import csv
import io

import numpy as np
import pytest
from conftest import GENERATORS, make_clip, make_tree
from PIL import Image

from declip_pl import cli
from declip_pl.cross_eval.matrix import Made, Score, read_matrix
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.images import read_photo
from declip_pl.data.index import DataIndex
from declip_pl.data.transforms import build_transform, follow, make_changes
from declip_pl.errors import UserError
from declip_pl.model.features import Preprocessing
from declip_pl.model.transformers_encoder import TransformersEncoder
from declip_pl.robustness.degradations import read_degradations
from declip_pl.robustness.picture import robustness_png
from declip_pl.robustness.robustness import EVERY, Line, Robustness, read_robustness
from declip_pl.robustness.table import robustness_text
from declip_pl.training.recipe_file import experiments

PHOTO = np.kron(np.random.default_rng(0).integers(0, 256, (12, 16, 3)), np.ones((4, 4, 1)))
PHOTO = PHOTO.astype(np.uint8)
"""A photo of 48 x 64 pixels."""


TWO = """
blurred:
  values: [3, 5]
  changes:
    - {class_path: albumentations.MedianBlur, init_args: {blur_limit: [VALUE, VALUE], p: 1.0}}
cropped:
  values: [0.5]
  changes:
    - {class_path: crop, init_args: {share: VALUE}}
"""


def degraded(spec, photo=PHOTO):
    (change,) = make_changes([spec])
    return change(image=photo)["image"]


def part(name, **init_args):
    return {"class_path": name, "init_args": init_args}


def saved(photo, kind, quality):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, kind, quality=quality)
    return np.array(Image.open(file))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_encode_is_pillows(kind):
    found = degraded(part("encode", format=kind, quality=40))
    assert np.array_equal(found, saved(PHOTO, kind, 40))
    assert not np.array_equal(found, saved(PHOTO, kind, 90))


def test_double_jpeg_has_its_second_grid_where_it_is_said():
    found = degraded(part("double-jpeg", first=90, second=50, shift=3))
    first = saved(PHOTO, "JPEG", 90)
    shifted = np.concatenate([first[:1].repeat(3, 0), first])
    shifted = np.concatenate([shifted[:, :1].repeat(3, 1), shifted], 1)
    assert np.array_equal(found, saved(shifted, "JPEG", 50)[3:, 3:])
    assert not np.array_equal(found, degraded(part("double-jpeg", first=90, second=50, shift=0)))


def test_rescale_and_back():
    assert degraded(part("rescale", factor=0.5)).shape == (24, 32, 3)
    assert degraded(part("rescale", factor=2)).shape == (96, 128, 3)
    back = degraded(part("rescale", factor=0.5, back=True))
    assert back.shape == PHOTO.shape and not np.array_equal(back, PHOTO)
    assert degraded(part("rescale", factor=0.001)).shape == (1, 1, 3)


def test_crop_keeps_the_middle_and_the_mask_follows():
    transform = build_transform(Preprocessing(), perturbation=[part("crop", share=0.5)])
    mask = np.zeros((48, 64), bool)
    mask[12:36, 16:48] = True
    assert np.array_equal(follow(transform, PHOTO), PHOTO[12:36, 16:48])
    assert follow(transform, mask).shape == (24, 32) and follow(transform, mask).all()
    whole = build_transform(Preprocessing(), perturbation=[part("crop", share=1)])
    assert np.array_equal(follow(whole, mask), mask)


@pytest.mark.parametrize(
    "spec",
    [
        part("crop", share=0), part("crop", share=1.5), part("rescale", factor=0),
        part("double-jpeg", first=90, second=50, shift=8), part("rescale"),
    ],
)  # fmt: skip
def test_impossible_strengths_are_refused(spec):
    with pytest.raises(UserError):
        make_changes([spec])


def test_photos_and_masks_of_a_set_are_cut_alike(tmp_path):
    tree = make_tree(tmp_path / "dolos")
    data = LocalizationDataModule(str(tree), "ldm", perturbation=[part("crop", share=0.5)])
    photos = data.evaluation_set("x", "test", "ldm")
    plain = LocalizationDataModule(str(tree), "ldm").evaluation_set("x", "test", "ldm")
    height, width = plain[0]["mask"].shape
    inner = (
        slice(height // 4, height // 4 + height // 2),
        slice(width // 4, width // 4 + width // 2),
    )
    assert np.array_equal(photos[0]["mask"], plain[0]["mask"][inner])
    raw = read_photo(photos.samples[0].image)
    assert np.array_equal(photos.shown(photos[0]["path"]), raw[inner])
    assert np.array_equal(photos.photo(photos[0]["path"]), raw)


def write(path, text):
    path.write_text(text)
    return path


def test_value_stands_wherever_it_is_written(tmp_path):
    found = read_degradations(write(tmp_path / "d.yaml", TWO))[0]
    assert found.name == "blurred" and found.values == (3, 5)
    assert found.changes(5) == [part("albumentations.MedianBlur", blur_limit=[5, 5], p=1.0)]
    assert "VALUE" in str(found.template)  # it was not changed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "one degradation"),
        ("[1]", "entries"),
        ("a: 3", "a is 3"),
        ("a: {values: [1]}", "expected values and changes"),
        ("a: {values: 3, changes: [jpeg]}", "values are 3"),
        ("a: {values: [], changes: [jpeg]}", "values are []"),
        ("a: {values: [1, 1], changes: [VALUE]}", "different"),
        ("a: {values: [1, 2], changes: [jpeg]}", "VALUE"),
        ("a: {values: [nothing], changes: [VALUE]}", "nothing"),
        ("a/b: {values: [jpeg], changes: [VALUE]}", "a degradation's name"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, said):
    with pytest.raises(UserError) as error:
        read_degradations(write(tmp_path / "d.yaml", text))
    assert "d.yaml" in str(error.value) and said in str(error.value)


@pytest.mark.parametrize("found", read_degradations(), ids=lambda found: found.name)
def test_every_shipped_degradation_is_stronger_with_each_value(found):
    """By how far small photos move, which is 0 for clean ones; those of another size as well."""
    rng = np.random.default_rng(1)
    shapes = [rng.normal(0, 25, (side, side, 3)).repeat(128 // side, 0).repeat(128 // side, 1)
              for side in (4, 16, 64, 128)]  # fmt: skip
    photo = (128 + sum(shapes)).clip(0, 255).astype(np.uint8)

    def distance(value):
        result = photo
        for change in make_changes(found.changes(value)):
            change.set_random_seed(0)
            result = change(image=result)["image"]
        seen = np.array(Image.fromarray(result).resize((128, 128), Image.Resampling.BICUBIC))
        return np.abs(seen.astype(float) - photo).mean()

    distances = [distance(value) for value in found.values]
    assert len(found.values) == 5 and min(distances) > 0
    assert max(distances) > 1.05 * min(distances)
    if not found.name.startswith(("resize", "screenshot")):
        assert distances == sorted(distances)


def test_the_shipped_file_is_the_default():
    assert read_degradations() == read_degradations(experiments() / "degradations/common.yaml")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A folder in which two tiny models were scored on degraded photos, and the encoder's count."""
    folder = tmp_path_factory.mktemp("scored")
    make_tree(folder / "dolos")
    make_clip(folder / "tiny-clip")
    (folder / "two.yaml").write_text(TWO)
    (folder / "tiny.yaml").write_text(
        f"model: {{encoder: {folder}/tiny-clip, layer: layer1, decoder: linear, image_size: 64}}\n"
        "data: {root: x, generator: x, batch_size: 4, num_workers: 0}\n"
        "trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, logger: false}"
    )
    passed = []
    forward = TransformersEncoder.forward

    def count(self, pixels):
        passed.append(len(pixels))
        return forward(self, pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DECLIP_FEATURES", str(folder / "features"))
        runs = []
        for generator in GENERATORS:
            cli.main(["fit", "--config=tiny.yaml", "--data.root=dolos",
                      f"--data.generator={generator}"])  # fmt: skip
            runs.append(f"outputs/train/tiny-clip-layer1-linear-{generator}")
        patch.setattr(TransformersEncoder, "forward", count)
        command = ["robustness", *runs, "--data=dolos", "--degradations=two.yaml", "--name=x"]
        cli.main(command)
        yield folder, command, passed


@pytest.mark.slow  # trains two models
def test_each_degraded_photo_passes_the_encoder_once(scored):
    _, _, passed = scored
    # Clean photos were encoded for testing in training; three strengths of 4 photos of each of two
    # generators and 4 real ones remain, whatever the number of models.
    assert sum(count for count in passed if count > 1) == 3 * 12


@pytest.mark.slow  # trains two models
def test_what_is_written(scored):
    folder = scored[0] / "outputs/robustness/x"
    found = read_robustness(folder)
    assert found.degradations == {"blurred": ("3", "5"), "cropped": ("0.5",)}
    assert found.rows == ("lama", "ldm") and found.failed == ()
    for where in ("blurred/3", "blurred/5", "cropped/0.5"):
        matrix = read_matrix(folder / where)
        name, value = where.split("/")
        assert found.score("iou", "out-of-domain", name, value) == (
            matrix.summary["iou"].out_of_domain.value
        )
        assert found.score("iou", "in-domain", name, value, "ldm") == (
            matrix.score("iou", "ldm", "ldm").value
        )
        assert found.score("untouched_area", "untouched photos", name, value, "ldm") == (
            matrix.of_row("untouched_area", "ldm").value
        )
        assert (folder / where / "report.html").is_file()
        assert not (folder / where / "features").exists()  # thrown away
    assert (
        found.clean("iou", "in-domain")
        == read_matrix(folder / "clean").summary["iou"].in_domain.value
    )
    with (folder / "robustness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.lines)
    assert {row["degradation"] for row in rows} == {"clean", "blurred", "cropped"}
    assert {row["train"] for row in rows} == {"lama", "ldm", EVERY}
    assert (folder / "robustness.png").stat().st_size > 5000


@pytest.mark.slow  # trains two models
def test_the_same_command_again_encodes_nothing(scored, capsys):
    _, command, passed = scored
    before = list(passed)
    cli.main(command)
    assert passed == before
    assert "strength 4 of 4" in capsys.readouterr().out


@pytest.mark.slow  # trains two models
def test_all_strengths_have_one_index(scored, monkeypatch):
    opened = []
    begin = DataIndex.__init__

    def count(self, *of, **options):
        opened.append(of)
        begin(self, *of, **options)

    monkeypatch.setattr(DataIndex, "__init__", count)
    cli.main(scored[1])
    assert len(opened) == 1


@pytest.mark.slow  # trains two models
def test_strengths_as_pieces_give_the_same(scored, capsys):
    folder, command, _ = scored
    command = [*command[:-1], "--name=pieces"]
    cli.main([*command, "--dry-run"])
    printed = capsys.readouterr().out
    assert "0 models are to be trained, 4 strengths scored" in printed
    assert "score: 4 pieces" in printed and "measured in" in printed
    for strength in ("clean", "blurred 3", "blurred 5", "cropped 0.5"):
        cli.main([*command, f"--part=score:{strength}"])
    cli.main([*command, "--dry-run"])
    assert "0 strengths scored" in capsys.readouterr().out
    cli.main([*command, "--part=report"])
    found = read_robustness(folder / "outputs/robustness/pieces")
    assert found.lines == read_robustness(folder / "outputs/robustness/x").lines
    with pytest.raises(SystemExit, match="there is no 'burned 3' to score; expected clean, blurre"):
        cli.main([*command, "--part=score:burned 3"])


@pytest.mark.slow  # trains two models
def test_a_name_that_is_not_there(scored):
    with pytest.raises(SystemExit, match="no degradation 'burned'; expected blurred; cropped"):
        cli.main([*scored[1], "--only=burned"])


@pytest.mark.slow  # trains two models
def test_models_and_options_of_training_together(scored):
    with pytest.raises(SystemExit, match="leave out all options of training"):
        cli.main([*scored[1], "--decoder=light"])


def made_up(**more):
    """Return results in which half of a score of 40 is left, then a quarter."""

    def line(degradation, value, metric, number, part="out-of-domain"):
        return Line(degradation, value, EVERY, part, metric, Score(number, None, None, 9))

    lines = (
        line("clean", "", "iou", 40.0), line("blurred", "3", "iou", 20.0),
        line("blurred", "5", "iou", 10.0),
        line("clean", "", "untouched_marked", 4.0, "untouched photos"),
        line("blurred", "3", "untouched_marked", 30.0, "untouched photos"),
        line("blurred", "5", "untouched_marked", 20.0, "untouched photos"),
    )  # fmt: skip
    made = Made("declip-pl robustness", 1.0, "Linux", "cpu", None, "2026-01-01", {})
    content = {
        "name": "x", "data": "dolos", "notice": "a stand-in", "rows": ("a",), "models": ("a",),
        "degradations": {"blurred": ("3", "5")}, "lines": lines, "failed": (), "made": made,
    }  # fmt: skip
    return Robustness(**(content | more))


def test_areas_by_hand():
    found = made_up()
    assert found.area("iou", "out-of-domain", "blurred") == 100 * (20 + 10) / 2 / 40
    assert found.curve("iou", "out-of-domain", "blurred") == [20, 10]
    assert found.area("iou", "in-domain", "blurred") is None
    longer = made_up(degradations={"blurred": ("3", "5", "7")})
    assert longer.area("iou", "out-of-domain", "blurred") is None  # one strength failed


def test_the_table_by_hand():
    lines = robustness_text(made_up()).split("\n")
    clean, blurred = (
        next(line for line in lines if line.startswith(name)) for name in ("clean  ", "blurred")
    )
    assert clean.split() == ["clean", "undefined", "40.0", "undefined", "4.0", "undefined"]
    assert blurred.split() == (
        ["blurred", "3", "to", "5", "undefined", "37.5", "%", "undefined", "30.0", "undefined"]
    )
    assert lines[-1] == "a stand-in"


def test_pictures_of_one_and_of_many(tmp_path):
    for count in (1, 4):
        names = {f"degradation {n}": ("3", "5") for n in range(count)}
        robustness_png(made_up(degradations=names), tmp_path / f"{count}.png")
    one, four = (Image.open(tmp_path / f"{count}.png").size for count in (1, 4))
    assert one[0] == four[0] and one[1] < four[1]
