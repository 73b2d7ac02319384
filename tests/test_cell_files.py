"""Cells, thresholds and matrices as files: what is written is read, and any damage is noticed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crosseval_example import as_matrix, example_matrix, plain_cell, plain_matrix, plain_model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from declip_pl.cross_eval import cell as c
from declip_pl.cross_eval.cell import (
    ThresholdsFile,
    ThresholdsKey,
    cell_path,
    finished_cell,
    read_cell,
    read_thresholds,
    write_cell,
    write_thresholds,
)
from declip_pl.cross_eval.columns import read_columns, write_columns
from declip_pl.cross_eval.matrix import DamagedMatrixError, read_matrix, write_matrix
from declip_pl.errors import UserError
from declip_pl.metrics import Thresholds
from declip_pl.records import to_json

MODEL = plain_model("ldm")
CELL = plain_cell(
    MODEL, "lama", ["0", "a\nb", "\udcff"], {"iou": [50.0, np.nan, 0.1], "ap": [1, 2.5, 1 / 3]},
    {"top": [0.1, 0.2, 1.0]},
)  # fmt: skip
THRESHOLDS = ThresholdsFile(
    ThresholdsKey(c.FORMAT, "c", ("v",), ("none",)), "m", Thresholds(0.4, {"top": 0.3}), {}, 1.0
)


@pytest.fixture(params=["cell", "thresholds", "matrix"])
def kind(request, tmp_path):
    """A kind of file: what writes an example of it, what reads it, and where it stands."""
    if request.param == "cell":
        path = tmp_path / "cell.safetensors"
        return path, lambda: write_cell(path, CELL), lambda: columns_of(read_cell(path))
    if request.param == "thresholds":
        path = tmp_path / "thresholds.json"
        return path, lambda: write_thresholds(path, THRESHOLDS), lambda: read_thresholds(path)
    matrix = as_matrix(example_matrix(generators=("migan", "telea"), left_out=()))
    path = tmp_path / "matrix.json"
    return path, lambda: write_matrix(tmp_path, matrix), lambda: read_matrix(tmp_path)


def columns_of(cell):
    return to_json(cell.about), {name: v.tobytes() for name, v in cell.columns.items()}


def test_a_cell_is_read_as_it_was_written(tmp_path):
    write_cell(tmp_path / "cell.safetensors", CELL)
    found = read_cell(tmp_path / "cell.safetensors")
    assert found.about == CELL.about
    assert list(found.columns) == list(CELL.columns)  # reports list metrics in this order
    for name, column in CELL.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
    assert read_cell(tmp_path / "nothing.safetensors") is None


@given(
    columns=st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "about"),
        arrays(np.float64, st.tuples(st.integers(0, 3), st.integers(0, 3))),
        max_size=3,
    )
)
def test_columns_are_read_as_they_were_written(tmp_path_factory, columns):
    path = tmp_path_factory.mktemp("columns") / "file.safetensors"
    write_columns(path, {"said": None}, columns)
    about, found = read_columns(path)
    assert about == {"said": None} and list(found) == list(columns)
    for name, column in columns.items():
        np.testing.assert_array_equal(found[name], column)


def test_a_file_that_lost_its_end_or_is_garbage_is_refused(kind):
    path, write, read = kind
    write()
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:-2], b"\0" * 100, b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises((ValueError, DamagedMatrixError)):
            read()


@given(data=st.data())
def test_no_flipped_bit_is_read_as_something_else(kind, data):
    path, write, read = kind
    write()
    expected, content = read(), bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        assert read() == expected  # blanks say nothing
    except (ValueError, DamagedMatrixError) as error:
        assert "\n" not in str(error)


def test_zeros_in_the_middle_of_a_cell_are_noticed(tmp_path):
    path = tmp_path / "cell.safetensors"
    write_cell(path, replace(CELL, histogram=np.ones((3, 3, 15))))
    content = path.read_bytes()
    path.write_bytes(content[:-200] + b"\0" * 200)
    with pytest.raises(ValueError, match="SHA-256"):
        read_cell(path)


def test_other_formats_are_read_as_nothing(tmp_path):
    for format_ in (2, c.FORMAT + 1):
        write_cell(tmp_path / "cell", replace(CELL, key=replace(CELL.key, format=format_)))
        assert read_cell(tmp_path / "cell") is None
        key = replace(THRESHOLDS.key, format=format_)
        write_thresholds(tmp_path / "thresholds.json", replace(THRESHOLDS, key=key))
        assert read_thresholds(tmp_path / "thresholds.json") is None
    old = {"key": {"format": 1, "checkpoint": "c", "valid": []}, "model": "m"}
    (tmp_path / "thresholds.json").write_text(json.dumps(old))
    assert read_thresholds(tmp_path / "thresholds.json") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"histogram": np.zeros((2, 3, 15))},
        {"histogram": np.zeros((3, 3, 14))},
        {"scores": {"iou": np.zeros(2)}},
        {"image_scores": {"top": np.zeros((3, 1))}},
        {"photos": ["0"]},
        {"seed": None},
    ],
)
def test_columns_of_other_photos_are_refused(tmp_path, changes):
    write_cell(tmp_path / "cell", replace(CELL, **changes))
    with pytest.raises(ValueError, match=r"columns are not of its|expected seed to be a number"):
        read_cell(tmp_path / "cell")


@pytest.mark.parametrize("about", [None, [], 3, {"key": 3}, {"key": {}}, {"key": {"format": "3"}}])
def test_what_is_about_something_else_is_refused(tmp_path, about):
    write_columns(tmp_path / "cell", about, CELL.columns)
    with pytest.raises(ValueError, match=r"expected|there is no"):
        read_cell(tmp_path / "cell")


def test_a_cell_without_pixels_is_refused(tmp_path):
    for photos in (CELL.photos, []):
        about = to_json(replace(CELL, photos=photos).about)
        write_columns(tmp_path / "cell", about, {})
        with pytest.raises(ValueError, match=f"^its columns are not of its {len(photos)} photos$"):
            read_cell(tmp_path / "cell")


def test_where_cells_stand():
    assert cell_path(Path("x"), "model", "lama") == Path("x/cells/model/lama.safetensors")
    assert len(cell_path(Path("x"), "model", "y" * 300).name) < 256


def test_the_share_of_fakes_is_of_all_pixels():
    histogram = np.zeros((3, 3, 15))
    assert replace(CELL, histogram=histogram).fake_share == 0
    histogram[0, :, 2], histogram[1, :, 7] = (30, 1, 3), (10, 2, 5)
    assert replace(CELL, histogram=histogram).fake_share == 8 / 40


def test_readers_of_a_finished_matrix_name_a_damaged_cell(tmp_path):
    matrix = as_matrix(plain_matrix([MODEL], ("lama",)))
    path = cell_path(tmp_path, MODEL["name"], "lama")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"garbage")
    with pytest.raises(UserError) as raised:
        finished_cell(tmp_path, matrix, matrix.models[0], "lama")
    assert str(path) in str(raised.value) and "again, which scores it anew" in str(raised.value)
