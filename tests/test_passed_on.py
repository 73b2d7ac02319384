"""Nothing that is passed on tells whose machine made it: every file is searched, byte by byte."""

import base64
import json
import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from benchmarks.offline_run import records
from conftest import make_clip, make_tree
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from declip_pl.inference.model_card import model_card
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.model.description import TrainedOn
from declip_pl.training.wandb_runs import PRIVATE, private_settings

TOLD = "telltale"
"""In the names of folders, of the user and of the machine, and in the photos' metadata."""

MAKE = f"""
import getpass, platform, socket, sys
from pathlib import Path
socket.gethostname = platform.node = getpass.getuser = lambda: "{TOLD}-host"

from declip_pl import Localizer, cli

place = Path(sys.argv[1])
recipe = f"--config={{place}}/tiny.yaml"
cli.main(["train", "--generator=ldm", f"--data={{place}}/dolos", recipe])
(run,) = Path("outputs/train").iterdir()
broken = place / "no such model"
try:
    cli.main(["evaluate", str(run), str(broken), f"--data={{place}}/dolos", "--name=x"])
except SystemExit as stop:  # for the model that is not there; the report says so
    print(stop)
Localizer.from_pretrained(run).save_pretrained("saved")
cli.main(["export", str(run), "--output=model.onnx"])
cli.main(["predict", str(place / "dolos/fake/ldm/images/test/0.png"), f"--model={{run}}"])
"""


MADE = pytest.mark.slow
"""A model is trained, scored, exported and used, in a process of its own."""


@pytest.fixture(scope="module")
def passed_on(tmp_path_factory):
    """A folder where a model was trained, scored, logged, saved, exported and used."""
    home = tmp_path_factory.mktemp("home") / f"{TOLD}, my 'photos'"
    place, work = home / "data (2)", home / "work"
    work.mkdir(parents=True)
    make_tree(place / "dolos")
    for photo in (place / "dolos").rglob("*.png"):
        _tell(photo)
    clip = make_clip(place / "tiny-clip")
    recipe = {
        "model": {"encoder": str(clip), "layer": "layer1", "decoder": "linear", "image_size": 64},
        "data": {"root": "x", "generator": "x", "batch_size": 4, "num_workers": 0},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (place / "tiny.yaml").write_text(json.dumps(recipe))
    environment = {
        **{"PATH": "/usr/bin:/bin", "HOME": str(home), "USER": f"{TOLD}-user"},
        **{"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"},
        **{"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
    }
    done = subprocess.run(
        [sys.executable, "-c", MAKE, str(place)],
        check=False, env=environment, capture_output=True, text=True, cwd=work,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return work


def _tell(photo: Path) -> None:
    with Image.open(photo) as image:
        image.load()
        exif = image.getexif()
        exif[0x013B] = f"{TOLD}-artist"
        exif.get_ifd(0x8825)[29] = f"{TOLD}-place"  # GPS
        image.save(photo, exif=exif)


def files_below(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert found
    return found


def contents(path: Path) -> list[bytes]:
    """Return a file's bytes, and those that it holds in other words."""
    data = path.read_bytes()
    parts = [data]
    if path.suffix in (".png", ".webp"):
        # WebP says of every picture how often it repeats and on what it lies.
        harmless = {"Software", "dpi", "loop", "background"}
        with Image.open(path) as image:
            assert set(image.info) <= harmless, (path, image.info)
            parts.append(str(image.info).encode())
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts += [name.encode() + archive.read(name) for name in archive.namelist()]
    found = re.findall(rb"base64,([A-Za-z0-9+/=]+)", data)
    return parts + [base64.b64decode(part) for part in found]


def assert_tells_nothing(data: bytes, where: object) -> None:
    for word in (TOLD, platform.release()):
        at = data.lower().find(word.lower().encode())
        assert at < 0, (where, data[max(0, at - 80) : at + 80])


@MADE
def test_the_report_and_what_stands_beside_it(passed_on):
    folder = passed_on / "outputs/cross_eval/x"
    names = ("report.html", "matrix.json", "matrix.csv", "matrix.png", "matrix.pdf", "photos.csv")
    files = [folder / name for name in (*names, "by_kind.csv", "cite.bib")]
    for path in [*files, *files_below(folder / "panels"), *files_below(folder / "tables")]:
        for part in contents(path):
            assert_tells_nothing(part, path)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "no such model" in page and "best.ckpt" in page  # it still says what is what


@MADE
def test_a_saved_folder(passed_on):
    for path in files_below(passed_on / "saved"):
        data = path.read_bytes()
        if path.name == "config.json":
            said = json.loads(data)
            # Where the encoder lies is what it is loaded by.
            assert said.pop("encoder").endswith("/tiny-clip")
            assert said["identity"]["source"] == "folder tiny-clip"
            data = json.dumps(said).encode()
        assert_tells_nothing(data, path)


@MADE
def test_an_onnx_graph(passed_on):
    assert_tells_nothing((passed_on / "model.onnx").read_bytes(), "model.onnx")


@MADE
def test_pictures_of_photos_are_without_their_metadata(passed_on):
    pictures = [path for path in files_below(passed_on / "outputs") if path.suffix == ".png"]
    kinds = {path.relative_to(passed_on / "outputs").parts[0] for path in pictures}
    assert kinds == {"train", "cross_eval", "predict"} and len(pictures) > 8
    for path in pictures:
        for part in contents(path):
            assert_tells_nothing(part, path)


@MADE
@pytest.mark.parametrize("kind", ["train", "cross_eval"])
def test_a_wandb_run(passed_on, kind):
    (folder,) = (passed_on / "outputs" / kind).glob("*/wandb/offline-run-*")
    for path in files_below(folder / "files"):
        for part in contents(path):
            assert_tells_nothing(part, path)
    (log,) = folder.glob("run-*.wandb")
    kinds = set()
    for data in records(log.read_bytes()):
        record = Record.FromString(data)
        kinds.add(record.WhichOneof("record_type"))
        for entry in record.artifact.manifest.contents:  # where W&B finds what it is to upload
            entry.local_path = ""
        assert_tells_nothing(record.SerializeToString(), record.WhichOneof("record_type"))
        assert not record.run.host and not record.run.git.remote_url
    assert {"run", "history", "summary"} <= kinds
    assert not {"output", "output_raw"} & kinds


def test_what_wandbs_own_variables_ask_for_is_sent(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    settings = private_settings(None)
    assert {name: getattr(settings, name) for name in PRIVATE} == PRIVATE
    monkeypatch.setenv("WANDB_CONSOLE", "wrap")
    monkeypatch.setenv("WANDB__DISABLE_META", "false")
    monkeypatch.setenv("WANDB_HOST", "cluster")
    asked = private_settings(None).model_fields_set
    assert asked & PRIVATE.keys() == {"disable_git", "save_code", "x_save_requirements"}


NASTY = ["<img src=x onerror=alert(1)>", "a|b", "`x`", "[a](http://evil.example)", "![a](b)", "*a*"]


@MADE
@pytest.mark.parametrize("name", NASTY)
def test_a_card_shows_names_as_they_are(passed_on, name):
    from dataclasses import replace

    from markdown_it import MarkdownIt

    data = TrainedOn((name,), "full", "0" * 64, name, name)
    checkpoint = replace(read_checkpoint(passed_on / "saved"), trained_on=data)
    card = model_card(checkpoint, f"{name}\n---\nlicense: mine\n", None)
    header, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert "mine" not in header and name not in header
    page = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    kinds = {child.type for token in page for child in token.children or []}
    assert not kinds & {"image"}
    links = [c.attrs["href"] for t in page for c in t.children or [] if c.type == "link_open"]
    assert links == ["https://arxiv.org/abs/2409.08849"]
    html = [c.content for t in page for c in t.children or [] if c.type == "html_inline"]
    assert set(html) <= {"<code>", "</code>"}
