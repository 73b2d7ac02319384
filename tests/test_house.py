"""The house: floors, sizes, and what importing the package does."""

import ast
import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import declip_pl

SOURCE = Path(__file__).parents[1] / "src/declip_pl"
FLOORS = (
    {
        *("errors", "files", "csv_files", "names", "one_line", "privacy", "parts", "records"),
        *("panels", "metrics", "processes", "jobs", ""),
    },
    {"model"},
    {"data"},
    {"training"},
    {"cross_eval"},
    {"ablation", "robustness"},
    {"inference"},
    {"cli", "__main__"},
)
"""Rooms and single files, from the ground: none imports from above."""

MODULES = sorted(SOURCE.rglob("*.py"))
LAZY = "declip_pl.inference.localizer"
"""Where the names come from that the package itself hands on when they are asked for."""


def name_of(path: Path) -> str:
    """Return a file's module; a room's ``__init__`` is the room itself."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imported(path: Path) -> set[str]:
    """Return the package's modules that a file imports, at its top or inside functions.

    What is imported for type checkers alone does not count.
    """
    tree = ast.parse(path.read_text())
    typing = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for child in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing:
            continue
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found |= {module_of(f"{node.module}.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {module_of(alias.name) for alias in node.names}
    return found - {"", name_of(path)}


def module_of(name: str) -> str:
    """Return the package's module that a dotted name is or lies in, and "" for others'."""
    if name.startswith("declip_pl.") and name.removeprefix("declip_pl.") in declip_pl.__all__:
        return LAZY
    while name and name not in NAMES:
        name = name.rpartition(".")[0]
    return name


def floor(module: str) -> int:
    room = module.removeprefix("declip_pl").removeprefix(".").partition(".")[0]
    return next(level for level, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("module", sorted(NAMES.keys() - {"declip_pl"}))
def test_nothing_imports_from_above(module):
    above = {name for name in imported(NAMES[module]) if floor(name) > floor(module)}
    assert not above


def test_there_is_no_import_circle():
    graph = {name: imported(path) for name, path in NAMES.items() if name != "declip_pl"}
    assert sum(map(len, graph.values())) > len(graph)
    while graph:
        leaves = {name for name, others in graph.items() if not others & graph.keys()}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: others for name, others in graph.items() if name not in leaves}


def test_the_package_list_names_every_room():
    setup = ConfigParser()
    setup.read(SOURCE.parents[1] / "setup.cfg")
    listed = setup["options"]["packages"].split()
    rooms = {name for name, path in NAMES.items() if path.name == "__init__.py"}
    assert sorted(listed) == sorted(rooms | {"declip_pl.experiments"})


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= 350
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            assert node.end_lineno - start < 50, f"{path}: {node.name}"


def private(name: str) -> bool:
    """Whether a name is a file's own; one like ``_repr_html_`` is another program's protocol."""
    own = name.startswith("_") and not name.endswith("_")
    return own and name.strip("_") != "" and not name.startswith("__")


def defined(tree: ast.AST) -> set[str]:
    """Return the private names that a file gives: functions, classes, variables, attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(getattr(node, "ctx", None), ast.Store):
            names.add(getattr(node, "attr", None) or getattr(node, "id", ""))
    return set(filter(private, names))


PRIVATE = set().union(*(defined(ast.parse(path.read_text())) for path in MODULES))
TESTS = sorted(Path(__file__).parent.glob("*.py"))


def borrowed(text: str) -> set[str]:
    """Return the package's private names that a test reads, imports, or gives to a patch.

    A name counts whatever object it is read from, and in a string too: ``setattr`` takes one, and
    so does the code that a test starts elsewhere.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.keyword):
            names.add(node.arg or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= {node.value, *re.findall(r"(?:\.|\bimport )(_\w+)", node.value)}
    return names & PRIVATE


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.stem)
def test_tests_know_no_private_name(path):
    """They go through the doors that users have, so that what is behind them can change."""
    assert not borrowed(path.read_text())


@pytest.mark.parametrize(
    "use",
    [
        "cells.Cells.{}(1)",
        "encoder.{} = 1",
        "from declip_pl.cross_eval.cells import {}",
        "monkeypatch.setattr(cells, '{}', 1)",
        "monkeypatch.setattr('declip_pl.cross_eval.cells.{}', 1)",
        "patch.multiple(cells, {}=1)",
        "code = 'from declip_pl.cross_eval.cells import {}; 1'",
    ],
)
def test_a_private_name_in_a_test_is_seen(use):
    name = min(PRIVATE)
    assert borrowed(use.format(name)) == {name}
    assert not borrowed(use.format(name.strip("_")))


def test_templates_are_short():
    templates = list(SOURCE.rglob("*.j2"))
    assert templates and all(len(p.read_text().splitlines()) <= 350 for p in templates)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("__init__.py")), ids=lambda p: p.parent.name)
def test_every_room_says_what_it_is_for(path):
    about = ast.get_docstring(ast.parse(path.read_text())) or ""
    sentence = about.partition("\n\n")[0]
    assert sentence.endswith(".") and len(sentence) > len("One sentence.")


def python(code: str) -> str:
    # As a user starts it: the tests' own settings would hide what an import sets.
    ours = ("NO_ALBUMENTATIONS_UPDATE", "WANDB_MODE", "HF_HUB_OFFLINE", "DECLIP_FEATURES")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_changes_nothing_in_the_process():
    names = sorted(NAMES.keys() - {"declip_pl.__main__"})  # importing it runs the program
    printed = python(
        "import importlib, json, os\n"
        "import lightning, wandb, matplotlib, cv2  # what they do is theirs\n"
        "from transformers.utils import logging\n"
        "def state():\n"
        "    bars = logging.is_progress_bar_enabled()\n"
        "    return dict(os.environ, verbosity=logging.get_verbosity(), bars=bars)\n"
        "before = state()\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "print(json.dumps([before, state()]))\n"
    )
    before, after = json.loads(printed.splitlines()[-1])
    assert {"PATH", "verbosity", "bars"} <= before.keys()
    assert after == before


def test_the_list_of_commands_imports_no_torch():
    printed = python(
        "import sys\nfrom declip_pl import cli\ncli.main(['--help'])\n"
        "print('torch' in sys.modules, 'lightning' in sys.modules)\n"
    )
    assert printed.splitlines()[-1] == "False False"
