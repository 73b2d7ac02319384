"""Manifests: whatever they list is read as they say, and what they can't say is told by line."""

import re
import string

import pytest
from conftest import find
from data_trees import box, manifest, photo, save
from hypothesis import given, settings
from hypothesis import strategies as st

from declip_pl.csv_files import read_cell, write_csv
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.layout import REAL, SPLITS, build_layout, find_samples, mask_rule
from declip_pl.data.layouts.manifest import Row, read_manifest, write_manifest
from declip_pl.data.masks import read_mask, wholly_fake
from declip_pl.errors import UserError

NAMES = st.text(
    st.characters(exclude_categories=(), exclude_characters="\0"), min_size=1, max_size=12
)
"""Names of all characters: lone surrogates stand for bytes that are not UTF-8."""


@st.composite
def row(draw, split: bool) -> Row:
    """Return a row that a manifest may have."""
    kind = draw(st.sampled_from(["real", "fake", "whole"]))
    mask = {"real": "", "whole": "all", "fake": draw(NAMES)}[kind]
    made = draw(st.sampled_from(["", REAL]) if kind == "real" else NAMES | st.just(""))
    return Row(
        draw(NAMES),
        mask,
        "" if made == REAL and mask else made,
        draw(st.sampled_from([*SPLITS, "val", "testing"])) if split else "",
        draw(NAMES | st.just("")),
        draw(st.sampled_from(["", "white", "black"])),
    )


ROWS = st.booleans().flatmap(lambda split: st.lists(row(split), min_size=1, max_size=5))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@given(rows=ROWS)
def test_what_is_written_is_read(tmp_path, suffix, rows):
    # Bytes that are not UTF-8 are the surrogates from U+DC80 on; others no file name has.
    rows = [Row(**{k: keep(v) for k, v in vars(r).items()}) for r in rows]
    path = tmp_path / f"list{suffix}"
    write_manifest(path, rows)
    assert [found for _, found in read_manifest(path)] == rows


def keep(text: str) -> str:
    """Return text without what the name of no file can hold."""
    return "".join(
        c for c in text if not ("\ud800" <= c < "\udc80" or (c > "\udcff" and c < "\ue000"))
    )


@settings(max_examples=50)
@given(rows=ROWS, junk=st.binary(max_size=40), cut=st.integers(0, 200))
def test_damage_of_any_kind_is_an_error_or_a_manifest(tmp_path, rows, junk, cut):
    path = tmp_path / "list.csv"
    write_manifest(path, [Row(**{k: keep(v) for k, v in vars(r).items()}) for r in rows])
    content = path.read_bytes()
    path.write_bytes(content[:cut] + junk + content[cut:])
    try:
        assert read_manifest(path)
    except UserError as error:
        assert str(path) in str(error)


@given(st.text(string.printable, max_size=6))
def test_a_cell_is_read_as_it_was_before_it_was_written(tmp_path, text):
    path = tmp_path / "table.csv"
    write_csv(path, ["a"], [[text]])
    marked = path.read_text("utf-8").split("\n", 1)[1]
    assert read_cell(text) == text or marked.lstrip('"').startswith("'")


def test_a_manifest_says_what_it_lists(tmp_path):
    layout = build_layout("manifest", manifest(tmp_path))
    assert layout.generators() == ["brush", "dream"]
    (real,), (brush,), (dream,) = (
        find_samples(layout, "test", name)[0] for name in (REAL, "brush", "dream")
    )
    assert real.name == brush.name == "photo 1" and dream.name == "c"
    masks = [read_mask(s.mask, s.mask_rule or mask_rule(layout)) for s in (brush, dream)]
    assert (masks[0] == box(1)).all() and masks[1].all() and dream.mask_rule is wholly_fake
    (inverted,) = find_samples(layout, "train", "brush")[0]
    assert (read_mask(inverted.mask, inverted.mask_rule) == box(2)).all()
    assert mask_rule(layout) == "white" and mask_rule(layout, "black") == "black"


def test_a_list_without_splits_is_split_by_source(tmp_path):
    rows = []
    for number in range(30):
        for version in range(2):
            name = f"{number}-{version}"
            photo(tmp_path / f"{name}.jpg")
            save(tmp_path / f"{name}.png", box(number))
            rows.append(Row(f"{name}.jpg", f"{name}.png", source=f"photo {number}"))
    write_manifest(tmp_path / "list.jsonl", rows)
    layout = build_layout("manifest", tmp_path / "list.jsonl")
    splits = {}
    for split in SPLITS:
        for sample in layout.samples(split):
            assert splits.setdefault(sample.source, split) == split
    assert set(splits.values()) == set(SPLITS) and not layout.notices()
    write_manifest(tmp_path / "list.csv", [Row(r.image, r.mask) for r in rows])
    assert "may be in two splits" in build_layout("manifest", tmp_path / "list.csv").notices()[0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["image,mask", "a.jpg"], "line 2: 1 cells under 2 columns"),
        (["image,mask,split", "a.jpg,,train", ",,test"], "line 3: no image is named"),
        (["image,mask,split", "a.jpg,,tset"], "line 2: split is 'tset'"),
        (["image,mask,split", "a.jpg,,test", "b.jpg,,"], "line 3: some rows have a split"),
        (["image,mask,polarity", "a.jpg,m.png,grey"], "line 2: polarity is 'grey'"),
        (["image,mask,generator", "a.jpg,m.png,real"], "line 2: generator is real"),
        (
            ["image,mask,generator", "a.jpg,,ldm"],
            "line 2: generator is 'ldm', and there is no mask",
        ),
        (["image,generator", "a.jpg,ldm"], "line 2: there is no column mask"),
        (["image,mask,genrator", "a.jpg,,"], "no column 'genrator'; did you mean generator"),
        (["image,mask,mask", "a.jpg,,"], "two columns 'mask'"),
        (["image,mask", '"a.jpg,'], "can't be read as CSV"),
        (["image,mask"], "lists no photo"),
    ],
)
def test_errors_name_the_line(tmp_path, lines, said):
    path = tmp_path / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    assert said in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: no JSON"),
        ("[1]", "line 1: expected an object"),
        ('{"image": 1, "mask": ""}', "line 1: image is 1, expected text"),
        ('{"image": "a\\u0000", "mask": null}', "line 1: image is"),
        ('{"image": "a"}', "line 1: there is no column mask"),
    ],
)
def test_errors_of_json_lines_name_the_line(tmp_path, line, said):
    (tmp_path / "list.jsonl").write_text(line)
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / "list.jsonl")
    assert said in str(caught.value)


def test_all_faults_are_named_at_once_and_many_are_counted(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("image,mask,split\n" + "a.jpg,,never\n" * 25)
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    assert "line 21" in str(caught.value) and "... and 5 more" in str(caught.value)


def test_files_that_are_not_there_are_problems_with_their_line(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("image,mask,split\na.jpg,,test\n")
    _, problems = find_samples(build_layout("manifest", path), "test", REAL)
    assert problems[0] == f"{path}, line 2: there is no file {tmp_path / 'a.jpg'}"


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_what_is_no_manifest_is_told_what_one_is(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"is no manifest; expected a file \.csv"):
        build_layout("manifest", tmp_path / name)


def test_a_manifest_that_is_not_there_is_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        build_layout("manifest", tmp_path / "list.csv")


def test_a_parquet_manifest_is_read(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: parquet)")
    from pyarrow import parquet

    rows = [{"image": "a.jpg", "mask": None, "split": "test", "width": 24},
            {"image": "b.jpg", "mask": "all", "split": "test", "width": 24}]  # fmt: skip
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "list.parquet")
    found = read_manifest(tmp_path / "list.parquet")
    assert [place for place, _ in found] == [
        f"{tmp_path / 'list.parquet'}, row {n}" for n in (1, 2)
    ]
    assert [vars(r) for _, r in found] == [
        vars(Row("a.jpg", split="test")), vars(Row("b.jpg", "all", split="test"))
    ]  # fmt: skip
    bytes_ = [{"image": {"bytes": b"x", "path": "a.jpg"}, "mask": ""}]
    parquet.write_table(arrow.Table.from_pylist(bytes_), tmp_path / "packed.parquet")
    with pytest.raises(UserError, match="holds the photos themselves"):
        read_manifest(tmp_path / "packed.parquet")
    (tmp_path / "list.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match="can't be read as parquet"):
        read_manifest(tmp_path / "list.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "list.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match=r"declip-pl\[parquet\]"):
        read_manifest(tmp_path / "list.parquet")


def as_manifest(tree, path):
    """List a tree in Dolos' layout, every mask inverted in words: the column polarity."""
    rows = []
    for split in SPLITS:
        for name in ("lama", "ldm", REAL):
            for sample in find(tree, name, split):
                mask = str(sample.mask) if sample.mask else ""
                rows.append(Row(str(sample.image), mask, name, split, sample.name, "black"))
    write_manifest(path, rows)
    return path


def test_polarity_and_wholeness_are_part_of_what_a_set_is(tmp_path, tree):
    path = as_manifest(tree, tmp_path / "list.csv")
    black = path.read_text()
    whole = re.sub(r",[^,]*,ldm,", ",all,ldm,", black)
    contents, prints = set(), set()
    for text in (black, black.replace(",black", ",white"), whole):
        path.write_text(text)
        data = LocalizationDataModule(f"manifest:{path}", "ldm")
        contents.add(data.content_sha256)
        prints.add(data.fingerprint)
    assert len(contents) == len(prints) == 3


def test_what_is_fake_as_a_whole_has_the_mask_of_its_photo(tmp_path):
    photo(tmp_path / "a.jpg", size=40)
    write_manifest(tmp_path / "list.csv", [Row("a.jpg", "all", "dream", "test")])
    data = LocalizationDataModule(f"manifest:{tmp_path}/list.csv", "dream")
    (test,) = data.test_sets()
    assert test[0]["mask"].shape == (40, 40) and test[0]["mask"].all() and test[0]["label"] == 1
    assert test.mask_bytes() == 1600 and [mask.shape for mask in test.masks()] == [(40, 40)]
