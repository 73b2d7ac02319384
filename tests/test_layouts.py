"""The layouts that ship: a tiny tree of each, with the traps of the published set."""

import json

import numpy as np
import pytest
from conftest import check_all, make_tree
from data_trees import TREES, box, casia2, mani, photo, save

from declip_pl import cli
from declip_pl.data.check import check_data, counted
from declip_pl.data.index import DataIndex
from declip_pl.data.info import all_facts
from declip_pl.data.layout import (
    REAL,
    SPLITS,
    Sample,
    build_layout,
    find_samples,
    left_out_line,
    mask_rule,
)
from declip_pl.data.layouts.listed import hashed_split
from declip_pl.data.masks import read_mask, wholly_fake
from declip_pl.errors import UserError


@pytest.fixture
def make(tmp_path):
    """Write the tree of a layout and read it."""

    def built(name, **options):
        (tmp_path / name).mkdir()
        root = TREES[name](tmp_path / name)
        return build_layout({"class_path": name, "init_args": options}, root)

    return built


def found(layout, split, generator):
    """Return the samples of a generator by name, all of which can be used."""
    samples, problems = find_samples(layout, split, generator)
    assert not problems
    assert len({sample.name for sample in samples}) == len(samples)
    return {sample.name: sample for sample in samples}


def mask_of(layout, sample):
    return read_mask(sample.mask, sample.mask_rule or mask_rule(layout))


def same(mask, expected):
    return mask.shape == expected.shape and (mask == expected).all()


def checked(layout):
    names = [*layout.generators(), REAL]
    wanted = {split: [n for n in names if any(s.generator == n for s in layout.samples(split))]
              for split in SPLITS}  # fmt: skip
    return check_data(layout, wanted, mask_rule(layout), DataIndex(layout.root), progress=False)


def test_each_tree_passes_the_check(make):
    for name in TREES:
        report = checked(make(name))
        assert not report.errors, (name, report.errors)


def test_autosplice(make):
    layout = make("autosplice")
    assert layout.generators() == ["dalle2-jpeg100", "dalle2-jpeg75", "dalle2-jpeg90"]
    fakes = found(layout, "test", "dalle2-jpeg75")
    assert {name: sample.source for name, sample in fakes.items()} == {
        "10_0": "10", "10_1": "10", "20_0": "20",
    }  # fmt: skip
    assert fakes["10_0"].mask == fakes["10_1"].mask
    assert same(mask_of(layout, fakes["20_0"]), box(1))
    assert set(found(layout, "test", REAL)) == {"10", "20"}


def test_autosplice_names_a_forgery_without_mask_and_a_mask_without_forgery(make, tmp_path):
    root = make("autosplice").root
    (root / "Mask/20_mask.png").rename(root / "Mask/30_mask.png")
    _, problems = find_samples(build_layout("autosplice", root), "test", "dalle2-jpeg75")
    assert any("20_0.jpg: there is no mask 20_mask" in line for line in problems)
    assert any("30_mask.png: no photo has this mask" in line for line in problems)


def test_cocoglide_pairs_by_the_number_of_the_photo(make):
    layout = make("cocoglide")
    fakes, reals = found(layout, "test", "glide"), found(layout, "test", REAL)
    assert set(fakes) == set(reals) == {"7", "31"}
    assert fakes["7"].mask.name == "dining table_7_mask.png"
    assert reals["7"].image.name == "dining table_7.png"
    assert same(mask_of(layout, fakes["31"]), box(31))


def test_cocoglide_names_a_number_that_two_photos_have(make):
    root = make("cocoglide").root
    photo(root / "real/dog_7.png")
    assert "the same COCO number" in str(checked(build_layout("cocoglide", root)).errors)


def test_tgif_takes_the_mask_of_the_size_that_the_forgery_has(make):
    layout = make("tgif")
    assert layout.generators() == ["ps-sp", "sd2-fr", "sd2-sp"]
    for split in SPLITS:
        spliced, whole = found(layout, split, "sd2-sp"), found(layout, split, "sd2-fr")
        names = {f"134886-{kind}-{k}" for kind in ("segm", "bbox") for k in range(2)}
        assert set(spliced) == set(whole) == set(found(layout, split, "ps-sp")) == names
        assert same(mask_of(layout, spliced["134886-bbox-1"]), box(1, 48))
        assert same(mask_of(layout, whole["134886-segm-0"]), box(2, 32))
        assert {s.source for s in spliced.values()} == {"134886"}
        assert set(found(layout, split, REAL)) == {"134886", "134886-512"}


def test_tgif_does_not_take_a_mask_of_another_size(make):
    root = make("tgif").root
    (root / "masks/testing/hair drier/134886_mask_segm_512.png").unlink()
    photo(root / "SD2-fr/testing/other.png")
    layout = build_layout("tgif", root)
    _, problems = find_samples(layout, "test", "sd2-fr")
    assert sum("there is no mask 134886_mask_segm_512" in line for line in problems) == 2
    assert any("other.png: there is no mask" in line for line in problems)


def test_bfree(make):
    layout = make("bfree")
    assert len(layout.generators()) == 6 and not layout.samples("test")
    number = "000000000002"
    same_category = found(layout, "train", "inpainted_samecat_origBG")[number]
    other_category = found(layout, "train", "inpainted_diffcat")[number]
    assert same(mask_of(layout, same_category), box(2))
    assert same(mask_of(layout, other_category), box(5))
    whole = found(layout, "valid", "selfconditioned")["000000000003"]
    assert whole.mask_rule is wholly_fake and mask_of(layout, whole).all()
    pasted = found(layout, "valid", "selfconditioned_origBG")["000000000003"]
    assert same(mask_of(layout, pasted), box(3))


def test_bfree_names_what_its_lists_name_and_is_not_there(make):
    root = make("bfree").root
    (root / "mask/000000000001.png").unlink()
    (root / "COCO_real_512/000000000002.png").unlink()
    errors = checked(build_layout("bfree", root)).errors
    assert any("there is no mask" in line and "mask/000000000001" in line for line in errors)
    assert any("there is no photo" in line and "000000000002" in line for line in errors)
    (root / "train_list.csv").write_text("name\n1\n")
    with pytest.raises(UserError, match="no column id"):
        build_layout("bfree", root)


@pytest.mark.parametrize("name", ["imdl-mani", "brgen"])
def test_mani_pairs_by_name(make, name):
    layout = make(name, splits="test")
    fakes = found(layout, "test", "tampered")
    assert same(mask_of(layout, fakes["photo1"]), box(1))
    assert set(found(layout, "test", REAL)) == {"au0", "au1"}
    assert not layout.notices()


def test_mani_pairs_by_place_only_where_no_name_fits_and_says_so(make):
    root = make("imdl-mani").root
    for number in range(2):
        there = next((root / "Gt").glob(f"photo{number}*"))
        there.rename(root / f"Gt/m{number}.png")
    layout = build_layout({"class_path": "imdl-mani", "init_args": {"splits": "test"}}, root)
    assert same(mask_of(layout, found(layout, "test", "tampered")["photo1"]), box(1))
    assert any("by their place" in line for line in checked(layout).warnings)
    photo(root / "Tp/photo9.jpg")  # then nothing tells which masks are whose
    assert "there is no mask photo9" in str(checked(build_layout("imdl-mani", root)).errors)


def test_mani_has_splits_where_its_folder_has_them(tmp_path):
    for part in ("train", "val", "test"):
        mani(tmp_path / part)
    layout = build_layout("imdl-mani", tmp_path)
    assert all(len(found(layout, split, "tampered")) == 2 for split in SPLITS)


def test_json(make):
    layout = make("imdl-json", splits="test")
    ((name, fake),) = found(layout, "test", "tampered").items()
    assert name == "Tp/photo0" and same(mask_of(layout, fake), box(0))
    assert set(found(layout, "test", REAL)) == {"Au/au0"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[\n[1, 2]\n", "line 3: no JSON"),
        ('{"a": 1}', "holds no list"),
        ('[["a.jpg", "b.png"], ["c.jpg"]]', r"entry 2 is \['c.jpg'\]"),
        ('[["a.jpg", ""]]', "entry 1"),
    ],
)
def test_json_errors_name_the_place(tmp_path, text, said):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(UserError, match=said):
        build_layout("imdl-json", tmp_path / "list.json")


def test_json_names_files_that_are_not_there(tmp_path):
    (tmp_path / "test.json").write_text(json.dumps([["a.jpg", "b.png"]]))
    layout = build_layout("imdl-json", tmp_path)
    _, problems = find_samples(layout, "test", "tampered")
    assert problems[0].startswith(f"{tmp_path / 'test.json'}, entry 1: there is no file")


def test_casia1(make):
    layout = make("casia1")
    assert layout.generators() == ["copy-move", "splicing"]
    spliced = found(layout, "test", "splicing")
    assert set(spliced) == {"ani0023"}  # the photo that the region was put into
    assert same(mask_of(layout, spliced["ani0023"]), box(0))  # of values 0 and 1
    assert same(mask_of(layout, found(layout, "test", "copy-move")["pla0016"]), box(1))
    assert set(found(layout, "test", REAL)) == {"ani0023", "pla0016"}
    assert "Thumbs.db" in left_out_line(layout, ["splicing"])
    assert any("0542" in line and "known defect" in line for line in checked(layout).warnings)


def test_casia2_is_split_by_source_and_its_misfits_are_named(make):
    layout = make("casia2")
    whole = make_all(layout)
    assert len(whole["splicing"]) == len(whole[REAL]) == 12
    for name, split in whole["splicing"].items():
        assert whole[REAL][name] == split == hashed_split(name)
    assert set(whole[REAL].values()) >= {"train"}
    warnings = checked(layout).warnings
    assert sum("another aspect ratio" in line for line in warnings) == 1
    assert not any("source photo" in line for line in warnings)


def make_all(layout):
    """Return the splits of all photos by generator and name."""
    names = [*layout.generators(), REAL]
    return {
        name: {s.name: split for split in SPLITS for s in layout.samples(split)
               if s.generator == name}
        for name in names
    }  # fmt: skip


def test_columbia_takes_green_for_fake(make):
    layout = make("columbia")
    ((_, fake),) = found(layout, "test", "splicing").items()
    assert np.mean(mask_of(layout, fake) == box(0, 64)) > 0.99  # the mask is a JPEG
    assert len(found(layout, "test", REAL)) == 1


def test_coverage(make):
    layout = make("coverage")
    fakes = found(layout, "test", "copy-move")
    assert set(fakes) == set(found(layout, "test", REAL)) == {"1", "41"}
    assert same(mask_of(layout, fakes["1"]), box(1))  # of the grey 130
    assert "readme.txt" not in left_out_line(layout, ["copy-move"])  # beside the folders
    assert any("41forged.tif" in line for line in checked(layout).warnings)


def test_nist16_reads_its_table(make):
    layout = make("nist16")
    fakes = found(layout, "test", "manipulated")
    assert set(fakes) == {"NC2016_0001", "NC2016_0002"}
    assert {sample.source for sample in fakes.values()} == {"base_7"}
    assert same(mask_of(layout, fakes["NC2016_0002"]), box())
    assert set(found(layout, "test", REAL)) == {"NC2016_0003"}
    by_source = build_layout({"class_path": "nist16", "init_args": {"splits": "hashed"}},
                             layout.root)  # fmt: skip
    assert {"base_7": hashed_split("base_7")} == {
        sample.source: split
        for split in SPLITS for sample in by_source.samples(split)
        if sample.generator == "manipulated"
    }  # fmt: skip


def test_nist16_errors_name_the_line(make):
    root = make("nist16").root
    table = root / "reference/manipulation/NC2016-manipulation-ref.csv"
    (root / "probe/NC2016_0002.jpg").unlink()
    _, problems = find_samples(build_layout("nist16", root), "test", "manipulated")
    assert problems == [f"{table}, line 3: there is no file {root / 'probe/NC2016_0002.jpg'}"]
    table.write_text("a|b\n1|2\n")
    with pytest.raises(UserError, match="line 2: there is no column ProbeFileName"):
        build_layout("nist16", root)
    table.unlink()
    with pytest.raises(UserError, match=r"there is no file .*-ref.csv; expected"):
        build_layout("nist16", root)


def test_imd2020_has_several_forgeries_of_a_photo(make):
    layout = make("imd2020")
    fakes = found(layout, "test", "real-life")
    assert {name: sample.source for name, sample in fakes.items()} == {
        "1a07yi/c8tf5mq_0": "1a07yi", "1a07yi/c8u2q9_0": "1a07yi", "z14/00030_fake": "z14",
    }  # fmt: skip
    assert same(mask_of(layout, fakes["1a07yi/c8u2q9_0"]), box(1))
    assert set(found(layout, "test", REAL)) == {"1a07yi", "z14"}


def test_dso1_takes_black_for_fake(make):
    layout = make("dso1")
    assert same(mask_of(layout, found(layout, "test", "splicing")["splicing-09"]), box())
    assert set(found(layout, "test", REAL)) == {"normal-01"}


def test_coco_sd_is_dolos_with_white_masks(tmp_path):
    root = make_tree(tmp_path / "coco-sd", ("ldm",))
    for layout, share in (("dolos", 0.17), ("coco-sd", 0.83)):
        made = build_layout(layout, root)
        masks = [mask_of(made, s) for s in found(made, "test", "ldm").values()]
        assert np.mean(masks) == pytest.approx(share, abs=0.02)


def test_opensdi_says_that_it_is_unpacked_first(tmp_path):
    with pytest.raises(UserError, match=f"convert opensdi {tmp_path} FOLDER"):
        build_layout("opensdi", tmp_path)


@pytest.mark.parametrize("name", sorted({*TREES} - {"imdl-json", "manifest", "brgen"}))
def test_a_folder_that_is_laid_out_otherwise_is_told_what_was_expected(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match="; expected ") as caught:
        build_layout(name, tmp_path)
    assert all_facts()[name].layout in str(caught.value)


def test_a_link_to_nothing_and_a_name_twice_are_problems(tmp_path):
    root = casia2(tmp_path / "casia2")
    (root / "Tp/lost.jpg").symlink_to(root / "nowhere.jpg")
    photo(root / "Au/twice/Au_art_0001001.png")
    errors = checked(build_layout("casia2", root)).errors
    assert any("lost.jpg: a link to nothing" in line for line in errors)
    assert any("the same name as" in line and "twice" in line for line in errors)


def test_splits_of_a_set_without_any_can_be_chosen(make):
    layout = make("casia2", splits="test")
    assert len(layout.samples("test")) == 24 and not layout.samples("train")
    with pytest.raises(UserError, match="expected test or hashed"):
        make("coverage", splits="mine")


def test_hashed_splits_are_of_the_promised_sizes():
    counts = dict.fromkeys(SPLITS, 0)
    for number in range(2000):
        counts[hashed_split(f"photo {number}")] += 1
    assert 1500 < counts["train"] < 1700 and 150 < counts["valid"] < 250


def test_the_check_counts(make):
    layout = make("casia1")
    assert counted(layout) == [
        "CASIA v1.0: photos of splicing: 1 can be used, 461 are expected",
        "CASIA v1.0: photos of copy-move: 1 can be used, 459 are expected",
        "CASIA v1.0: photos of real: 2 can be used, 800 are expected",
    ]
    assert counted(make("manifest")) == []
    autosplice = make("autosplice")
    for folder in ("Forged_JPEG75", "Forged_JPEG90"):
        for path in (autosplice.root / folder).iterdir():
            path.unlink()
    lines = counted(build_layout("autosplice", autosplice.root))
    assert lines[-1] == "AutoSplice: no photo of dalle2-jpeg75, dalle2-jpeg90"


def test_the_check_names_a_source_in_two_splits(tmp_path):
    for split in ("train", "test"):
        photo(tmp_path / f"{split}.jpg")
        save(tmp_path / f"{split}.png", box())
    lines = [f"{split}.jpg,{split}.png,{split},photo 1" for split in ("train", "test")]
    (tmp_path / "list.csv").write_text("\n".join(["image,mask,split,source", *lines]))
    report = checked(build_layout("manifest", tmp_path / "list.csv"))
    assert "source photo photo 1: 1 in train, 1 in test" in report.warnings


def test_data_check_reads_layout_and_path(make, capsys):
    layout = make("coverage")
    cli.main(["data", "check", f"coverage:{layout.root}"])
    printed = capsys.readouterr().out
    assert "6 files decoded" in printed and "2 can be used, 100 are expected" in printed
    assert "41forged.tif" in printed


def test_a_name_that_two_test_photos_of_a_generator_have_is_refused(tmp_path):
    class Twice:
        root, polarity = tmp_path, "white"

        def generators(self):
            return ["ldm"]

        def samples(self, split):
            return [Sample("a", tmp_path / f"{n}.png", tmp_path / "m.png", "ldm") for n in "12"]

    assert "2 test photos of ldm are called 'a'" in find_samples(Twice(), "test", "ldm")[1][0]
    assert not find_samples(Twice(), "train", "ldm")[1]


def test_every_layout_has_a_tree_here():
    assert set(all_facts()) == {*TREES, "dolos", "coco-sd", "opensdi"}


def test_info_tells_of_each_layout(capsys):
    cli.main(["data", "info"])
    listed = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{listed}" for name in all_facts())
    cli.main(["data", "info", "autosplice", "casia2"])
    told = capsys.readouterr().out
    assert "a form" in told and "3,621 of dalle2-jpeg75" in told and "17 masks" in told
    assert "not found; ask its authors" in told  # CASIA's licence


def test_info_of_an_unknown_layout_names_those_that_there_are(error_of):
    said = error_of("data", "info", "cassia")
    assert "there is no data layout 'cassia'" in said and "casia1" in said


def test_check_all_reads_own_rules_of_samples(make):
    layout = make("manifest")
    report = check_all(layout, ["brush"], "white")
    assert not any("are fake" in line for line in report.warnings)
