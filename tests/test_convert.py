"""Conversion: whatever a data set's layout, the same photos and masks come out."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import left
from data_trees import TREES, box, casia1, columbia, manifest, photo, save
from PIL import Image

from declip_pl import cli
from declip_pl.data.images import read_photo
from declip_pl.data.layout import REAL, SPLITS, build_layout, find_samples, mask_rule
from declip_pl.data.layouts.manifest import Row, read_manifest, write_manifest
from declip_pl.data.masks import read_mask


def content(layout):
    """Return all photos of a data set with their masks, by split and generator, in any order."""
    found = {}
    for split in SPLITS:
        for name in [*layout.generators(), REAL]:
            samples, problems = find_samples(layout, split, name)
            assert not samples or not problems
            for s in samples:
                rule = s.mask_rule or mask_rule(layout)
                mask = None if s.mask is None else read_mask(s.mask, rule).tobytes()
                found.setdefault((split, name), []).append((read_photo(s.image).tobytes(), mask))
    return {key: sorted(photos, key=str) for key, photos in found.items()}


@pytest.mark.parametrize("name", sorted(TREES))
@pytest.mark.parametrize("target", ["folder", "list.csv", "list.jsonl"])
def test_every_layout_is_converted(tmp_path, name, target, capsys):
    (tmp_path / "source").mkdir()
    source, dest = TREES[name](tmp_path / "source"), tmp_path / "made" / target
    cli.main(["data", "convert", name, str(source), str(dest)])
    layout = "dolos" if target == "folder" else "manifest"
    assert content(build_layout(layout, dest)) == content(build_layout(name, source))
    prefix = "" if target == "folder" else "manifest:"
    assert f"DATA={prefix}{dest}" in capsys.readouterr().out
    assert not [path for path in dest.parent.iterdir() if path.name.startswith(".unfinished")]


def test_photos_are_links_and_copies_only_if_asked(tmp_path):
    source = casia1(tmp_path / "casia")
    cli.main(["data", "convert", "casia1", str(source), str(tmp_path / "links")])
    cli.main(["data", "convert", "casia1", str(source), str(tmp_path / "copies"), "--copy"])
    photos = set((tmp_path / "links").rglob("*.jpg"))
    assert photos and all(path.is_symlink() for path in photos)
    assert all(path.resolve().is_relative_to(source) for path in photos)
    copies = [path for path in (tmp_path / "copies").rglob("*") if path.suffix in (".jpg", ".png")]
    assert len(copies) == 6 and not any(path.is_symlink() for path in copies)


def test_a_manifest_names_paths_from_its_own_folder_and_makes_few_files(tmp_path):
    (tmp_path / "own").mkdir()
    source, dest = manifest(tmp_path / "own"), tmp_path / "lists/made.csv"
    cli.main(["data", "convert", "manifest", str(source), str(dest)])
    rows = [row for _, row in read_manifest(dest)]
    assert left(dest.parent) == ["made.csv"]
    assert {row.image for row in rows} == {f"../own/{name}.jpg" for name in "abcd"}
    assert {row.mask for row in rows} == {"", "all", "../own/b.png", "../own/d.png"}
    assert {row.polarity for row in rows if row.mask.endswith("d.png")} == {"black"}
    (tmp_path / "own").rename(tmp_path / "moved")
    assert find_samples(build_layout("manifest", dest), "test", REAL)[1]


def test_masks_that_no_manifest_can_describe_are_written_beside_it(tmp_path):
    dest = tmp_path / "made.jsonl"
    source = columbia(tmp_path / "columbia")
    cli.main(["data", "convert", "columbia", str(source), str(dest)])
    (fake,) = [row for _, row in read_manifest(dest) if row.mask]
    assert fake.mask.startswith("made_files/masks/splicing/test/") and fake.polarity == "white"
    assert sorted(left(tmp_path)) == ["columbia", "made.jsonl", "made_files"]
    cli.main(["data", "convert", "columbia", str(source), str(dest), "--copy", "--overwrite"])
    assert all(row.image.startswith("made_files/images") for _, row in read_manifest(dest))


def test_nothing_is_overwritten_unasked(tmp_path, error_of):
    source, dest = casia1(tmp_path / "casia"), tmp_path / "made"
    command = ["data", "convert", "casia1", str(source), str(dest)]
    cli.main(command)
    before = sorted(dest.rglob("*"))
    assert "is there already" in error_of(*command)
    (source / "Au/Au_ani_0023.jpg").unlink()
    cli.main([*command, "--overwrite"])
    assert len(sorted(dest.rglob("*"))) == len(before) - 1
    (dest / "converted.json").unlink()
    assert "was not made by this command" in error_of(*command, "--overwrite")
    (tmp_path / "own.csv").write_text("mine")
    assert "is there already" in error_of(*command[:-1], str(tmp_path / "own.csv"))
    assert "not replaced" in error_of(*command[:-1], str(tmp_path / "own.csv"), "--overwrite")
    assert (tmp_path / "own.csv").read_text() == "mine"
    listed = ["data", "convert", "casia1", str(source), str(tmp_path / "list.csv")]
    cli.main(listed)
    cli.main([*listed, "--overwrite"])
    again = ["data", "convert", "manifest", str(tmp_path / "list.csv"), str(tmp_path / "list.csv")]
    assert "is the data set" in error_of(*again, "--overwrite")


def test_a_conversion_that_fails_leaves_nothing(tmp_path, error_of):
    source = casia1(tmp_path / "casia")
    for path in source.rglob("*.png"):
        path.write_bytes(b"x")
    for path in (source / "Au").iterdir():
        path.unlink()
    said = error_of("data", "convert", "casia1", str(source), str(tmp_path / "made"))
    assert "no photo can be used" in said and said.count("is no photo: expected") == 2
    assert left(tmp_path) == ["casia"]


@pytest.mark.parametrize("target", ["made", "made.csv"])
def test_a_photo_with_a_damaged_mask_is_left_out_with_it(tmp_path, capsys, target):
    source, dest = casia1(tmp_path / "casia"), tmp_path / target
    damaged = next((source / "CASIA 1.0 groundtruth").rglob("Sp_D*.png"))
    damaged.write_bytes(b"x")
    cli.main(["data", "convert", "casia1", str(source), str(dest)])
    assert f"left out: {damaged} is no photo" in capsys.readouterr().out
    layout = build_layout("dolos" if target == "made" else "manifest", dest)
    assert layout.generators() == ["copy-move"] and len(layout.samples("test")) == 3


def test_what_cannot_be_used_is_named_and_left_out(tmp_path, capsys, error_of):
    source = TREES["coverage"](tmp_path / "coverage")
    (source / "mask/1forged.tif").unlink()
    cli.main(["data", "convert", "coverage", str(source), str(tmp_path / "made")])
    printed = capsys.readouterr().out
    assert "left out:" in printed and "there is no mask 1.*" in printed
    assert "3 photos (1 of copy-move, 2 of real)" in printed
    (tmp_path / "empty.csv").write_text("image,mask\na.jpg,\n")
    said = error_of("data", "convert", "manifest", str(tmp_path / "empty.csv"),
                    str(tmp_path / "x"))  # fmt: skip
    assert "no photo can be used" in said and "line 2" in said


def test_names_lead_nowhere_else(tmp_path):
    """A manifest of somebody else's may call its photos anything."""
    names = ["../../out", "/etc/out", ".hidden", "..", "a\\..\\b", "~", "same", "SAME"]
    for number, _ in enumerate(names):
        photo(tmp_path / f"{number}.jpg")
        save(tmp_path / f"{number}.png", box(number))
    write_manifest(
        tmp_path / "list.csv",
        [Row(f"{n}.jpg", f"{n}.png", "x", "test", name) for n, name in enumerate(names)],
    )
    dest = tmp_path / "deep/er/made"
    cli.main(["data", "convert", "manifest", str(tmp_path / "list.csv"), str(dest)])
    assert len(find_samples(build_layout("dolos", dest), "test", "x")[0]) == len(names)
    outside = [path for path in tmp_path.rglob("*") if "out" in path.name]
    assert outside and all(path.is_relative_to(dest) for path in outside)


def test_a_folder_inside_the_data_set_is_refused(tmp_path, error_of):
    source = casia1(tmp_path / "casia")
    said = error_of("data", "convert", "casia1", str(source), str(source / "made"))
    assert "is the data set or inside of it" in said and not (source / "made").exists()


def test_photos_of_any_name_are_photos_afterwards(tmp_path):
    photo(tmp_path / "a.jpg").rename(tmp_path / "a")
    write_manifest(tmp_path / "list.csv", [Row("a", "all", "x", "test")])
    cli.main(["data", "convert", "manifest", str(tmp_path / "list.csv"), str(tmp_path / "made")])
    (sample,) = find_samples(build_layout("dolos", tmp_path / "made"), "test", "x")[0]
    assert (read_photo(sample.image) == read_photo(tmp_path / "a")).all()


def test_the_polarity_may_be_said(tmp_path):
    source, dest = TREES["imd2020"](tmp_path / "imd"), tmp_path / "made"
    cli.main(["data", "convert", "imd2020", str(source), str(dest), "--polarity=black"])
    made = build_layout("dolos", dest)
    ones = find_samples(made, "test", "real-life")[0]
    assert any((read_mask(s.mask, mask_rule(made)) == ~box(1)).all() for s in ones)


def packed(path: Path, rows) -> None:
    from pyarrow import Table, parquet

    def cell(pixels, format_):
        if pixels is None:
            return None
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format_)
        return {"bytes": buffer.getvalue(), "path": "x"}

    path.parent.mkdir(parents=True, exist_ok=True)
    table = [
        {"key": key, "image": cell(image, "JPEG"), "mask": cell(mask, "PNG"), "label": label}
        for key, image, mask, label in rows
    ]
    parquet.write_table(Table.from_pylist(table), path)


@pytest.mark.parametrize("target", ["made", "made.csv"])
def test_opensdi_is_unpacked(tmp_path, target):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: parquet)")
    pixels = np.full((16, 24, 3), 90, np.uint8)
    mask = np.zeros((16, 24), np.uint8)
    mask[4:8, 4:8] = 255
    rows = [
        ("partial/sd15/fake/000651821.jpg", pixels, mask, 1),
        ("partial/sd15/real/000651821.jpg", pixels, None, 0),
        ("entire/sd15/fake/000000005.jpg", pixels, None, 1),
    ]
    packed(tmp_path / "opensdi/OpenSDI_test/data/sd15-00000-of-00001.parquet", rows)
    train = [(f"partial/sd15/fake/{n:09}.jpg", pixels, mask, 1) for n in range(30)]
    packed(tmp_path / "opensdi/OpenSDI_train/data/sd15-00000-of-00070.parquet", train)
    dest = tmp_path / target
    cli.main(["data", "convert", "opensdi", str(tmp_path / "opensdi"), str(dest)])
    layout = build_layout("dolos" if target == "made" else "manifest", dest)
    assert layout.generators() == ["sd15", "sd15-entire"]
    (partial,), (whole,), (real,) = (
        find_samples(layout, "test", name)[0] for name in ("sd15", "sd15-entire", REAL)
    )
    masks = [read_mask(s.mask, s.mask_rule or mask_rule(layout)) for s in (partial, whole)]
    assert masks[0].sum() == 16 and masks[1].all() and masks[1].shape == (16, 24)
    assert real.name == partial.name and real.mask is None
    assert partial.image.suffix == ".jpg" and not partial.image.is_symlink()
    sizes = {split: len(layout.samples(split)) for split in SPLITS}
    assert sizes["train"] + sizes["valid"] == 30 and sizes["valid"]


def test_opensdi_errors(tmp_path, error_of):
    source = tmp_path / "packed"
    convert = ["data", "convert", "opensdi", str(source), str(tmp_path / "made")]
    assert "holds no parquet file" in error_of(*convert)
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: parquet)")
    pixels = np.zeros((8, 8, 3), np.uint8)
    rows = [("a", pixels, pixels[..., 0], 7)]
    packed(source / "data/sd15-00000-of-00001.parquet", rows)
    assert "OpenSDI_train or OpenSDI_test" in error_of(*convert)
    (source / "data").rename(source / "test")
    assert "row 1: expected key, image, mask, label" in error_of(*convert)


def test_a_folder_says_what_it_was_made_of(tmp_path):
    cli.main(["data", "convert", "casia1", str(casia1(tmp_path / "c")), str(tmp_path / "made")])
    assert json.loads((tmp_path / "made/converted.json").read_text()) == {
        "layout": "casia1", "photos": {"copy-move": 1, "real": 2, "splicing": 1}
    }  # fmt: skip
