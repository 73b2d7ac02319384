"""The same models on several data sets: ``declip-pl cross-eval --data A --also B,C``."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import GENERATORS, make_clip, make_tree
from crosseval_example import (
    as_matrix,
    example_matrix,
    plain_matrix,
    plain_model,
    score,
    write_example,
)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_report import Page

from declip_pl import cli
from declip_pl.cross_eval.domains import domains_of, domains_text, read_domains, write_domains
from declip_pl.cross_eval.matrix import read_matrix
from declip_pl.cross_eval.views import domains_png
from declip_pl.cross_eval.views.report import write_report
from declip_pl.model.transformers_encoder import TransformersEncoder

NOTICE = "a stand-in: <nothing> is said"
REALS = {"untouched_area": 1.0, "untouched_area_decided": 2.0, "untouched_marked": 30.0,
         "untouched_marked_decided": 40.0}  # fmt: skip


def matrix_of(name, table, models=None, reals=True, **changes):
    """Return a matrix of some IoUs by row and column; the others follow from them."""
    columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
    models = models or [plain_model(row) for row in table]
    metrics = {
        "iou": table,
        "iou_decided": {r: {c: v and v + 10 for c, v in t.items()} for r, t in table.items()},
    }
    if reals:
        metrics["image_auroc"] = {
            r: {c: v and v + 20 for c, v in t.items()} for r, t in table.items()
        }
        metrics |= {
            metric: {r: dict.fromkeys(table[r], value + y) for y, r in enumerate(table)}
            for metric, value in REALS.items()
        }
    scores = {
        metric: {r: {c: score(v) for c, v in t.items()} for r, t in rows.items()}
        for metric, rows in metrics.items()
    }
    content = plain_matrix(models, columns, metrics=list(metrics), matrix=scores, **changes)
    content["name"], content["inputs"] = f"{name}-models", f"inputs of {name}"
    content["data"]["name"] = name
    return as_matrix(content)


@pytest.fixture
def matrices():
    """Two data sets that share the generator ldm; a row of forgeries, one not on record."""
    models = [
        plain_model("lama"),
        plain_model("ldm"),
        plain_model("none", trained_on=["forgeries"]),
        plain_model("imported", trained_on=[]),
    ]
    home = {"lama": {"lama": 60, "ldm": 20}, "ldm": {"lama": 10, "ldm": 70},
            "none": {"lama": 30, "ldm": 40}, "imported": {"lama": 1, "ldm": 3}}  # fmt: skip
    away = {"lama": {"ldm": 22, "telea": 24}, "ldm": {"ldm": 50, "telea": 12},
            "none": {"ldm": 32, "telea": 42}, "imported": {"ldm": 5, "telea": 7}}  # fmt: skip
    return [matrix_of("home", home, models), matrix_of("away", away, models, notice=NOTICE)]


def told(domains):
    """Return each line's counts and IoU by train, data and part."""
    return {
        (line.train, line.data, line.part): (line.generators, line.photos, line.scores["iou"])
        for line in domains.fakes
    }


SAME, OTHERS = "same generator, other photos", "other generators"


def test_means_by_hand(matrices):
    assert told(domains_of(matrices)) == {
        ("lama", "home", "in-domain"): (1, 3, 60),
        ("lama", "home", "out-of-domain"): (1, 3, 20),
        ("lama", "away", OTHERS): (2, 6, 23),
        ("ldm", "home", "in-domain"): (1, 3, 70),
        ("ldm", "home", "out-of-domain"): (1, 3, 10),
        ("ldm", "away", SAME): (1, 3, 50),
        ("ldm", "away", OTHERS): (1, 3, 12),
        ("none", "home", "out-of-domain"): (2, 6, 35),
        ("none", "away", OTHERS): (2, 6, 37),
        ("imported", "home", "all generators"): (2, 6, 2),
        ("imported", "away", "all generators"): (2, 6, 6),
        # Neither forgeries nor what is not on record has part in these.
        ("mean over rows", "home", "in-domain"): (None, None, 65),
        ("mean over rows", "home", "out-of-domain"): (None, None, 15),
        ("mean over rows", "away", SAME): (None, None, 50),
        ("mean over rows", "away", OTHERS): (None, None, 17.5),
    }


def test_all_metrics_by_hand(matrices):
    domains = domains_of(matrices)
    found = {(line.train, line.data, line.part): line.scores for line in domains.lines}
    expected = {"iou": 23, "iou_decided": 33, "image_auroc": 43}
    assert found["lama", "away", OTHERS] == expected
    assert found["lama", "away", "untouched photos"] == REALS
    assert found["ldm", "home", "untouched photos"] == {k: v + 1 for k, v in REALS.items()}
    mean = found["mean over rows", "away", "untouched photos"]
    assert mean == {k: v + 0.5 for k, v in REALS.items()}
    assert [line.photos for line in domains.untouched] == [3] * 8 + [None] * 2


def test_what_is_undefined_or_failed_is_in_no_mean(matrices):
    table = {"lama": {"ldm": None, "telea": 24}, "ldm": {"telea": 12}}
    away = matrix_of("away", table, reals=False)
    domains = domains_of([matrices[0], away])
    found = told(domains)
    assert found["lama", "away", OTHERS] == (2, 6, 24)
    assert found["ldm", "away", OTHERS] == (1, 3, 12)
    assert ("ldm", "away", SAME) not in found and ("none", "away", OTHERS) not in found
    of_away = [line for line in domains.fakes if line.data == "away"]
    assert {line.scores["image_auroc"] for line in of_away} == {None}
    assert {line.data for line in domains.untouched} == {"home"}
    assert "undefined" in domains_text(domains)


def test_a_row_is_the_same_models_whatever_it_is_called():
    """What leaves one generator out has another name where another generator is missing."""
    model = plain_model("all-but-ldm", trained_on=["lama", "telea"])
    models = [model, model | {"name": "again", "seed": 1}]
    home = matrix_of("home", {"all-but-ldm": {"lama": 50, "ldm": 20}}, models)
    there = [*(model | {"row": "lama+telea"} for model in models), plain_model("other")]
    away = matrix_of("away", {"lama+telea": {"telea": 40}, "other": {"telea": 1}}, there)
    found = told(domains_of([home, away]))
    assert found["all-but-ldm", "away", SAME] == (1, 3, 40)
    assert {train for train, *_ in found} == {"all-but-ldm", "mean over rows"}


def test_data_sets_of_one_name_are_told_apart(matrices):
    third = replace(matrices[1], name="away-abc-models")
    names = [entry.name for entry in domains_of([*matrices, third]).sets]
    assert names == ["home", "away (away-models)", "away (away-abc-models)"]


def test_the_table_and_the_record_hold_all_lines(matrices, tmp_path, capsys):
    domains = domains_of(matrices)
    write_domains(tmp_path, domains)
    assert read_domains(tmp_path, matrices[0]) == domains
    with (tmp_path / "domains.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(domains.lines)
    found = next(r for r in rows if (r["train"], r["data"], r["part"]) == ("lama", "away", OTHERS))
    assert found == {
        **{"train": "lama", "data": "away", "part": OTHERS, "generators": "2", "photos": "6"},
        **{"iou": "23.0", "iou_decided": "33.0", "image_auroc": "43.0"},
        **dict.fromkeys(REALS, ""),
    }
    assert rows[-1]["train"] == "mean over rows" and rows[-1]["untouched_area"] == "1.5"
    assert not capsys.readouterr().out


def test_a_record_of_another_matrix_or_a_damaged_one_is_not_taken(matrices, tmp_path, capsys):
    assert read_domains(tmp_path, matrices[0]) is None
    write_domains(tmp_path, domains_of(matrices))
    assert read_domains(tmp_path, replace(matrices[0], inputs="others")) is None
    assert not capsys.readouterr().out
    path = tmp_path / "domains.json"
    path.write_text(path.read_text().replace("23.0", "32.0"))
    assert read_domains(tmp_path, matrices[0]) is None
    assert f"{path} is damaged" in capsys.readouterr().out


def test_the_printed_table(matrices):
    lines = domains_text(domains_of(matrices)).splitlines()
    numbers = [line.split() for line in lines]
    assert ["lama", "away", "other", "generators", "2", "6", "23.0", "33.0", "43.0"] in numbers
    assert ["ldm", "home", "3", "2.0", "3.0", "31.0", "41.0"] in numbers
    assert lines[-1] == f"away: {NOTICE}"


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw matrices, make sure that no text leaves the picture, and return all texts."""
    figures = []

    class Watched(domains_png.Figure):
        def savefig(self, *args, **options):
            super().savefig(*args, **options)
            FigureCanvasAgg(self).draw()  # at the resolution that positions are then told in
            figures.append(self)

    monkeypatch.setattr(domains_png, "Figure", Watched)

    def draw(matrices):
        domains_png.domains_png(matrices, domains_of(matrices), tmp_path / "domains.png")
        (figure,) = figures
        texts = list(figure.texts)
        for axes in figure.axes:
            texts += [axes.xaxis.label, axes.yaxis.label, *axes.texts]
            texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0, text
            assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
        assert (tmp_path / "domains.png").stat().st_size > 5000
        return figure, [text.get_text() for text in texts]

    return draw


def test_the_picture_shows_each_data_set_with_its_means(matrices, drawn):
    figure, texts = drawn(matrices)
    first, second = figure.axes
    assert [text.get_text() for text in first.get_yticklabels()] == [
        "lama", "ldm", "none", "imported"
    ]  # fmt: skip
    assert not second.get_yticklabels()
    # By the decision, which all models have.
    assert [t.get_text() for t in second.texts if t.get_text()] == [
        "32.0", "34.0", "60.0", "22.0", "42.0", "52.0", "15.0", "17.0"
    ]  # fmt: skip
    for text in ("in-domain: 75.0", "out-of-domain: 25.0", f"{SAME}: 60.0", f"{OTHERS}: 27.5",
                 "The same models on home, away: IoU, decided"):  # fmt: skip
        assert text in texts
    assert any(NOTICE in text for text in texts)
    outlines = [[p for p in axes.patches if not p.get_fill()] for axes in figure.axes]
    assert [len(found) for found in outlines] == [2, 1]


def test_models_without_a_decision_are_shown_at_half(matrices, drawn):
    scores = {**matrices[1].matrix}
    del scores["iou_decided"]
    _, texts = drawn([matrices[0], replace(matrices[1], matrix=scores)])
    assert "The same models on home, away: IoU" in texts and "in-domain: 65.0" in texts


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(1, 1), (5, 12)],
)
def test_no_text_leaves_the_picture(drawn, rows, columns):
    names = [f"stable_diffusion_inpainting-{index}" for index in range(columns)]
    table = {
        row: {name: 10 + 5 * index for index, name in enumerate(names)} for row in names[:rows]
    }
    failed = {row: dict(list(cells.items())[1:]) for row, cells in table.items()}
    several = [matrix_of("photos " * 6, table), matrix_of("$x_1$", table, notice=NOTICE)]
    several += [matrix_of("c", failed, [plain_model(row) for row in table])] * (columns > 1)
    drawn(several)


def test_the_report_shows_the_means_and_links_to_the_other_reports(tmp_path):
    folder = tmp_path / "home"
    generators = ("migan", "telea")
    content = write_example(folder, generators=generators, left_out=()) | {"inputs": "x"}
    (folder / "matrix.json").write_text(json.dumps(content))
    first = read_matrix(folder)
    name = "<blink> 100% ü#?"
    second = as_matrix(
        example_matrix(generators, (), failing=False) | {"name": name, "notice": NOTICE}
    )
    assert "data-sets" not in Page(write_report(folder).read_text()).values("id")
    write_domains(folder, domains_of([first, second]))
    page = Page(write_report(folder).read_text())
    (address,) = [href for href in page.values("href") if href.startswith("../")]
    assert unquote(address) == f"../{name}/report.html" and not {"#", "?", " "} & set(address)
    assert "blink" not in {tag for tag, _ in page.tags} and NOTICE in page.text
    assert "#data-sets" in page.values("href") and "data-sets" in page.values("id")
    for line in domains_of([first, second]).lines:
        for value in line.scores.values():
            assert f"{value:.1f}" in page.cells
    for kind in ("fakes", "untouched"):
        assert f"tables/domains-{kind}.tex" in page.values("href")
        table = (folder / f"tables/domains-{kind}.md").read_text()
        lines = getattr(domains_of([first, second]), kind)
        assert len(table.splitlines()) == len(lines) + 4 and "a stand-in" in table
    (folder / "matrix.json").write_text(json.dumps(content | {"inputs": "y"}))
    assert "data-sets" not in Page(write_report(folder).read_text()).values("id")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set with two trained models, and two sets of test photos of one name."""
    folder = tmp_path_factory.mktemp("place")
    make_tree(folder / "dolos")
    make_tree(folder / "a/bench", ("ldm", "telea"), {"test": 3})
    make_tree(folder / "b/bench", ("telea",), {"test": 2})
    shutil.rmtree(folder / "b/bench/real")
    make_clip(folder / "tiny-clip")
    (folder / "tiny.yaml").write_text(
        f"model: {{encoder: {folder}/tiny-clip, layer: layer1, decoder: linear, image_size: 64}}\n"
        "data: {root: x, generator: x, batch_size: 4, num_workers: 0}\n"
        "trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, logger: false}\n"
    )
    for generator in GENERATORS:
        cli.main(
            ["fit", f"--config={folder}/tiny.yaml", f"--data.root={folder}/dolos",
             f"--data.generator={generator}", f"--run.root={folder}/outputs/train"]
        )  # fmt: skip
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    return tmp_path


@pytest.fixture
def encoded(monkeypatch):
    """Count the photos that pass the encoder; it looks at a blank when built."""
    counted = []
    forward = TransformersEncoder.forward

    def count(self, pixels):
        if len(pixels) > 1:
            counted.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(TransformersEncoder, "forward", count)
    return counted


def matrices_by_photos(name="*"):
    """Return the matrices by the generators and photos that they are of."""
    root = Path("outputs/cross_eval")
    found = [read_matrix(path.parent) for path in root.glob(f"{name}/matrix.json")]
    return {tuple((t, s.photos) for t, s in m.data.tests.items()): m for m in found}


A = (("ldm", 3), ("telea", 3), ("real", 3))
B = (("telea", 2),)
HOME = (("lama", 4), ("ldm", 4), ("real", 4))


@pytest.mark.slow  # three cross-evaluations
def test_one_command_trains_and_scores_on_all(place, here, capsys, encoded):
    command = ["cross-eval", f"--data={place}/dolos", f"--config={place}/tiny.yaml",
               f"--also={place}/a/bench,{place}/b/bench"]  # fmt: skip
    cli.main(command)
    folder = here / "outputs/cross_eval/dolos-tiny-clip-layer1-linear"
    found = matrices_by_photos()
    assert found.keys() == {HOME, A, B}
    # Some photos of the three are the same files: those are not encoded again.
    photos = [p for root in ("dolos", "a/bench", "b/bench") for p in (place / root).rglob("*.png")]
    tested = [p for p in photos if "test" in p.parts and "masks" not in p.parts]
    assert sum(encoded) <= len({p.read_bytes() for p in tested})
    printed = capsys.readouterr().out
    assert f"also: {place}/b/bench" in printed and "outputs/cross_eval/" in printed
    for name in ("domains.png", "domains.csv", "domains.json"):
        assert (folder / name).stat().st_size > 500
    for entry, matrix in zip(
        read_domains(folder, found[HOME]).sets, (found[HOME], found[A], found[B]), strict=True
    ):
        assert entry.folder == matrix.name and not matrix.failed
    with (folder / "domains.csv").open() as file:
        lines = list(csv.DictReader(file))
    of_a = [line for line in lines if line["train"] == "ldm" and found[A].name in line["data"]]
    assert [(line["part"], line["photos"]) for line in of_a] == [
        (SAME, "3"), (OTHERS, "3"), ("untouched photos", "3")
    ]  # fmt: skip
    assert float(of_a[0]["iou"]) == found[A].matrix["iou"]["ldm"]["ldm"].value
    page = (folder / "report.html").read_text()
    assert f'href="../{found[B].name}/report.html"' in page

    encoded.clear()
    cells = {p: p.stat().st_mtime_ns for p in here.glob("outputs/cross_eval/*/cells/*/*")}
    before = (folder / "domains.csv").read_bytes()
    cli.main(command)
    # What is there is what each data set's own command takes.
    runs = sorted((here / "outputs/train").iterdir())
    cli.main(["evaluate", *map(str, runs), f"--data={place}/a/bench"])
    assert not encoded and (folder / "domains.csv").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in here.glob("outputs/cross_eval/*/cells/*/*")} == cells


def test_given_models_under_a_name(place, here):
    runs = sorted((here / "outputs/train").iterdir())
    cli.main(["evaluate", *map(str, runs), f"--data={place}/a/bench", f"--also={place}/b/bench",
              "--name=x"])  # fmt: skip
    found = matrices_by_photos()
    assert found.keys() == {A, B} and found[A].name == "x"
    assert found[B].name.startswith("bench-2-models-")
    assert "in-domain" in (here / "outputs/cross_eval/x/domains.csv").read_text()


@pytest.mark.slow  # two cross-evaluations of three data sets
def test_a_failure_in_one_data_set_loses_nothing_else(place, here, error_of):
    for root in ("a", "b"):
        shutil.copytree(place / root, here / root)
    (here / "a/bench/fake/ldm/images/test/0.png").write_bytes(b"nonsense")
    second = f"{here}/a/bench,{here}/b/bench"
    run = str(min((here / "outputs/train").iterdir()))
    command = ["evaluate", run, f"--data={place}/dolos", f"--also={second}"]
    message = error_of(*command[:2], "gone", *command[2:])
    assert "data set bench: test set ldm: " in message
    assert message.count("there is no localizer at") == 1
    found = matrices_by_photos()
    assert len(found) == 3 and [len(m.failed) for m in found.values()].count(0) == 1
    shutil.copy(place / "a/bench/fake/ldm/images/test/0.png", here / "a/bench/fake/ldm/images/test")
    cli.main(command)
    assert not any(matrix.failed for matrix in matrices_by_photos().values())


def test_a_data_set_that_fails_as_a_whole_is_left_out(place, here, error_of):
    run = str(min((here / "outputs/train").iterdir()))
    cli.main(["evaluate", run, f"--data={place}/a/bench"])
    (taken,) = (here / "outputs/cross_eval").iterdir()
    matrix = json.loads((taken / "matrix.json").read_text())
    del matrix["sha256"]
    (taken / "matrix.json").write_text(json.dumps(matrix | {"format": 99}))
    shutil.copytree(place / "b/bench", here / "other")
    message = error_of("evaluate", run, f"--data={place}/dolos",
                       f"--also={place}/a/bench,other", "--name=x")  # fmt: skip
    assert "data set bench: all of it: " in message and "written by a newer declip-pl" in message
    domains = read_domains(Path("outputs/cross_eval/x"), matrices_by_photos(name="x")[HOME])
    assert [entry.name for entry in domains.sets] == ["dolos", "other"]


@pytest.mark.parametrize(
    ("also", "expected"),
    [
        ("{place}/nowhere", "there is no folder {place}/nowhere"),
        ("{place}/tiny-clip", "holds a folder 'fake'"),
        ("{place}/a/bench,{place}/b/../a/bench", "which is scored on already"),
        ("{place}/b/bench,{place}/dolos", "{place}/dolos is {place}/dolos, which is scored on"),
    ],
)
def test_wrong_data_sets_are_refused_before_anything_is_trained(
    place, tmp_path, monkeypatch, error_of, also, expected
):
    monkeypatch.chdir(tmp_path)
    message = error_of("cross-eval", f"--data={place}/dolos", f"--config={place}/tiny.yaml",
                       f"--also={also.format(place=place)}")  # fmt: skip
    assert expected.format(place=place) in message and "Traceback" not in message
    assert not (tmp_path / "outputs").exists()


def test_nothing_further_writes_nothing_further(place, here):
    runs = sorted((here / "outputs/train").iterdir())
    cli.main(["evaluate", str(runs[0]), f"--data={place}/b/bench", "--also="])
    assert not list(here.rglob("domains.*"))
    assert np.isfinite(matrices_by_photos()[B].matrix["iou"]["lama"]["telea"].value)
