"""What a paper takes from a report: tables as text, baselines, kinds of photos, all photos."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from crosseval_example import (
    as_matrix,
    example_matrix,
    plain_cell,
    plain_matrix,
    plain_model,
    score,
)

from declip_pl.cross_eval.breakdown import COLUMNS, KINDS, bins_of, write_bins
from declip_pl.cross_eval.cell import cell_path, write_cell
from declip_pl.cross_eval.estimates import Score
from declip_pl.cross_eval.matrix import (
    read_matrix,
    write_matrix,
)
from declip_pl.cross_eval.rates import curve, rates_of
from declip_pl.cross_eval.scores import Scores
from declip_pl.cross_eval.statistics import bootstrap
from declip_pl.cross_eval.views.citation import bibtex
from declip_pl.cross_eval.views.gallery import (
    FIRST,
    Group,
    Listing,
    Number,
    as_json,
    first_lines,
    shortened,
)
from declip_pl.cross_eval.views.matrix_tables import tables_of
from declip_pl.cross_eval.views.pictures import pictures_of
from declip_pl.cross_eval.views.report import write_report
from declip_pl.cross_eval.views.tables import Entry, Table, latex, markdown

NASTY = "a_b%&#${}~^\\"
GENERATORS = ("repaint-p2-9k", NASTY)
ANSWERS = ("all fake", "all real")
PHOTOS = [f"photo{index:02}" for index in range(40)]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)


def content():
    """Return ``matrix.json`` with baselines and kinds of photos."""
    matrix = example_matrix(GENERATORS, (), failing=False, notice="mini is a stand-in_")
    matrix["baselines"] = {
        metric: {name: {g: score(9.5 + i) for g in GENERATORS} for i, name in enumerate(ANSWERS)}
        for metric in matrix["metrics"]
        if not metric.endswith("tuned")
    }
    matrix["bins"] = [
        {
            **{"kind": "area", "name": name, "photos": 7},
            "scores": [
                {"train": train, "part": part, "metric": "iou", "score": score(value)}
                for train, part in ((NASTY, "in-domain"), ("all fake", None))
            ],
        }
        for name, value in (("1 to 5 %", 12.3), ("5 to 10 %", 45.6))
    ]
    del matrix["bins"][1]["scores"][1]
    return matrix


@pytest.fixture
def written(tmp_path, blank_plots):
    """A folder with a report, and its matrix; the second model's photos are in a cell."""
    (tmp_path / "matrix.json").write_text(json.dumps(content()))
    matrix = read_matrix(tmp_path)
    write_matrix(tmp_path, matrix)
    write_bins(tmp_path, matrix)
    for number, model in enumerate(matrix.models):
        about = {"name": model.name, "seed": 0, "checkpoint_sha256": model.checkpoint_sha256}
        for column in GENERATORS:
            values = np.arange(len(PHOTOS), dtype=float) + 10 * number
            cell = plain_cell(
                about, column, PHOTOS, {"iou": values}, {"mean": values / 100},
                test=matrix.data.tests[column].sha256,
            )  # fmt: skip
            facts = {name: np.full(len(PHOTOS), 2.0) for name in ("width", "height", "regions")}
            write_cell(cell_path(tmp_path, model.name, column), replace(cell, facts=facts))
    write_report(tmp_path)
    return tmp_path, matrix


def rows_of_latex(text):
    """Return the cells of the lines between the first rule and the last."""
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    assert all(line.endswith("\\\\") for line in lines if not line.endswith("rule"))
    rows = [line.removesuffix("\\\\") for line in lines if line.endswith("\\\\")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", row)] for row in rows]


def check_latex(text):
    """Check the structure: environments and braces are balanced, specials are escaped."""
    bare = re.sub(r"^%.*\n", "", text)
    assert re.findall(r"\\begin\{(\w+)\}", bare) == re.findall(r"\\end\{(\w+)\}", bare)[::-1]
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", bare.replace("\\\\", "")):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert not re.search(r"(?<!\\)[%#$_~^]", bare)
    columns = re.search(r"\\begin\{tabular\}\{([lc]+)\}", bare)[1]
    rows = rows_of_latex(bare)
    assert rows and all(len(row) == len(columns) for row in rows)
    assert len(re.findall(r"(?<!\\)&", bare)) == len(rows) * (len(columns) - 1)


def test_every_table_is_latex_that_compiles(written):
    folder, _ = written
    files = sorted((folder / "tables").glob("*.tex"))
    assert {"iou.tex", "means.tex", "images.tex", "untouched.tex", "iou_by_area.tex"} <= {
        path.name for path in files
    }
    for path in files:
        text = path.read_text()
        check_latex(text)
        assert "mini is a stand-in\\_." in text and "one training seed" in text
    text = (folder / "tables/iou.tex").read_text()
    assert "repaint-p2-9k &" in text
    assert r"a\_b\%\&\#\$\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text


def test_a_cell_in_latex_and_markdown():
    entries = [Entry(Score(12.34, 11.0, 13.96, 5), home=True), Entry(Score(None, None, None, 0))]
    table = Table("t", "A title", ["A note."], ["x|y", "1", "2"], [[["l", *entries]]], home="own")
    assert r"l & \underline{12.3} {\scriptsize (11.0--14.0)} & undefined \\" in latex(table)
    assert r"\caption{A title. A note. Underlined: own.}" in latex(table)
    assert markdown(table).splitlines() == [
        "A title. A note. With a star: own.",
        "",
        "| x\\|y | 1 | 2 |",
        "| --- | ---: | ---: |",
        "| l | 12.3\\* (11.0 to 14.0) | undefined |",
    ]


def numbers(cell):
    """Return the value and the ends of the interval that a cell of a LaTeX table shows."""
    return re.findall(r"\d+\.\d", cell)


def test_every_exported_matrix_equals_the_csv(written):
    folder, matrix = written
    with (folder / "matrix.csv").open(newline="") as file:
        found = {(row["metric"], row["train"], row["test"]): row for row in csv.DictReader(file)}
    assert {row for _, row, _ in found} == {*GENERATORS, *ANSWERS}
    for metric in matrix.metrics:
        rows = [*matrix.rows, *matrix.answers(metric)]
        assert bool(matrix.answers(metric)) != metric.endswith("tuned")
        _, *lines = rows_of_latex((folder / f"tables/{metric}.tex").read_text())
        for column, line in zip(matrix.columns, lines, strict=True):
            for row, cell in zip(rows, line[1:], strict=True):
                wanted = found[metric, row, column]
                ends = [float(wanted[name]) for name in ("value", "ci_low", "ci_high")]
                assert numbers(cell) == [f"{value:.1f}" for value in ends]
                assert ("underline" in cell) == (row == column)


def test_the_table_by_kind_equals_the_csv(written):
    folder, _ = written
    with (folder / "by_kind.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 3
    head, *lines = rows_of_latex((folder / "tables/iou_by_area.tex").read_text())
    assert head[2:] == ["1 to 5 \\% (7 photos)", "5 to 10 \\% (7 photos)"]
    shown = [numbers(cell) for line in lines for cell in line[2:]]
    assert shown == [
        ["12.3", "11.3", "14.3"],
        ["45.6", "44.6", "47.6"],
        ["12.3", "11.3", "14.3"],
        [],
    ]
    assert [row["value"] for row in rows] == ["12.3", "12.3", "45.6"]


def test_photos_csv_has_a_line_for_each_photo_of_each_cell(written):
    folder, matrix = written
    with (folder / "photos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(matrix.models) * len(GENERATORS) * len(PHOTOS)
    last = rows[-1]
    assert (last["photo"], last["iou"], last["width"], last["area"]) == (
        "photo39",
        "49.0",
        "2.0",
        "0.0",
    )


def test_nothing_names_a_folder_or_a_kernel_of_this_machine(written):
    folder, _ = written
    files = [folder / "report.html", *folder.glob("*.csv"), *(folder / "tables").iterdir()]
    text = "".join(path.read_text(errors="replace") for path in files)
    # What the made-up matrix.json says of its machine, as older versions wrote it
    for word in ("/home/user", "/data/objects", "6.1.0", "glibc", str(folder)):
        assert word not in text


def test_bibtex_is_balanced_and_names_the_version():
    text = bibtex("abc123")
    assert text.count("{") == text.count("}") and "commit abc123" in text
    assert re.findall(r"^@(\w+)\{(\w+),$", text, re.MULTILINE) == [
        ("inproceedings", "smeu2025declip"), ("software", "declip_pl"),
    ]  # fmt: skip
    assert "commit" not in bibtex(None)


def test_baselines_stand_beside_every_score(written):
    folder, _ = written
    page = " ".join((folder / "report.html").read_text().split())
    assert "all fake <strong>9.5</strong>, all real <strong>10.5</strong>" in page
    tables = {table.name: table for table in tables_of(read_matrix(folder))}
    for name in ("images", "untouched"):
        rows = {line[0] for line in tables[name].lines}
        assert {*GENERATORS, *ANSWERS} == rows
    assert "by_kind.csv" in page and 'href="matrix.csv"' in page and 'href="matrix.json"' in page


def model(row):
    return plain_model(row)


def cell_of(test, photos, iou, area, **facts):
    """Return a cell of photos with an IoU, a share of fake pixels in percent, and facts."""
    cell = plain_cell(plain_model("a"), test, photos, {"iou": iou})
    histogram = np.zeros_like(cell.histogram)
    histogram[:, 0, 0], histogram[:, 2, 0] = 100, area
    ones = np.ones(len(photos))
    facts = {"width": 100 * ones, "height": 50 * ones, "regions": ones} | facts
    return replace(cell, histogram=histogram, facts=facts)


def test_scores_by_kind_are_means_over_cells_of_their_photos():
    row = as_matrix(plain_matrix([plain_model("a")], ("a", "b"))).models[0]
    cells = {
        (row.name, "a"): cell_of("a", ["p", "q", "r"], [10.0, 20.0, 60.0], [0, 1, 4.9]),
        (row.name, "b"): cell_of(
            "b", ["p", "q"], [30.0, 50.0], [5, 60],
            width=np.array([300.0, 5000.0]), regions=np.array([2.0, 7.0]),
        ),
    }  # fmt: skip
    scores = Scores([row], cells, {}, "top")
    bins = bins_of(scores, scores, ["a"], ["a", "b"], {"a": ("a",)})
    assert set(KINDS) == {"area", "size", "regions"}
    shown = {
        (found.kind, found.name): (
            found.photos,
            {entry.part: (entry.score.value, entry.score.n) for entry in found.scores},
        )
        for found in bins
    }
    assert shown == {
        ("area", "under 1 %"): (1, {"in-domain": (10.0, 1), None: (10.0, 1)}),
        ("area", "1 to 5 %"): (2, {"in-domain": (40.0, 2), None: (40.0, 2)}),
        ("area", "5 to 10 %"): (1, {"out-of-domain": (30.0, 1), None: (30.0, 1)}),
        ("area", "50 % and more"): (1, {"out-of-domain": (50.0, 1), None: (50.0, 1)}),
        ("size", "under 256 px"): (3, {"in-domain": (30.0, 3), None: (30.0, 3)}),
        ("size", "256 to 511 px"): (1, {"out-of-domain": (30.0, 1), None: (30.0, 1)}),
        ("size", "2048 px and more"): (1, {"out-of-domain": (50.0, 1), None: (50.0, 1)}),
        ("regions", "1"): (3, {"in-domain": (30.0, 3), None: (30.0, 3)}),
        ("regions", "2"): (1, {"out-of-domain": (30.0, 1), None: (30.0, 1)}),
        ("regions", "6 and more"): (1, {"out-of-domain": (50.0, 1), None: (50.0, 1)}),
    }


def test_roc_and_precision_by_hand():
    # Scores, the highest first: fake, real, fake, real
    found = curve(np.array([1.0, 0, 1, 0]), np.array([0.0, 1, 0, 1]))
    assert found.fake == 50
    at = {x: y for x, y in zip(found.alarms, found.found, strict=True) if x in (0, 50, 100)}
    assert at == pytest.approx({0: 50, 50: 100, 100: 100})
    by_recall = dict(zip(found.recall, found.precision, strict=True))
    assert by_recall[0] == by_recall[50] == pytest.approx(100)
    assert by_recall[100] == pytest.approx(100 * 2 / 3)
    assert curve(np.array([1.0]), np.array([0.0])) is None


def test_rates_are_means_over_seeds_and_of_those_there_are():
    images = (np.array([[0.9, 0.8], [0.1, 0.2]]), np.array([[0.1, np.nan], [0.9, np.nan]]))
    rates = rates_of([None, None], images)
    assert rates.pixel is None
    assert rates.image.found[0] == 50 and rates.image.fake == pytest.approx(200 / 3)
    assert rates_of([], (np.full((1, 2), np.nan),) * 2).image is None


def listing(photos=100, groups=4):
    numbers = np.arange(photos, dtype=float)[None]
    numbers[0, 3] = np.nan
    names = [f"</script>{index}" for index in range(photos)]
    return Listing(
        ("trained on",),
        (Number("IoU"),),
        [Group((str(g),), not g, names, numbers, {names[7]: "picture-1"}) for g in range(groups)],
    )


def test_a_list_that_is_too_long_is_thinned_evenly_and_keeps_pictures():
    whole = listing()
    assert shortened(whole, 400) is whole
    short = shortened(whole, 100)
    assert short.left_out == 400 - short.count and 100 <= short.count <= 108
    assert all("</script>7" in group.photos for group in short.groups)
    assert len({len(group.photos) for group in short.groups}) == 1
    kept = short.groups[0]
    assert [int(n.removeprefix("</script>")) for n in kept.photos] == kept.numbers[0].tolist()


def test_the_first_lines_are_the_lowest_defined_ones():
    lines = first_lines(listing())
    assert len(lines) == FIRST
    assert [line.numbers for line in lines[:13]] == [["0.0"]] * 4 + [["1.0"]] * 4 + [
        ["2.0"]
    ] * 4 + [["4.0"]]


def test_what_the_script_reads_can_not_end_its_element():
    text = as_json(listing())
    assert "<" not in text
    said = json.loads(text)
    assert said["groups"][0]["photos"][1] == "</script>1"
    assert said["groups"][0]["numbers"][0][2:5] == [2.0, None, 4.0]


def test_pictures_that_have_no_room_are_links_and_the_worst_come_first(tmp_path):
    matrix = as_matrix(example_matrix(GENERATORS, (), failing=False))
    found = [
        p for cells in pictures_of(matrix, tmp_path, 4).values() for c in cells.values() for p in c
    ]
    assert len(found) == 12 and len({picture.id for picture in found}) == 12
    assert [p.kind for p in found if not p.linked] == ["worst"] * 4


@pytest.fixture
def tab(written, chromium):
    """The report in a browser that has no network."""
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    heard = []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.goto((written[0] / "report.html").as_uri())
    yield tab
    tab.close()
    assert heard == []


def column(tab, number):
    """Return the text of a column of the list of photos."""
    cells = f"#gallery tbody tr > :nth-child({number})"
    return tab.eval_on_selector_all(cells, "cells => cells.map(cell => cell.innerText)")


def test_the_list_is_sorted_filtered_and_shown_in_parts(tab):
    count = 4 * len(PHOTOS)
    assert tab.inner_text(".found") == f"50 of {count} lines shown"
    ious = [float(value) for value in column(tab, 5)]
    assert ious == sorted(ious) and len(ious) == 50
    head = "#gallery thead th:nth-child(5)"
    tab.click(f"{head} button")
    assert tab.get_attribute(head, "aria-sort") == "descending"
    assert column(tab, 5)[:3] == ["49.0", "49.0", "48.0"]
    tab.click(".more")
    assert len(column(tab, 5)) == 100
    tab.select_option("[name=label-0]", NASTY)
    tab.select_option("[name=where]", "home")
    assert tab.inner_text(".found") == f"{len(PHOTOS)} of {len(PHOTOS)} lines shown"
    tab.fill("[name=words]", "PHOTO03")
    assert column(tab, 2) == ["photo03"] and column(tab, 5) == ["13.0"]
    tab.fill("[name=words]", "nothing")
    assert tab.inner_text(".found") == "0 of 0 lines shown"


def test_a_photo_is_enlarged_with_all_its_scores(tab):
    tab.fill("[name=words]", "photo03")
    tab.click(".thumb")
    assert tab.inner_text("dialog caption") == "All scores of photo03"
    assert len(tab.query_selector_all("dialog tr")) == 1 + 4
    tab.keyboard.press("Escape")
    assert not tab.is_visible("dialog")


def test_without_script_the_lowest_scores_stand_there(written, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((written[0] / "report.html").as_uri())
    assert len(column(page, 5)) == FIRST and column(page, 5)[0] == "0.0"
    assert not page.is_visible(".filters") and page.is_visible(".unscripted")
    context.close()
