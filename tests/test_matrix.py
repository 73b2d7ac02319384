"""The typed matrix and its cells: what is written is read, and everything else is refused."""

import json
import os
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

from declip_pl.cross_eval import matrix as m
from declip_pl.cross_eval.cell import cell_path, finished_cell, write_cell
from declip_pl.cross_eval.cells import polarity_warnings
from declip_pl.cross_eval.matrix import read_matrix, readable_matrices, write_matrix
from declip_pl.cross_eval.summary import summary
from declip_pl.cross_eval.views.report import write_report
from declip_pl.cross_eval.views.wandb_dashboard import dashboard
from declip_pl.errors import UserError

READERS = (read_matrix, write_report, dashboard)


def write(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "matrix.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    return folder


def test_what_is_written_is_read(tmp_path):
    matrix = as_matrix(example_matrix())
    write_matrix(tmp_path, matrix)
    assert read_matrix(tmp_path) == matrix
    content = json.loads((tmp_path / "matrix.json").read_text())
    assert len(content.pop("sha256")) == 64
    assert content == example_matrix() | {"made": content["made"]}
    assert content["format"] == m.FORMAT


@pytest.mark.parametrize("reader", READERS, ids=["reader", "report", "dashboard"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"is no cross-evaluation: there is no matrix\.json in it; expected a folder that"),
        (
            "",
            r"matrix\.json is damaged .*; run the same `cross-eval` or `evaluate` again",
        ),
        (
            "{",
            r"matrix\.json is damaged .*; run the same `cross-eval` or `evaluate` again",
        ),
        ("[" * 100_000, r"matrix\.json is damaged \(it is nested too deeply\)"),
        ("[]", r"matrix\.json is damaged \(it is no object\)"),
        ('{"format": 99}', r"was written by a newer declip-pl \(format 99; this one reads up to 2"),
        ('{"format": 2}', r"matrix\.json is damaged \(there is no name\)"),
    ],
)
def test_what_can_not_be_read_is_one_error_everywhere(tmp_path, reader, content, message):
    folder = tmp_path if content is None else write(tmp_path, content)
    with pytest.raises(UserError, match=message) as raised:
        reader(folder)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("rows",), None, "expected rows to be a list, found 'None'"),
        (("seeds",), ["0"], "expected seeds[0] to be a number, found '0'"),
        (("data", "tests"), [], "expected data.tests to be an object, found '[]'"),
        (("matrix", "iou", "migan", "telea"), {"value": 1.0}, "there is no matrix.iou.migan.tel"),
        (("models",), [{"name": "x"}], "there is no models[0].row"),
        (("notice",), True, "expected notice to be text, found 'True'"),
        (("made", "seconds"), True, "expected made.seconds to be a number, found 'True'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, where, value, message):
    content = example_matrix()
    *path, last = where
    place = content
    for name in path:
        place = place[name]
    place[last] = value
    with pytest.raises(UserError) as raised:
        read_matrix(write(tmp_path, content))
    assert f"is damaged ({message}" in str(raised.value)


def test_the_first_format_is_read(tmp_path):
    content = example_matrix()
    for name in ("format", "perturbation", "notice"):
        del content[name]
    matrix = read_matrix(write(tmp_path, content))
    assert (matrix.format, matrix.perturbation, matrix.notice) == (m.FORMAT, "none", None)


def test_only_the_first_format_may_lack_what_it_did_not_have(tmp_path):
    for name in ("perturbation", "notice"):
        content = example_matrix()
        del content[name]
        with pytest.raises(UserError, match=f"there is no {name}"):
            read_matrix(write(tmp_path, content))


def test_readable_matrices_come_newest_first_without_the_others(tmp_path):
    assert list(readable_matrices(tmp_path / "nowhere")) == []
    for age, name in enumerate(("c", "a", "b")):
        folder = write(tmp_path / name, plain_matrix([plain_model("ldm")], name=name))
        os.utime(folder / "matrix.json", (100 - age, 100 - age))
    write(tmp_path / "damaged", "{")
    write(tmp_path / "newer", {"format": 99})
    (tmp_path / "empty").mkdir()
    found = list(readable_matrices(tmp_path))
    assert [matrix.name for _, matrix in found] == ["c", "a", "b"]
    assert [folder.name for folder, _ in found] == ["c", "a", "b"]


MODEL = plain_model("ldm")
CELL = plain_cell(MODEL, "lama", ["0", "1"], {"iou": [50.0, np.nan], "ap": [1, 2.5]})


@pytest.mark.parametrize(
    ("name", "value"),
    [("format", 1), ("checkpoint", "other"), ("test", "other"), ("perturbation", "jpeg 75")],
)
def test_a_cell_of_another_model_test_set_or_perturbation_is_not_the_matrix(tmp_path, name, value):
    matrix = as_matrix(plain_matrix([MODEL], ("lama",)))
    (model,) = matrix.models
    path = cell_path(tmp_path, model.name, "lama")
    write_cell(path, CELL)
    assert finished_cell(tmp_path, matrix, model, "lama").about == CELL.about
    write_cell(path, replace(CELL, key=replace(CELL.key, **{name: value})))
    assert finished_cell(tmp_path, matrix, model, "lama") is None


def test_a_cell_of_a_test_set_that_failed_is_not_the_matrix(tmp_path):
    matrix = as_matrix(plain_matrix([MODEL], ()))
    write_cell(cell_path(tmp_path, MODEL["name"], "lama"), CELL)
    assert finished_cell(tmp_path, matrix, matrix.models[0], "lama") is None


def test_test_sets_that_are_mostly_fake_are_warned_of_once():
    def with_share(test, fake):
        histogram = np.zeros((2, 3, 15))
        histogram[:, :, 0] = 10, 1.0, fake
        return replace(CELL, test=test, histogram=histogram)

    cells = [with_share(*pair) for pair in (("lama", 6), ("lama", 6), ("ldm", 5), ("real", 0))]
    (line,) = polarity_warnings(cells, "black")
    assert line.startswith("warning: lama: 60 % of all pixels are fake if black means fake")
    assert "--polarity white" in line


def test_a_perturbation_is_told_wherever_scores_are(tmp_path, blank_plots):
    content = example_matrix() | {"perturbation": "jpeg 75"}
    write(tmp_path, content)
    first = summary(read_matrix(tmp_path)).splitlines()[1]
    assert first.endswith("photos went through jpeg 75")
    page = write_report(tmp_path).read_text()
    assert page.count("<code>jpeg 75</code>") == 2  # below the headline, and how it was made
    assert "other photos: as they are, not through jpeg 75" in page
    assert "went through" not in summary(as_matrix(example_matrix()))


def test_the_table_has_a_line_for_each_score(tmp_path):
    table = {
        "iou": {"ldm": {"ldm": score(40.0, n=7), "lama": score(None)}},
        "ap": {"ldm": {"ldm": score(1.5)}},
    }
    matrix = as_matrix(plain_matrix([MODEL], ("ldm", "lama"), matrix=table))
    write_matrix(tmp_path, matrix)
    assert (tmp_path / "matrix.csv").read_text().splitlines() == [
        "train,test,metric,value,ci_low,ci_high,n",
        *("ldm,ldm,iou,40.0,39.0,42.0,7", "ldm,lama,iou,,,,3", "ldm,ldm,ap,1.5,0.5,3.5,3"),
    ]
    assert (tmp_path / "matrix.json").read_text().splitlines()[1].startswith(' "')


def test_a_matrix_knows_its_cells():
    models = [plain_model("ldm"), plain_model("all-but-ldm", trained_on=["lama"])]
    table = {"iou": {"ldm": {"lama": score(40.0)}, "all-but-ldm": {}}}
    matrix = as_matrix(plain_matrix(models, ("ldm", "lama"), matrix=table))
    assert matrix.score("iou", "ldm", "lama").value == 40
    for absent in (("iou", "ldm", "ldm"), ("iou", "other", "lama"), ("ap", "ldm", "lama")):
        assert matrix.score(*absent) is None
    found = {(r, c) for r in matrix.rows for c in matrix.columns if matrix.is_in_domain(r, c)}
    assert found == {("ldm", "ldm"), ("all-but-ldm", "lama")}
    assert not matrix.is_in_domain("other", "ldm") and not matrix.is_on_record("other")
    assert matrix.single_rows == ["ldm"]


@pytest.mark.parametrize(("found", "readable"), [(m.FORMAT, True), (m.FORMAT + 1, False)])
def test_a_newer_format_is_refused_and_kept(tmp_path, found, readable):
    folder = write(tmp_path, plain_matrix([MODEL], ("ldm",), format=found))
    if readable:
        assert read_matrix(folder).format == found
        return
    with pytest.raises(UserError) as raised:
        read_matrix(folder)
    assert not isinstance(raised.value, m.DamagedMatrixError)
    assert str(raised.value) == (
        f"{folder / 'matrix.json'} was written by a newer declip-pl (format {found}; this one "
        f"reads up to {m.FORMAT}): update declip-pl"
    )


def test_a_folder_without_a_matrix_and_a_damaged_one_are_told_apart(tmp_path):
    with pytest.raises(UserError) as raised:
        read_matrix(tmp_path)
    assert not isinstance(raised.value, m.DamagedMatrixError)
    assert str(raised.value) == (
        f"{tmp_path} is no cross-evaluation: there is no matrix.json in it; expected a folder that "
        "`declip-pl cross-eval` or `evaluate` wrote"
    )
    (tmp_path / "matrix.json").mkdir()
    with pytest.raises(m.DamagedMatrixError, match=r"again, which makes it anew$"):
        read_matrix(tmp_path)


def test_rows_that_are_not_on_record_say_so(tmp_path):
    models = [plain_model("ldm"), plain_model("imported", trained_on=[])]
    table = {"iou": {row: {"ldm": score(40.0)} for row in ("ldm", "imported")}}
    no_means = {"iou": {"by_train": {}, "by_test": {}, "leave_one_out": {}}}
    content = plain_matrix(models, ("ldm",), metrics=["iou"], matrix=table, summary=no_means)
    matrix = as_matrix(content)
    assert matrix.is_on_record("ldm") and not matrix.is_on_record("imported")
    assert "imported: training data not on record, in none of the means" in summary(matrix)
    page = write_report(write(tmp_path, content)).read_text()
    assert "not on record</span>" in page
    assert "Training data not on record, so in no mean: imported." in page
