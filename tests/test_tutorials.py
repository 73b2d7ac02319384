"""The pages of tutorials are run as they stand, block by block, and print what stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
BETWEEN = "-" * 20


def steps(text):
    """Yield each block of a page: python, bash or text, and its content."""
    yield from FENCE.findall(text)


def script(text):
    """Return a page as one program that prints a line before what each block prints."""
    lines = ["import subprocess"]
    for language, code in steps(text):
        if language == "python" and (named := FILE.match(code)):
            lines.append(f"open({named[1]!r}, 'w').write({code!r})")
        elif language == "python":
            lines.append(code)
        elif language == "bash":
            lines.append(f"subprocess.run({code!r}, shell=True, check=True, executable='bash')")
        if language in ("python", "bash"):
            lines.append(f"print({BETWEEN!r}, flush=True)")
    return "\n".join(lines)


def plain(text):
    """Return text without its numbers, whose last digits another processor may change.

    Where weights come from is another place on another machine.
    """
    lines = [line for line in text.strip().splitlines() if " comes from " not in line]
    return re.sub(r"\d+(\.\d+)?", "N", "\n".join(lines))


def test_a_page_becomes_a_program():
    text = "```python\nprint(1)\n```\n\n```text\n1\n```\n\n```python\n# my_file.py\nx = 3\n```\n"
    made = script(text)
    assert "print(1)\n" in made and "open('my_file.py', 'w')" in made
    assert made.count(BETWEEN) == 2


@pytest.mark.slow  # real weights
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_and_prints_what_it_says(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    program = tmp_path / "page.py"
    program.write_text(script(text), encoding="utf-8")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
    }
    done = subprocess.run(
        [sys.executable, program.name], cwd=tmp_path, env=environment, check=False, text=True,
        capture_output=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    printed = iter(done.stdout.split(f"{BETWEEN}\n"))
    last = ""
    for language, content in steps(text):
        if language in ("python", "bash"):
            last = next(printed)
        elif language == "text":
            assert plain(last) == plain(content)
    if page.stem == "find":  # the numbers that matter are about those on the page
        (iou,) = re.findall(r"IoU (\d\.\d+)\n", done.stdout)
        assert float(iou) == pytest.approx(
            float(re.search(r"^IoU (\S+)$", text, re.M)[1]), abs=0.05
        )
