"""What README and pages say can be done: every command exists, every link leads somewhere."""

import importlib.util
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from declip_pl import cli
from declip_pl.data.info import all_facts
from declip_pl.training.lightning_cli import DeclipCLI

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "experiments" / "README.md", *PAGES]
DOORS = [page for page in PAGES if page.parent.name == "extend" and page.name != "index.md"]
PARTS = sorted(path for path in (ROOT / "docs" / "parts").iterdir() if path.is_file())

README_WORDS = 1200
DOOR_LINES = 40

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
LIGHTNING = ("fit", "validate")
VARIABLE = re.compile(r"([A-Z_]+)=")
PROGRAMS = ("make", "declip-pl")
ELSEWHERE = {"--gpus", "--network", "--photos"}
"""Options of docker and of the benchmarks."""
SEPARATORS = {"|", "||", "&&", ";", "&"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(text) if language in languages]


def commands(text: str) -> list[list[str]]:
    """Return the words of every make and declip-pl command in shell blocks and in code spans."""
    lines = [
        line
        for block in blocks(text, "bash", "sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    lines += [" ".join(span.split()) for span in CODE.findall(FENCE.sub("", text))]
    return [found for line in lines for found in split(line)]


def split(line: str) -> list[list[str]]:
    """Return the commands in a line of shell that are ours, without variables before them."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    reader.whitespace_split = True
    try:
        words = list(reader)
    except ValueError:  # an apostrophe: no command
        return []
    found: list[list[str]] = [[]]
    for word in words:
        if word in SEPARATORS:
            found.append([])
        elif found[-1] or not VARIABLE.match(word):
            found[-1].append(word.removeprefix(".venv/bin/"))
    return [command for command in found if len(command) > 1 and command[0] in PROGRAMS]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)


def all_commands(program: str) -> list[pytest.param]:
    return [
        pytest.param(command[1:], id=f"{name(text)}: {' '.join(command)}")
        for text in TEXTS
        for command in commands(text.read_text(encoding="utf-8"))
        if command[0] == program
    ]


def test_commands_are_found_wherever_they_stand():
    text = (
        "Say `make train GEN=ldm` or `A=1 declip-pl fit`, but not `make`, `it's`, `declip_pl`.\n\n"
        "```bash\n"
        "cd x && make lint  # make nothing\n"
        "find . | .venv/bin/declip-pl predict - \\\n    --resume\n"
        "```\n"
    )
    assert commands(text) == [
        ["make", "lint"],
        ["declip-pl", "predict", "-", "--resume"],
        ["make", "train", "GEN=ldm"],
        ["declip-pl", "fit"],
    ]


@pytest.mark.parametrize("words", all_commands("make"))
def test_make_knows_the_target_and_its_options(words):
    done = run("make", "--dry-run", *words)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        for command in split(line):
            check_options(command[1:])


@pytest.mark.parametrize("words", all_commands("declip-pl"))
def test_command_knows_its_options(words):
    check_options(words)


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_option_in_a_sentence_is_one_of_some_command(path):
    known = set().union(*map(options_of, cli.COMMANDS)) | ELSEWHERE
    for span in CODE.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        if span.startswith("--"):
            assert re.split("[= \n]", span)[0] in known, f"{name(path)}: {span}"


def check_options(words: list[str]) -> None:
    if words[0].startswith("-"):  # declip-pl --help
        assert words in (["--help"], ["--version"])
        return
    command = next((c for c in (" ".join(words[:2]), words[0]) if c in cli.COMMANDS), None)
    assert command, f"there is no declip-pl {' '.join(words[:2])}"
    known = options_of(command)
    if cli.COMMANDS[command].further:  # what it does not know it hands on
        known = known | options_of("fit")
    for word in words[len(command.split()) :]:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"declip-pl {command} has no {word}"


@cache
def options_of(command: str) -> set[str]:
    parser = lightning_parser(command) if command in LIGHTNING else cli.parser_of(command)
    return {option for action in parser._actions for option in action.option_strings}


def lightning_parser(command: str) -> Any:
    """Return the parser of one of Lightning's own commands."""

    class Parser(Exception):  # noqa: N818
        pass

    class OnlyParser(DeclipCLI):
        def parse_arguments(self, parser, args):
            raise Parser(parser)

    with pytest.raises(Parser) as caught:
        OnlyParser([command])
    return caught.value.args[0]._subcommands_action.choices[command]


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_links_and_pictures_are_there(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if not target.startswith(("https://", "http://", "#")):
            assert (path.parent / target.split("#")[0]).exists(), f"{name(path)}: {target}"


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_python_compiles(path):
    for block in blocks(path.read_text(encoding="utf-8"), "python"):
        compile(block, name(path), "exec")


@cache
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("page", "table"), [("metrics.md", "metrics"), ("data.md", "layouts")])
def test_table_of_the_package_stands_on_its_page(page, table):
    """It is filled in again where the site is built; the page is also read as it is."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = hooks().TABLES[table]()
    assert len(rows) > 10
    assert f"<!-- {table} -->\n" + "\n".join([*rows, ""]) in text
    built = hooks().on_page_markdown(text)
    assert "\n".join(rows) in built and "<!--" not in built


def test_every_layout_has_an_example():
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    shown = "\n".join(blocks(text, "bash"))
    for name in all_facts():
        assert f"DATA={name}:" in shown or f"convert {name} " in shown, name


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= README_WORDS


@pytest.mark.parametrize("path", DOORS, ids=name)
def test_page_on_a_part_of_your_own_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= DOOR_LINES


@pytest.mark.parametrize("path", PARTS, ids=name)
def test_part_stands_on_a_page_word_for_word(path):
    shown = [block for page in DOORS for block in blocks(page.read_text("utf-8"), "python", "yaml")]
    assert path.read_text(encoding="utf-8") in shown


@pytest.mark.slow  # builds the site
def test_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra: dev)")
    done = run(sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    loaded = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:)?//")
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not loaded.search(text), page
        assert not re.search(r":(class|func|data|meth|mod|attr):", text), page
