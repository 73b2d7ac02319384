"""LAYOUT:PATH wherever a data set is named, and paths with colons as paths."""

import shutil
from pathlib import Path

import pytest
from conftest import find, make_tree
from data_trees import TREES, casia1, columbia

from declip_pl import cli
from declip_pl.cross_eval.matrix import read_matrix
from declip_pl.cross_eval.plan import choose_data_sets, read_data_sets
from declip_pl.data.layout import REAL, SPLITS
from declip_pl.data.layouts.manifest import Row, write_manifest
from declip_pl.data.place import Place, read_place, read_places
from declip_pl.errors import UserError
from declip_pl.training.recipe import Options, choose_data


@pytest.mark.parametrize(
    ("named", "root", "layout"),
    [
        ("/data/casia", "/data/casia", None),
        ("casia1:/data/casia", "/data/casia", "casia1"),
        ("coco-sd:data", "data", "coco-sd"),
        ("manifest:C:\\lists\\b.csv", "C:\\lists\\b.csv", "manifest"),
        ("C:\\data\\dolos", "C:\\data\\dolos", None),
        ("D:dolos", "D:dolos", None),
        ("/data/12:30", "/data/12:30", None),
        ("none", "none", None),
    ],
)
def test_names_of_data_sets(named, root, layout):
    assert read_place(named) == Place(Path(root), layout)
    assert read_place(str(read_place(named))) == read_place(named)


def test_what_exists_is_a_path_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "casia1:here").mkdir()
    assert read_place("casia1:here") == Place(Path("casia1:here"))
    shutil.rmtree(tmp_path / "casia1:here")
    assert read_place("casia1:here") == Place(Path("here"), "casia1")


def test_the_home_folder_may_stand_behind_the_layout(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert read_place("manifest:~/b.csv").root == Path("/home/somebody/b.csv")


def test_a_layout_that_there_is_not_is_named():
    with pytest.raises(UserError, match="did you mean casia1:/data"):
        read_place("cassia1:/data")
    with pytest.raises(UserError, match="data info lists all"):
        read_place("zzz:/data")


def test_a_users_own_layout_may_stand_before_the_path(monkeypatch):
    monkeypatch.setenv("DECLIP_PARTS", str(Path(__file__).parents[1] / "docs/parts/my_layout.py"))
    assert read_place("my_layout.TableLayout:x").layout == "my_layout.TableLayout"


def test_several_names_are_separated_by_blanks(tmp_path):
    for name in ("a", "b", "a b"):
        (tmp_path / name).mkdir()
    a, b = tmp_path / "a", tmp_path / "b"
    assert read_places(f"dolos:{a}  {b}") == [f"dolos:{a}", str(b)]
    assert read_places(str(tmp_path / "a b")) == [str(tmp_path / "a b")]
    assert read_places(f"{a} {tmp_path}/c") == [f"{a} {tmp_path}/c"]
    assert read_places(f"nothing:{a} {b}") == [f"nothing:{a} {b}"]


def test_the_environment_may_name_a_layout(monkeypatch):
    monkeypatch.setenv("DECLIP_DATA", "columbia:/c")
    assert choose_data(None)[0] == Place(Path("/c"), "columbia")
    assert choose_data("/d")[0] == Place(Path("/d"))


def test_sets_of_other_layouts_are_read_as_these_say(tmp_path, tree):
    a, b = casia1(tmp_path / "casia"), columbia(tmp_path / "columbia")
    options, places = choose_data_sets(
        Options(data=f"casia1:{a} columbia:{b}", polarity="black"), f"dolos:{tree}"
    )
    assert options.layout == "casia1"
    assert [str(place) for place in places] == [f"casia1:{a}", f"columbia:{b}", f"dolos:{tree}"]
    first, second, third = read_data_sets(options, None, places, "none")
    assert first.mask_rule == "black" and callable(second.mask_rule)
    assert third.mask_rule == "black" and second.generators == ["splicing"]
    options, places = choose_data_sets(Options(data=f"columbia:{b}"), str(b))
    with pytest.raises(UserError, match="scored on already"):
        read_data_sets(options, None, places, "none")


def test_a_manifest_trains_and_is_in_one_report_with_sets_of_other_layouts(
    tmp_path, clip, fit_arguments, monkeypatch, blank_plots
):
    monkeypatch.chdir(tmp_path)
    root = make_tree(tmp_path / "home", ("ldm",), {"train": 4, "valid": 2, "test": 2})
    rows = [
        Row(str(s.image), str(s.mask or ""), name, split, s.name, "black")
        for split in SPLITS
        for name in ("ldm", REAL)
        for s in find(root, name, split)
    ]
    whole = Row(rows[0].image, "all", "ldm", "train", "0")  # no obstacle to training
    write_manifest(tmp_path / "b.csv", [*rows, whole])
    cli.main(fit_arguments(data__root="manifest:b.csv", run__root="runs", run__name="run"))
    assert "nan" not in Path("runs/run/metrics.csv").read_text()
    other = columbia(tmp_path / "columbia")
    sets = f"manifest:b.csv dolos:{root}"
    cli.main(["evaluate", "runs/run", "--data", sets, f"--also=columbia:{other}", "--name=x"])
    folders = sorted(Path("outputs/cross_eval").iterdir())
    matrices = {m.data.name: m for m in map(read_matrix, folders)}
    assert {name: set(m.data.tests) for name, m in matrices.items()} == {
        "b.csv": {"ldm", "real"}, "home": {"ldm", "real"}, "columbia": {"splicing", "real"}
    }  # fmt: skip
    listed, tree = matrices["b.csv"], matrices["home"]
    assert listed.matrix == tree.matrix  # of the same photos
    shown = Path("outputs/cross_eval/x/domains.csv").read_text()
    assert all(name in shown for name in matrices)
    cli.main(["test", "runs/run", f"--data=columbia:{other}", "--generator=splicing"])
    assert list(Path("runs/run").glob("test_metrics_columbia*.json"))


@pytest.mark.slow  # a report for each of them
def test_one_command_trains_and_scores_on_a_tree_of_each_layout(
    tmp_path, clip, monkeypatch, blank_plots, capsys
):
    monkeypatch.chdir(tmp_path)
    make_tree(tmp_path / "home", ("ldm",), {"train": 4, "valid": 2, "test": 2})
    named = []
    for name, make in TREES.items():
        (tmp_path / name).mkdir()
        named.append(f"{name}:{make(tmp_path / name)}")
        cli.main(["data", "check", named[-1]])
    options = [f"--encoder={clip}", "--layer=layer1", "--decoder=linear", "--config=tiny.yaml"]
    Path("tiny.yaml").write_text(
        "model: {image_size: 64}\ndata: {batch_size: 4, num_workers: 0}\n"
        "trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, logger: false}"
    )
    also = ",".join(named)
    with pytest.raises(SystemExit) as stop:  # some trees have photos for training alone
        cli.main(["cross-eval", "--data=home", f"--also={also}", "--name=all", *options])
    failures = str(stop.value).splitlines()[1:-1]
    assert failures and all("no test photo of" in line for line in failures)
    untested = {"bfree", "brgen", "imdl-mani"}
    assert {line.split()[2].rstrip(":") for line in failures} == untested
    matrices = [read_matrix(folder) for folder in Path("outputs/cross_eval").iterdir()]
    listed = {"manifest", "imdl-json"}  # called by their file
    assert {matrix.data.name for matrix in matrices} >= TREES.keys() - untested - listed
    for matrix in matrices:  # every generator with test photos has a score
        tests = {name for name in matrix.data.tests if name != "real"}
        scored = matrix.matrix.get("iou", {})
        assert all(set(cells) == tests for cells in scored.values())
        assert scored or matrix.data.name in untested
    shown = Path("outputs/cross_eval/all/domains.csv").read_text()
    assert all(name in shown for name in {m.data.name for m in matrices} - untested)
