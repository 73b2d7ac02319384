"""The house: floors, sizes, and what importing the package does."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src/declip_pl"
FLOORS = (
    {"errors", "files", "parts", "metrics", "panels", ""},
    {"model"},
    {"data"},
    {"training"},
    {"cross_eval"},
    {"inference"},
    {"cli", "__main__"},
)
"""Rooms and single files, from the ground: none imports from above."""

MODULES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    """Return a file's room, or its own name at the root."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(path: Path) -> set[str]:
    """Return what a file imports of the package, inside functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "declip_pl":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("declip_pl.")}
    return found


def floor(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_nothing_imports_from_above(path):
    if path == SOURCE / "__init__.py":
        return  # hands on Localizer when it is asked for
    for name in imported(path):
        part = name.split(".")[1]
        target = part if (SOURCE / part).is_dir() or (SOURCE / f"{part}.py").is_file() else ""
        assert floor(target) <= floor(room(path)), f"{path} imports {name}"


def modules_imported(path: Path) -> set[Path]:
    found = set()
    for name in imported(path):
        parts = name.split(".")[1:]
        for depth in (len(parts), len(parts) - 1):
            file = SOURCE.joinpath(*parts[:depth]).with_suffix(".py")
            if depth and file.is_file():
                found.add(file)
    return found - {path}


def test_there_is_no_import_circle():
    graph = {path: modules_imported(path) for path in MODULES}
    while graph:
        leaves = {path for path, others in graph.items() if not others & graph.keys()}
        assert leaves, f"a circle among {sorted(map(str, graph))}"
        graph = {path: others for path, others in graph.items() if path not in leaves}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= 350
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            assert node.end_lineno - start < 50, f"{path}: {node.name}"


def test_templates_are_short():
    templates = list(SOURCE.rglob("*.j2"))
    assert templates and all(len(p.read_text().splitlines()) <= 350 for p in templates)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("__init__.py")), ids=lambda p: p.parent.name)
def test_every_room_says_what_it_is_for(path):
    about = ast.get_docstring(ast.parse(path.read_text()))
    assert about and about.split("\n", 1)[0].endswith((".", ")"))


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_localizer_needs_neither_lightning_nor_what_draws_and_logs():
    blocked = ("lightning", "pytorch_lightning", "wandb", "matplotlib", "onnx", "torchmetrics")
    python(
        "import sys\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        "from declip_pl import Localizer\n"
        "Localizer.from_pretrained\n"
    )


def test_importing_changes_nothing_in_the_process():
    names = [
        ".".join(("declip_pl", *p.relative_to(SOURCE).with_suffix("").parts))
        for p in MODULES
        if p.stem not in ("__init__", "__main__")
    ]
    printed = python(
        "import importlib, json, os\n"
        "from transformers.utils import logging\n"
        "state = lambda: (dict(os.environ), logging.get_verbosity(),\n"
        "                 logging.is_progress_bar_enabled())\n"
        "import lightning, wandb, matplotlib, cv2  # what they do is theirs\n"
        f"before = state()\nfor name in {names}: importlib.import_module(name)\n"
        "print(json.dumps([before == state(), sorted(set(os.environ) - set(before[0]))]))\n"
    )
    assert json.loads(printed.splitlines()[-1]) == [True, []]


def test_the_list_of_commands_imports_no_torch():
    printed = python(
        "import sys\nfrom declip_pl import cli\ncli.main(['--help'])\n"
        "print('torch' in sys.modules, 'lightning' in sys.modules)\n"
    )
    assert printed.splitlines()[-1] == "False False"
