"""Names, cells and paths from elsewhere: what may be a folder, and what others get to see."""

import csv
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import declip_pl
from declip_pl import cli
from declip_pl.csv_files import write_csv
from declip_pl.data.layout import build_layout
from declip_pl.errors import UserError
from declip_pl.names import check_name, markdown, markdown_code
from declip_pl.privacy import all_without_folders, without_folders

OUTSIDE = [
    "../../x",
    "..",
    ".",
    "",
    "a/b",
    "/x",
    "a\\b",
    "a\x00b",
    "a\nb",
    "\x1b[2J",
    "\u202egpj.exe",
]
FORMULAS = ['=HYPERLINK("http://evil.example","x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1",
            "\uff1d1", "'=1"]  # fmt: skip

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FOLDER = st.text(string.ascii_letters + "éß -_.()[]+=&%#!", min_size=1, max_size=12).filter(
    lambda name: name.strip(".")
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_no_folders_name_is_refused(name):
    with pytest.raises(UserError, match="can't be a run's name: expected the name of one folder"):
        check_name(name, "a run's name")


@given(TEXT)
def test_a_checked_name_stays_inside_its_folder_and_on_its_line(name):
    try:
        checked = check_name(name, "a name")
    except UserError as error:
        assert str(error).isprintable()
        return
    assert checked == name and len(name.splitlines()) == 1
    assert (Path("/outputs") / name).resolve() == Path("/outputs").resolve() / name


@pytest.mark.parametrize(
    "arguments",
    [
        ("cross-eval", "--name=../../x"),
        ("cross-eval", "--name=.."),
        ("train", "--name=../../x"),
        ("train", "--name=/x"),
    ],
)
def test_no_option_writes_outside_outputs(arguments, tree, clip, tmp_path, monkeypatch, error_of):
    below = tmp_path / "a/b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    message = error_of(*arguments, f"--data={tree}", f"--encoder={clip}", "--layer=layer1",
                       "--decoder=linear")  # fmt: skip
    assert "expected the name of one folder" in message
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_no_test_writes_outside_outputs(fit_arguments, tmp_path, monkeypatch, error_of):
    monkeypatch.chdir(tmp_path)
    cli.main(fit_arguments())
    (run,) = (tmp_path / "outputs").iterdir()
    alone = run / "checkpoints/best.ckpt"
    alone = alone.rename(tmp_path / "alone.ckpt")
    before = set(tmp_path.rglob("*"))
    for command in ("test", "validate"):
        message = error_of(command, f"--config={run / 'config.yaml'}", f"--ckpt_path={alone}",
                           "--run.name=../../x")  # fmt: skip
        assert "'../../x' can't be a run's name" in message
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "\u202egpj"])
def test_a_generators_folder_needs_a_name_that_can_be_shown(own_tree, name):
    (own_tree / "fake/ldm").rename(own_tree / "fake" / name)
    with pytest.raises(UserError, match=r"can't be a generator's name \(in .*dolos\)"):
        build_layout("dolos", own_tree)


@given(TEXT)
def test_markdown_shows_a_name_as_it_is(name):
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    page = MarkdownIt("commonmark", {"html": True}).enable("table")
    for made in (markdown(name), markdown_code(name)):
        (before, inside, after), *more = cells(
            page, f"| | | |\n|---|---|---|\n| a | x{made}x | b |\n"
        )
        assert (before, inside.strip("x"), after, more) == ("a", shown.strip("x"), "b", [])
    assert "\n" not in markdown(name) + markdown_code(name)


def cells(page: MarkdownIt, source: str) -> list[list[str]]:
    """Return the rows of the only table in Markdown, without its head; nothing may stand below."""
    tokens = page.parse(source)
    assert (tokens[0].type, tokens[-1].type) == ("table_open", "table_close")
    inline = [token for token in tokens if token.type == "inline"][3:]
    texts = []
    for token in inline:
        allowed = {"text", "text_special", "code_inline"}
        assert {child.type for child in token.children} - {"html_inline"} <= allowed
        tags = [child.content for child in token.children if child.type == "html_inline"]
        assert tags in ([], ["<code>", "</code>"])
        texts.append("".join(c.content for c in token.children if c.type != "html_inline"))
    return [texts[start : start + 3] for start in range(0, len(texts), 3)]


@given(st.lists(st.tuples(st.one_of(TEXT, st.sampled_from(FORMULAS)), st.floats(), st.integers())))
def test_no_cell_is_a_formula_and_every_cell_can_be_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    write_csv(path, ("=name", "number", "n"), rows)
    with path.open(encoding="utf-8", newline="") as file:
        head, *found = csv.reader(file)
    assert head == ["'=name", "number", "n"] and len(found) == len(rows)
    for (text, number, n), (cell, *numbers) in zip(rows, found, strict=True):
        assert cell.removeprefix("'") == text
        assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))
        assert numbers == [repr(number), str(n)]


def test_there_is_no_other_writer_and_reader_of_csv():
    sources = Path(declip_pl.__file__).parent.rglob("*.py")
    assert [
        path.name for path in sources if re.search(r"^import csv|to_csv", path.read_text(), re.M)
    ] == ["csv_files.py"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_is_text(tmp_path, cell):
    write_csv(tmp_path / "t.csv", ["name", "number"], [[cell, -1.5], [None, 2]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [*csv.reader(file)][1:] == [["'" + cell, "-1.5"], ["", "2"]]


@given(
    st.lists(FOLDER, min_size=1, max_size=4),
    FOLDER,
    st.sampled_from(["/", "~/", "../", "file:///"]),
)
def test_a_text_names_no_folder(folders, name, start):
    path = start + "/".join([*folders, name])
    kept = without_folders(f"no photo in {path}")
    assert kept == f"no photo in {name}"
    assert all_without_folders({"a": [path]}) == {"a": [name]}


def test_paths_that_tell_nothing_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    for text in ("outputs/train/x", "https://example.org/a/b", "and/or 1/2", "--data=data/mini"):
        assert without_folders(text) == text
    assert without_folders(f"{tmp_path}/outputs/x: broken") == "outputs/x: broken"
    assert (
        without_folders("--data=/home/ann --encoder=RN50:/w/x.pt") == "--data=~ --encoder=RN50:x.pt"
    )
    assert without_folders("/home/anna/x, /home/ann") == "x, ~"
    assert all_without_folders([Path("/a/b, c/d"), "/home/ann", 3, None]) == ["d", "~", 3, None]
