"""Dataclasses as JSON: what is written is read, and every other value is named."""

import json
from dataclasses import dataclass
from math import nan
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from declip_pl.cross_eval.columns import columns_hash, read_columns, write_columns
from declip_pl.records import from_json, json_hash, read_json, to_json, write_json


@dataclass(frozen=True)
class Part:
    number: float
    count: int = 3


@dataclass(frozen=True)
class Whole:
    text: str
    flag: bool
    parts: list[Part]
    pair: tuple[str, ...]
    table: dict[str, dict[str, Part]]
    score: float | None
    note: str | None = None


PART = Part(0.5, 7)
WHOLE = Whole("ä", True, [PART, Part(2.0)], ("a", "b"), {"x": {"y": PART}}, None, "said")
PLAIN = {
    "text": "ä",
    "flag": True,
    "parts": [{"number": 0.5, "count": 7}, {"number": 2.0, "count": 3}],
    "pair": ["a", "b"],
    "table": {"x": {"y": {"number": 0.5, "count": 7}}},
    "score": None,
    "note": "said",
}


def test_a_record_is_written_plainly_and_read():
    assert to_json(WHOLE) == PLAIN
    found = from_json(Whole, PLAIN)
    assert found == WHOLE
    assert type(found.pair) is tuple and type(found.parts) is list


def test_what_is_none_by_default_is_left_out_and_may_lack():
    without = Whole(**{**vars(WHOLE), "note": None})
    assert "note" not in to_json(without) and to_json(without)["score"] is None
    assert from_json(Whole, to_json(without)) == without
    assert from_json(Part, {"number": 1}) == Part(1, 3)
    assert from_json(Whole, PLAIN | {"another": 1}) == WHOLE  # of a newer version


def test_nan_becomes_none():
    assert to_json([nan, 0.0, (nan,), {"x": nan}, True, "nan"]) == [
        *(None, 0.0, [None]),
        *({"x": None}, True, "nan"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": 1}, "expected text to be text, found '1'"),
        ({"text": None}, "expected text to be text, found 'None'"),
        ({"parts": {}}, "expected parts to be a list, found '{}'"),
        ({"pair": "ab"}, "expected pair to be a list, found 'ab'"),
        ({"pair": ["a", 1]}, "expected pair[1] to be text, found '1'"),
        ({"table": []}, "expected table to be an object, found '[]'"),
        ({"table": {"x": 1}}, "expected table.x to be an object, found '1'"),
        ({"table": {"x": {"y": {}}}}, "there is no table.x.y.number"),
        ({"parts": [{"number": "1"}]}, "expected parts[0].number to be a number, found '1'"),
        ({"parts": [{"number": True}]}, "expected parts[0].number to be a number, found 'True'"),
        ({"parts": [{"number": 1, "count": 2.5}]}, "parts[0].count to be a number, found '2.5'"),
        ({"parts": [{"number": 1, "count": False}]}, "parts[0].count to be a number, found 'Fal"),
        ({"score": "x" * 99}, f"expected score to be a number, found '{'x' * 40}'"),
        ({"note": 1}, "expected note to be text, found '1'"),
    ],
)
def test_a_wrong_value_is_named(changes, message):
    with pytest.raises(ValueError) as raised:
        from_json(Whole, PLAIN | changes)
    assert message in str(raised.value)


def test_the_outermost_value_has_a_name_of_its_own():
    with pytest.raises(ValueError, match=r"^expected it to be an object, found '3'$"):
        from_json(Part, 3)
    with pytest.raises(ValueError, match=r"^expected results to be an object, found '3'$"):
        from_json(Part, 3, "results")
    with pytest.raises(ValueError, match=r"^there is no results\.number$"):
        from_json(Part, {}, "results")
    with pytest.raises(ValueError, match=r"^there is no text$"):
        from_json(Whole, {})


def test_names_in_a_list_of_plain_values_are_read_as_they_are():
    assert from_json(Whole, PLAIN | {"pair": []}).pair == ()
    with pytest.raises(ValueError, match=r"pair\[0\] to be text"):
        from_json(Whole, PLAIN | {"pair": [1, 2]})


# Files


def test_a_file_holds_the_record_and_its_hash(tmp_path):
    path = tmp_path / "folder" / "record.json"
    write_json(path, WHOLE)
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    assert list(content) == [*PLAIN, "sha256"]
    assert content.pop("sha256") == json_hash(PLAIN) and content == PLAIN
    assert text.count("\n") == 1 and text.endswith("}\n")
    assert read_json(path) == PLAIN
    write_json(path, WHOLE, indent=1)
    assert path.read_text(encoding="utf-8").splitlines()[1].startswith(' "text"')
    assert read_json(path) == PLAIN


def test_the_order_of_entries_does_not_matter():
    assert json_hash({"a": 1, "b": [1, 2]}) == json_hash({"b": [1, 2], "a": 1})
    assert len({json_hash(value) for value in ({"a": 1}, {"a": 2}, {"b": 1}, [1, 2], [2, 1])}) == 5


def test_another_content_is_refused_and_one_without_hash_taken(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, WHOLE)
    path.write_text(path.read_text().replace("said", "sAid"))
    error = "^its content does not have the SHA-256 that was written with it$"
    with pytest.raises(ValueError, match=error):
        read_json(path)
    path.write_text(json.dumps(PLAIN))
    assert read_json(path) == PLAIN
    path.write_text(json.dumps(PLAIN | {"sha256": ""}))
    with pytest.raises(ValueError, match=error):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[]", "^it is no object$"), (b"[" * 100_000, "^it is nested too deeply$"), (b"\xff", "utf")],
)
def test_what_is_no_record_is_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "x.json")


# Columns

COLUMNS = {"b": np.array([1.0, nan, 3.0]), "a": np.arange(6.0).reshape(2, 3)}


def test_columns_say_what_is_wrong_with_them(tmp_path):
    path = tmp_path / "folder" / "x.safetensors"
    write_columns(path, {"said": 1}, COLUMNS)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"said", b"sAid"))
    with pytest.raises(
        ValueError, match=r"^its content does not have the SHA-256 that was written with it$"
    ):
        read_columns(path)
    path.write_bytes(content[:20])
    with pytest.raises(ValueError, match="header"):
        read_columns(path)
    with pytest.raises(OSError):
        read_columns(Path(tmp_path / "nothing"))


def test_columns_without_a_hash_are_refused(tmp_path):
    save_file({"about": np.zeros(2, np.uint8)}, tmp_path / "x")
    with pytest.raises(ValueError, match="SHA-256"):
        read_columns(tmp_path / "x")


def test_columns_of_any_layout_in_memory_are_written(tmp_path):
    turned = {"turned": np.arange(6.0).reshape(2, 3).T, "every other": np.arange(6.0)[::2]}
    write_columns(tmp_path / "x", None, turned)
    _, found = read_columns(tmp_path / "x")
    assert {name: column.tolist() for name, column in found.items()} == {
        "turned": [[0, 3], [1, 4], [2, 5]], "every other": [0, 2, 4]
    }  # fmt: skip


def test_a_hash_of_columns_knows_names_types_shapes_and_values():
    first = columns_hash(COLUMNS)
    assert len(first) == 64
    assert columns_hash(dict(reversed(COLUMNS.items()))) == first
    assert columns_hash(COLUMNS | {"a": np.asfortranarray(COLUMNS["a"])}) == first
    others = [
        {"c": COLUMNS["b"], "a": COLUMNS["a"]},
        COLUMNS | {"a": COLUMNS["a"].reshape(3, 2)},
        COLUMNS | {"a": COLUMNS["a"].view(np.int64)},
        COLUMNS | {"a": COLUMNS["a"] + 1e-9},
    ]
    assert len({first, *map(columns_hash, others)}) == 5
