"""Other methods' heat maps: made and measured by programs that know nothing of this package."""

import csv
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import make_tree
from PIL import Image
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from declip_pl import cli
from declip_pl.cross_eval.cell import cell_path, read_cell
from declip_pl.cross_eval.matrix import read_matrix
from declip_pl.data.map_files import read_map
from declip_pl.errors import UserError
from declip_pl.metrics import Counts

SETS = ("lama", "ldm", "real")
FOLDERS = {"lama": "fake/lama/images/test", "ldm": "fake/ldm/images/test", "real": "real/test"}
ROOT = Path("outputs/cross_eval")

DETECTOR = '''
"""A detector of noise and darkness."""
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

data, out = map(Path, sys.argv[1:])
for photo in sorted(data.rglob("*.png")):
    if "images/test" not in photo.as_posix() and "real/test" not in photo.as_posix():
        continue
    grey = np.asarray(Image.open(photo).convert("L"), float)
    noise = np.abs(grey - ndimage.median_filter(grey, 3)) / 16
    levels = 0.4 * noise + 0.9 * (1 - grey / 255) ** 2
    file = out / photo.relative_to(data)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * levels.clip(0, 1)).round().astype(np.uint8)).save(file)
'''
"""A whole program: numpy, SciPy, PIL. Its maps mirror the data set's folders."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photos of three sizes of mask and the maps of an independent program."""
    folder = tmp_path_factory.mktemp("maps")
    make_tree(folder / "dolos")
    (folder / "detector.py").write_text(DETECTOR)
    command = [sys.executable, "detector.py", "dolos", "noise"]
    subprocess.run(command, check=True, cwd=folder)
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch, blank_plots):
    """A folder of the test's own, with the maps under <generator>/<name>."""
    monkeypatch.chdir(tmp_path)
    for name in SETS:
        shutil.copytree(place / "noise" / FOLDERS[name], tmp_path / "noise" / name)
    return tmp_path


@pytest.fixture
def evaluate(place):
    def run(*words):
        cli.main(["evaluate", *map(str, words), f"--data={place}/dolos"])
        return read_matrix(max(ROOT.iterdir(), key=lambda path: path.stat().st_mtime_ns))

    return run


@pytest.fixture
def refusal(place, error_of):
    def run(*words):
        return error_of("evaluate", *map(str, words), f"--data={place}/dolos")

    return run


def pairs(place, name):
    """Yield each photo's map in [0, 1] and its mask, read by other means than the package's."""
    for file in sorted((place / "noise" / FOLDERS[name]).iterdir()):
        heat = np.asarray(Image.open(file), np.float64) / 255
        mask = np.zeros(heat.shape, bool)
        if name != "real":
            mask = np.asarray(Image.open(place / f"dolos/fake/{name}/masks/test" / file.name)) == 0
        yield file.stem, heat, mask


def trufor_f1(heat, mask):
    """Return F1 at the best threshold and at 0.5 as TruFor's public evaluation defines them.

    Written from the definition: fakes are what a 15 x 15 minimum filter leaves, reals what a
    11 x 11 maximum filter does not reach, nothing else counts; of the map and its inverse the
    better one.
    """
    fake = ndimage.minimum_filter(mask, 15)
    real = ~ndimage.maximum_filter(mask, 11)
    truth, heat = fake[fake | real], heat[fake | real]

    def f1(found):
        return 2 * np.sum(found & truth) / (np.sum(found) + np.sum(truth))

    cuts = [(heat > level, heat <= level) for level in np.unique(heat)]
    best = max(max(f1(above), f1(below)) for above, below in cuts)
    return best, max(f1(heat > 0.5), f1(heat <= 0.5))


def test_maps_of_another_program_get_the_figures_of_an_independent_evaluation(
    place, here, evaluate, capsys
):
    matrix = evaluate("noise", "--pooling=mean")
    assert matrix.rows == ("noise",) and matrix.columns == ("lama", "ldm")
    real_scores = [heat.mean() for _, heat, _ in pairs(place, "real")]
    for column in ("lama", "ldm"):
        found = list(pairs(place, column))
        cut = [(heat > 0.5, mask) for _, heat, mask in found]
        overlap = [(c & m).sum() / (c | m).sum() for c, m in cut]
        trufor = np.array([trufor_f1(heat, mask) for _, heat, mask in found])
        ranked = [average_precision_score(m.ravel(), h.ravel()) for _, h, m in found]
        scores = [heat.mean() for _, heat, _ in found]
        labels = [1] * len(scores) + [0] * len(real_scores)
        expected = {
            "iou": np.mean(overlap),
            "f1_plain": np.mean([2 * (c & m).sum() / (c.sum() + m.sum()) for c, m in cut]),
            "f1_trufor_best": trufor[:, 0].mean(),
            "f1_trufor_fixed": trufor[:, 1].mean(),
            "ap": np.mean(ranked),
            "image_auroc": roc_auc_score(labels, scores + real_scores),
        }
        for metric, value in expected.items():
            score = matrix.score(metric, "noise", column)
            assert score.value == pytest.approx(100 * value, abs=2e-3), metric
            assert score.low <= score.value <= score.high
            assert metric == "image_auroc" or 0 < score.value < 100  # what all maps would have
        share = np.mean([mask.mean() for _, _, mask in found])
        assert matrix.score("iou", "all fake", column).value == pytest.approx(100 * share)
    untouched = [100 * (heat > 0.5).mean() for _, heat, _ in pairs(place, "real")]
    assert matrix.score("untouched_area", "noise", "ldm").value == pytest.approx(np.mean(untouched))
    printed = capsys.readouterr().out
    for text in ("test set ldm (4 photos)", "all fake", "12 heat maps, white = fake",
                 "report: outputs/cross_eval/dolos-noise/report.html"):  # fmt: skip
        assert text in printed
    report = (ROOT / "dolos-noise/report.html").read_text()
    assert "another method: 12 heat maps" in report and "f1_trufor_best" in report
    with (ROOT / "dolos-noise/matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    baselines = {"all fake", "all real", "mean train mask"}
    assert {row["train"] for row in rows} == {"noise"} | baselines


def as_16_bits(heat, path):
    Image.fromarray((heat * 65535).round().astype(np.uint16)).save(path.with_suffix(".png"))


def as_floats(heat, path):
    np.save(path.with_suffix(".npy"), heat)


def as_tiff(heat, path):
    Image.fromarray(heat.astype(np.float32)).save(path.with_suffix(".tif"))


def as_trufor(heat, path):
    """As TruFor's program leaves its answers, but for the score."""
    name = path.with_name(f"{path.name}.npz")
    np.savez(name, map=heat.astype(np.float32), conf=heat, imgsize=heat.shape)


@pytest.mark.parametrize("write", [as_16_bits, as_floats, as_tiff, as_trufor])
def test_every_form_of_file_gives_the_same_scores(here, place, evaluate, write):
    expected = evaluate("noise", "--name=png")
    for name in SETS:
        for stem, heat, _ in pairs(place, name):
            (here / "other" / name).mkdir(parents=True, exist_ok=True)
            write(heat, here / "other" / name / f"{stem}.png")
    found = evaluate("other", "--name=other")
    for metric in expected.metrics:
        for column in expected.columns:
            one, other = (m.score(metric, m.rows[0], column) for m in (expected, found))
            assert other.value == pytest.approx(one.value, abs=1e-3), metric


def test_maps_may_mirror_the_data_set_or_be_flat_where_names_are_unique(
    place, here, evaluate, refusal
):
    expected = evaluate("noise").matrix
    shutil.copytree(place / "noise", here / "mirrored/dolos")  # a folder for each data set
    found = evaluate("mirrored").matrix
    assert found["iou"]["mirrored"] == expected["iou"]["noise"]
    shutil.copytree(place / "noise" / FOLDERS["ldm"], here / "flat")
    message = refusal("flat")
    assert "holds no localizer, and no map of any of 12 test photos" in message
    assert "such as lama/0.png, lama/1.png" in message


def test_two_maps_of_one_photo_under_different_names_are_refused(place, here, refusal):
    mirrored = here / "noise" / FOLDERS["ldm"]
    mirrored.mkdir(parents=True)
    shutil.copy(here / "noise/ldm/2.png", mirrored / "2.png")
    message = refusal("noise")
    assert "noise/ldm/2.png and noise/fake/ldm/images/test/2.png are maps of one photo" in message


def test_missing_maps_are_named_and_counted_and_left_out_only_if_asked(
    here, evaluate, refusal, capsys
):
    for name in ("1", "2"):
        (here / f"noise/ldm/{name}.png").unlink()
    shutil.rmtree(here / "noise/real")
    (here / "noise/extra.png").write_bytes(b"no map")
    message = refusal("noise")
    assert "the map of 6 of 12 test photos is missing: ldm/1, ldm/2, real/0, ..." in message
    assert "--partial" in message
    matrix = evaluate("noise", "--partial")
    assert "6 of 12 test photos have no map" in (printed := capsys.readouterr().out)
    assert "1 files are called like no test photo: extra.png" in printed
    assert matrix.score("iou", "noise", "ldm").n == 2
    assert matrix.score("iou", "noise", "lama").n == 4
    assert "image_auroc" not in matrix.metrics
    assert matrix.models[0].maps.missing == 6
    cell = read_cell(cell_path(ROOT / "dolos-noise", "noise", "ldm"))
    assert cell.photos == ["0", "3"] and {p.photo for p in cell.panels.values()} <= {"0", "3"}


def test_a_generator_without_maps_is_a_failure_and_can_be_left_out(here, evaluate, refusal):
    shutil.rmtree(here / "noise/lama")
    assert "noise on lama: no photo of it has a map" in refusal("noise", "--partial")
    matrix = evaluate("noise", "--generator=ldm")
    assert matrix.columns == ("ldm",) and matrix.name == "dolos-noise-ldm"


def test_maps_of_another_size_are_refused_and_resized_if_asked(here, evaluate, refusal):
    full = evaluate("noise").score("ap", "noise", "ldm").value
    for file in (here / "noise").rglob("*.png"):
        image = Image.open(file)
        image.resize((48, 48), Image.Resampling.BILINEAR).save(file)
    message = refusal("noise")
    assert "12 of 12 maps can't be used" in message
    assert "48 x 48 px, its photo has 96 x 96 px (--resize" in message
    matrix = evaluate("noise", "--resize")
    assert matrix.score("ap", "noise", "ldm").value == pytest.approx(full, abs=5)
    assert matrix.models[0].maps.resized


def test_inverted_maps_are_noticed_and_read_as_asked(here, evaluate, capsys):
    expected = evaluate("noise").matrix["iou"]["noise"]
    for file in (here / "noise").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    inverted = evaluate("noise")
    assert "noise on ldm: fakes rank below other pixels" in (printed := capsys.readouterr().out)
    assert "say --map_polarity black" in printed
    assert inverted.matrix["iou"]["noise"] != expected
    assert evaluate("noise", "--map_polarity=black").matrix["iou"]["noise"] == expected
    assert "rank below" not in capsys.readouterr().out


def scored(here, column):
    return read_cell(cell_path(ROOT / "dolos-noise", "noise", column)).image_scores


def test_scores_of_photos_come_from_a_table_or_from_the_maps(here, evaluate, refusal):
    lines = ["photo,score,note"]
    lines += [f"{name}/{index}.png,{0.1 * index + 0.15 * (name != 'real')},x" for name in SETS
              for index in range(4)]  # fmt: skip
    table = here / "scores.csv"
    table.write_text("\n".join(lines))
    matrix = evaluate("noise", f"--scores={table}")
    assert matrix.score("image_auroc", "noise", "ldm").value == pytest.approx(81.25)  # 13 of 16
    assert scored(here, "ldm")["max"] == pytest.approx([0.15, 0.25, 0.35, 0.45])
    assert matrix.models[0].maps.scores == "scores.csv"
    table.write_text("\n".join(lines[:-1]))
    assert "no score of 1 photos: real/3" in refusal("noise", f"--scores={table}")
    table.write_text("\n".join([*lines, lines[1]]))
    assert "line 14: lama/0.png is there twice" in refusal("noise", f"--scores={table}")
    table.write_text("\n".join([*lines[:-1], "real/3,1.5,x"]))
    assert "line 13: expected a number from 0 to 1; found 1.5" in refusal(
        "noise", f"--scores={table}"
    )
    table.write_text("name,score\na,1")
    assert "expected the columns photo and score; found name, score" in refusal(
        "noise", f"--scores={table}"
    )


def test_scores_inside_the_maps_files_are_taken(place, here, evaluate, refusal):
    for name in SETS:
        for stem, heat, _ in pairs(place, name):
            (here / "noise" / name / f"{stem}.png").unlink()
            score = {"score": np.float32(0.25 * int(stem) + 0.1)}
            np.savez(here / "noise" / name / f"{stem}.npz", map=heat, **score)
    matrix = evaluate("noise")
    assert scored(here, "lama")["top"] == pytest.approx([0.1, 0.35, 0.6, 0.85])
    assert matrix.models[0].maps.scores == "in the maps' files"
    np.savez(here / "noise/ldm/0.npz", map=np.zeros((96, 96)))
    assert "11 of 12 maps have a score in their file" in refusal("noise")


def save_pickle(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def save_lies(path):
    """A header that claims more than there is."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
        )


def save_bomb(path):
    """A few bytes that unpack to gigabytes, by what their archive says."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("map.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(1500):
            file.write(bytes(2**20))


WRONG = {
    "outside.npy": (lambda p: np.save(p, np.full((96, 96), 3.5)), "values from 3.5 to 3.5"),
    "nan.npy": (lambda p: np.save(p, np.full((96, 96), np.nan)), "found NaN"),
    "shape.npy": (lambda p: np.save(p, np.zeros((96, 96, 2))), r"found the shape \(96, 96, 2\)"),
    "integers.npy": (lambda p: np.save(p, np.zeros((96, 96), np.int64)), "found int64"),
    "pickle.npy": (save_pickle, "nothing is unpickled"),
    "text.npy": (lambda p: p.write_text("hello"), "can't be read as numbers"),
    "lies.npy": (save_lies, "can't be read as numbers"),
    "text.npz": (lambda p: p.write_text("hello"), "can't be read as numbers"),
    "two.npz": (lambda p: np.savez(p, a=np.ones(2), b=np.ones(2)), "expected an array 'map'"),
    "score.npz": (
        lambda p: np.savez(p, map=np.ones((2, 2)), score=2.0), "its score: expected a number"),
    "colour.png": (
        lambda p: Image.new("RGB", (96, 96), "red").save(p), "grey; its red and green channels"),
    "text.png": (lambda p: p.write_text("hello"), "is no photo"),
    "deep.tif": (
        lambda p: Image.fromarray(np.full((9, 9), 70000, np.int32)).save(p), "found PIL mode I"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_map_is_refused_by_name(tmp_path, name):
    write, reason = WRONG[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=reason) as raised:
        read_map(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)


@pytest.mark.slow
def test_an_archive_that_would_unpack_to_gigabytes_is_refused_unread(tmp_path):
    save_bomb(tmp_path / "bomb.npz")
    with pytest.raises(UserError, match="more than 175,000,000 pixels"):
        read_map(tmp_path / "bomb.npz")


def test_a_bad_map_is_named_before_anything_is_scored(here, refusal):
    np.save(here / "noise/ldm/1.npy", np.full((96, 96), 3.5))
    assert "ldm/1.png" in (message := refusal("noise")) and "maps of one photo" in message
    (here / "noise/ldm/1.png").unlink()
    message = refusal("noise")
    assert "1 of 12 maps can't be used" in message and "ldm/1.npy" in message
    assert not list(ROOT.glob("*/cells"))


def test_masks_of_0_and_1_in_place_of_255_are_refused(here, place, refusal, evaluate):
    for name in SETS:
        for stem, heat, _ in pairs(place, name):
            Image.fromarray((heat > 0.5).astype(np.uint8)).save(here / f"noise/{name}/{stem}.png")
    assert "no map has a level above 1" in refusal("noise")
    for name in SETS:
        for stem, heat, _ in pairs(place, name):
            (here / f"noise/{name}/{stem}.png").unlink()
            np.save(here / f"noise/{name}/{stem}.npy", heat > 0.5)
    assert 0 < evaluate("noise").score("iou", "noise", "ldm").value < 100


def test_a_photo_that_exif_turns_has_a_map_as_it_is_shown(here, tmp_path, error_of):
    make_tree(tmp_path / "data", ("ldm",), {"test": 1})
    photo = tmp_path / "data/real/test/0.png"
    tall = Image.new("RGB", (40, 60))
    exif = tall.getexif()
    exif[0x0112] = 6
    tall.save(photo, exif=exif)  # shown as 60 x 40
    (tmp_path / "m/real").mkdir(parents=True)
    (tmp_path / "m/ldm").mkdir()
    np.save(tmp_path / "m/ldm/0.npy", np.full((96, 96), 0.3))
    np.save(tmp_path / "m/real/0.npy", np.full((60, 40), 0.3))
    message = error_of("evaluate", "m", "--data=data")
    assert "40 x 60 px (turned: EXIF says how the photo stands), its photo has 60 x 40" in message
    np.save(tmp_path / "m/real/0.npy", np.full((40, 60), 0.3))
    cli.main(["evaluate", "m", "--data=data"])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "name what to evaluate"),
        (["nothing"], "there is no localizer at nothing"),
        (["empty"], "there is no localizer at empty"),
        (["noise", "--perturbation=jpeg"], "leave out --perturbation"),
        (["noise", "noise2", "--scores=x.csv"], "--scores is of one folder"),
        (["starter", "--resize"], "of which there is no folder among starter"),
        (["noise", "--generator=sd3"], "there is no generator 'sd3'"),
        (["noise", "--map_polarity=grey"], "expected black or white"),
        (["noise", "--scores=x.csv"], "x.csv can't be read"),
        (["noise", "--name=../x"], "a cross-evaluation's name"),
        (["noise", "here/noise"], "two models are called noise"),
    ],
)
def test_what_can_not_be_evaluated_is_said(here, refusal, words, reason):
    (here / "empty").mkdir()
    shutil.copytree(here / "noise", here / "noise2")
    shutil.copytree(here / "noise", here / "here/noise")
    assert reason in refusal(*words)


def test_finished_cells_are_kept_until_a_map_changes(here, evaluate):
    folder = ROOT / "dolos-noise"
    evaluate("noise")
    files = sorted(folder.glob("cells/noise/*"))
    first = [file.stat().st_mtime_ns for file in files]
    evaluate("noise")
    assert [file.stat().st_mtime_ns for file in files] == first
    shutil.copy(here / "noise/ldm/0.png", here / "noise/ldm/1.png")
    evaluate("noise")
    assert all(f.stat().st_mtime_ns != before for f, before in zip(files, first, strict=True))


def test_two_methods_are_compared_photo_by_photo(here, evaluate, capsys):
    shutil.copytree(here / "noise", here / "blind")
    for file in (here / "blind").rglob("*.png"):
        Image.new("L", (96, 96), 128).save(file)
    evaluate("noise")
    evaluate("blind")
    capsys.readouterr()
    cli.main(["compare", "blind", "noise", "--metric=ap"])
    printed = capsys.readouterr().out
    assert "A: blind in dolos-blind" in printed and "B: noise in dolos-noise" in printed
    line = next(line for line in printed.splitlines() if " ldm " in line)
    a, b, change = map(float, re.findall(r"[+-]?\d+\.\d", line)[:3])
    assert b > a and change == pytest.approx(b - a, abs=0.11)
    both = evaluate("noise", "blind")
    assert set(both.rows) == {"noise", "blind"}


def test_several_data_sets_have_folders_of_their_own_among_the_maps(place, here, capsys):
    shutil.copytree(place / "dolos", here / "again")
    shutil.copytree(place / "noise", here / "all/dolos")
    shutil.copytree(place / "noise", here / "all/again")
    cli.main(["evaluate", "all", f"--data={place}/dolos", "--also=again"])
    printed = capsys.readouterr().out
    assert "all data sets: outputs/cross_eval/dolos-all/domains.png" in printed
    rows = json.loads((ROOT / "dolos-all/domains.json").read_text())["lines"]
    assert {row["data"] for row in rows} == {"dolos", "again"}


@pytest.mark.parametrize(
    ("hits", "predicted", "fakes", "pixels", "found"),
    [(3, 5, 4, 20, (1, 15, 4, 20)), (0, 0, 4, 20, (4, 20, 4, 20)), (4, 20, 4, 20, (0, 0, 4, 20))],
)
def test_counts_of_the_inverse(hits, predicted, fakes, pixels, found):
    assert Counts(hits, predicted, fakes, pixels).inverse() == Counts(*found)
