"""Small trees in the real layout and tiny CLIP models; nothing here needs a network."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from subprocess import Popen

# No test talks to W&B's servers or the hub unless it says so itself.
os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# Features of the tests' photos are nobody's business afterwards.
os.environ["DECLIP_FEATURES"] = tempfile.mkdtemp(prefix="declip-features-")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from tqdm import tqdm
from transformers import CLIPVisionConfig, CLIPVisionModel

from declip_pl import cli, parts
from declip_pl.data.check import check_data
from declip_pl.data.index import DataIndex
from declip_pl.data.layout import SPLITS, Sample, build_layout, samples
from declip_pl.metrics import table
from declip_pl.model import checkpoint
from declip_pl.model.mirror import mirror_folder

# Nor are what they know of data sets, and forgeries. The mirror of a machine's real cache is used.
MIRROR = mirror_folder()
os.environ["DECLIP_CACHE"] = tempfile.mkdtemp(prefix="declip-cache-")
if MIRROR.is_dir():
    mirror_folder().symlink_to(MIRROR.resolve())

for kept in ("DECLIP_FEATURES", "DECLIP_CACHE"):
    atexit.register(shutil.rmtree, os.environ[kept], ignore_errors=True)
torch.set_num_threads(1)  # tests run in parallel processes
# tqdm's own lock is shared by forks: one that is killed while it holds it stops all later ones.
tqdm.set_lock(threading.RLock())
# The same examples each time, and however long a busy machine takes for one.
settings.register_profile(
    "declip",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("declip")

PATIENCE = 600
"""Seconds after which a test says that something never happens; what a busy machine takes for
starting a process says nothing about the process."""

GENERATORS = ("lama", "ldm")
COUNTS = {"train": 8, "valid": 4, "test": 4}


def make_clip(folder: Path, seed: int = 0, **options) -> Path:
    """Save a random CLIP vision tower: 4 blocks, width 64, 4 x 4 patches at 64 px."""
    torch.manual_seed(seed)
    defaults = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    }
    CLIPVisionModel(CLIPVisionConfig(**defaults | options)).save_pretrained(folder)
    return folder


def make_photo(rng: np.random.Generator, size: int = 96) -> np.ndarray:
    """Return a smooth random photo ``[size, size, 3]`` uint8."""
    small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def make_tree(root: Path, generators=GENERATORS, counts=COUNTS) -> Path:
    """Write photos with a dark, noisy box in Dolos' layout: black boxes in the masks are fake."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for index in range(count):
            photo = make_photo(rng)
            _save(root / "real" / split / f"{index}.png", photo)
            for generator in generators:
                mask = np.full(photo.shape[:2], 255, np.uint8)
                top, left = rng.integers(0, 56, 2)
                mask[top : top + 40, left : left + 40] = 0
                noise = rng.integers(0, 60, photo.shape, dtype=np.uint8)
                fake = np.where(mask[..., None] == 0, noise, photo)
                folder = root / "fake" / generator
                _save(folder / "images" / split / f"{index}.png", fake)
                _save(folder / "masks" / split / f"{index}.png", mask)
    return root


def left(folder: Path) -> list[str]:
    """Return the names of what is in a folder, but for the locks of those who built it."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def find(root: Path, generator: str, split: str) -> list[Sample]:
    """Return a split's photos of one generator (or ``real``) in Dolos' layout."""
    return samples(build_layout("dolos", root), split, generator)


def wait_until(happened: Callable[[], object], process: Popen | None = None) -> None:
    """Wait for what another thread or process does; fail if that process ends before."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert process is None or process.poll() is None, "the process ended before"
        assert time.monotonic() < end, f"it did not happen in {PATIENCE} seconds"
        time.sleep(0.02)


def run_apart(command: Sequence[str], folder: Path, environment: Mapping[str, str]):
    """Run a command that may start W&B's own process, and return its status and what it printed.

    Its output goes to files: of a pipe the end is awaited, and W&B's process may hold it open
    after the command has ended. That process is W&B's to end, so that is awaited within bounds.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(
            command, check=False, env=environment, stdout=out, stderr=err, cwd=folder,
            timeout=PATIENCE,
        )  # fmt: skip
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def check_all(layout, names, rule):
    """Check all splits of some generators."""
    wanted = dict.fromkeys(SPLITS, names)
    return check_data(layout, wanted, rule, DataIndex(layout.root), progress=False)


@pytest.fixture(autouse=True)
def no_parts(monkeypatch):
    """Each test starts without parts of a user's, and leaves none behind."""
    monkeypatch.delenv("DECLIP_PARTS", raising=False)
    monkeypatch.setattr(parts, "LOADED", {})
    monkeypatch.setattr(parts, "NAMED", set())
    yield
    for name in parts.LOADED:
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def starter(tmp_path, monkeypatch) -> Path:
    """Where the localizer inside the package lies: for each test, nowhere until it makes one."""
    monkeypatch.setattr(checkpoint, "STARTER_FOLDER", tmp_path / "package" / "starter")
    return tmp_path / "package" / "starter"


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """A data set that no test changes."""
    return make_tree(tmp_path_factory.mktemp("data") / "dolos")


@pytest.fixture
def own_tree(tmp_path) -> Path:
    """A data set that a test may damage."""
    return make_tree(tmp_path / "dolos")


@pytest.fixture
def fit_arguments(tree, clip, tmp_path):
    """Arguments of a short training run on the tiny model, as a user would type them."""

    def arguments(**changes) -> list[str]:
        options = {
            "run.root": tmp_path / "outputs",
            "data.root": tree,
            "data.generator": "ldm",
            "data.batch_size": 4,
            "data.num_workers": 0,
            "model.encoder": clip,
            "model.layer": "layer1",
            "model.decoder": "linear",
            "model.image_size": 64,
            "trainer.max_epochs": 2,
            "trainer.accelerator": "cpu",
            "trainer.enable_progress_bar": "false",
            "trainer.logger": "false",
        }
        options |= {key.replace("__", "."): value for key, value in changes.items()}
        return ["fit", *(f"--{key}={value}" for key, value in options.items())]

    return arguments


@pytest.fixture
def blank_plots(monkeypatch):
    """Plots are composed but not painted, for tests that don't look at them.

    Painting takes most of a small cross-evaluation's time.
    """
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", blank_plot)


def blank_plot(_figure, file, *, format, **_options) -> None:
    """Write an empty picture in a plot's place."""
    if format == "svg":
        file.write('<svg viewBox="0 0 1 1"></svg>')
    else:
        Image.new("RGB", (1, 1)).save(file, format)


@pytest.fixture
def error_of(capsys):
    """Run the command line on arguments that must fail and return its one error message."""

    def run(*args: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            cli.main(list(args))
        assert exit_.value.code not in (0, None)
        return f"{exit_.value.code} {capsys.readouterr().err}"

    return run


OWN_METRIC = """
from declip_pl.metrics import Ranking, metric


@metric({name!r}, title="False alarms", definition="share of real pixels over 0.5",
        less_is_better=True)
def false_alarms(image: Ranking) -> float:
    counts = image.above({threshold})
    return 100 * (counts.predicted - counts.hits) / (counts.pixels - counts.fakes)
"""


@pytest.fixture
def own_metrics(monkeypatch):
    """Metrics that a test adds are taken back at its end."""
    monkeypatch.setattr(table, "MAP_METRICS", dict(table.MAP_METRICS))


@pytest.fixture
def own_metric(tmp_path, monkeypatch, own_metrics):
    """Add a metric by a file outside the package; the test's end takes it back."""
    monkeypatch.setattr(parts, "LOADED", dict(parts.LOADED))

    def add(name: str, threshold: float = 0.5) -> None:
        file = tmp_path / f"file_of_{name}_{threshold}.py"
        file.write_text(OWN_METRIC.format(name=name, threshold=threshold))
        table.MAP_METRICS.pop(name, None)
        parts.load(file)
        del sys.modules[file.stem]

    return add


@pytest.fixture(scope="module")
def chromium():
    """Debian's browser, which pages are looked at in."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if not program:
        pytest.skip("there is no chromium on this machine")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    """The commands that faults are tried on, and what they read."""
    from fault_commands import Home  # which imports what only these tests need

    return Home(tmp_path_factory.mktemp("faults"))


def pytest_runtest_teardown(item) -> None:
    """Have what faults were tried travel with the test's report, whatever process it ran in."""
    tried = sys.modules.get("fault_trials")
    if tried:
        item.user_properties += [("fault", asdict(row)) for row in tried.ROWS]
        tried.ROWS.clear()


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the table of faults where any were tried."""
    reports = [report for kind in terminalreporter.stats.values() for report in kind]
    ended = [report for report in reports if getattr(report, "when", "") == "teardown"]
    found = [value for report in ended for name, value in report.user_properties if name == "fault"]
    if found:
        from fault_trials import Row, table

        terminalreporter.write_line(table(Row(**row) for row in found))
