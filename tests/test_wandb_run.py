"""A cross-evaluation's W&B run: the offline file is read back and compared with the folder."""

import json
import os
import shutil
import sys
from pathlib import Path
from socket import socket
from types import SimpleNamespace

import numpy as np
import pytest
import requests
import wandb
from benchmarks.offline_run import records
from conftest import run_apart
from crosseval_example import as_matrix, plain_cell, plain_matrix, plain_model
from PIL import Image

from declip_pl.cross_eval.cell import cell_path, read_cell, write_cell
from declip_pl.cross_eval.views.wandb_run import matrix_rows, summary_figures, track
from declip_pl.training import wandb_runs

ROWS = ("ldm", "lama", "all-but-ldm")
COLUMNS = ("ldm", "lama")
SEEDS = (0, 1)
PHOTOS = 700
"""More than 10 000 rows, where W&B cuts tables by default."""
IN_DOMAIN = {"ldm": ["ldm"], "lama": ["lama"], "all-but-ldm": ["lama"]}
TRACK = """
import sys
from pathlib import Path
from declip_pl.cross_eval.views.wandb_run import track
print(*track(Path(sys.argv[1]), {}), sep="\\n")
"""


def model_name(row, seed):
    return f"tiny-clip+rn50-layer1-linear-{row}" + (f"-seed{seed}" if seed else "")


def make_cross_evaluation(folder: Path, photos: int = 3, **changes) -> dict:
    """Write a made-up cross-evaluation: one cell failed, one score is undefined."""
    rng = np.random.default_rng(0)
    cells = [
        (row, column) for row in ROWS for column in COLUMNS if (row, column) != ("lama", "ldm")
    ]
    models = [_model(folder, row, seed) for row in ROWS for seed in SEEDS]
    for model in models:
        tests = [column for row, column in cells if row == model["row"]]
        for test in [*tests, "real"]:
            _write_cell(folder, rng, model, test, photos)
    panels = {row: {} for row in ROWS}
    for row, column in cells:
        panels[row][column] = _panels(folder, rng, row, column)
    tests = {name: {"photos": photos, "sha256": "f" * 64} for name in (*COLUMNS, "real")}
    matrix = plain_matrix(
        models,
        COLUMNS,
        name=folder.name,
        notice="mini is a stand-in",
        data={"root": "/data/mini", "name": "mini", "tests": tests},
        pooling="mean",
        in_domain=IN_DOMAIN,
        metrics=["iou", "image_ap"],
        matrix={
            metric: {row: {c: _estimate(rng) for r, c in cells if r == row} for row in ROWS}
            for metric in ("iou", "image_ap")
        },
        summary={"iou": _summary(rng), "image_ap": _no_means() | {"in_domain": _estimate(rng)}},
        panels=panels,
        failed=[{"what": "lama on ldm", "why": "a damaged photo"}],
    )
    matrix |= changes
    matrix["matrix"]["image_ap"]["ldm"]["ldm"] = {"value": None, "low": None, "high": None, "n": 0}
    (folder / "matrix.json").write_text(json.dumps(matrix))
    (folder / "matrix.csv").write_text("train,test\n")
    (folder / "report.html").write_text("<!doctype html><title>report</title>")
    _picture(rng).save(folder / "matrix.png")
    return matrix


def _model(folder, row, seed):
    checkpoint = folder / "runs" / model_name(row, seed) / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"decoder")
    return plain_model(
        row,
        name=model_name(row, seed),
        trained_on=IN_DOMAIN[row],
        seed=seed,
        encoder="tiny-clip+rn50",
        checkpoint=str(checkpoint),
        checkpoint_sha256="0" * 64,
        thresholds={"pixel": 0.3, "image": 0.1},
    )


def _write_cell(folder, rng, model, test, photos):
    iou = [None, *rng.uniform(0, 100, photos - 1)]
    names = [f"photo{index}" for index in range(photos)]
    scores = {} if test == "real" else {"iou": iou, "ap": [None] * photos}
    pooled = {name: list(rng.uniform(0, 1, photos)) for name in ("mean", "mean-logit")}
    cell = plain_cell(model, test, names, scores, pooled, test="f" * 64)
    write_cell(cell_path(folder, model["name"], test), cell)


def _panels(folder, rng, row, column):
    shown = {}
    for which in ("best", "median", "worst"):
        file = f"panels/{model_name(row, 0)}/{column}/{which}.png"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        _picture(rng).save(folder / file)
        iou = None if which == "worst" else round(float(rng.uniform(0, 100)), 2)
        shown[which] = {"file": file, "photo": f"{row}-{column}-{which}", "iou": iou}
    return shown


def _picture(rng):
    return Image.fromarray(rng.integers(0, 255, (27, 102, 3), dtype=np.uint8))


def _estimate(rng):
    value = float(rng.uniform(10, 90))
    return {"value": value, "low": value - 2, "high": value + 2, "n": 3}


def _no_means():
    return {"by_train": {}, "by_test": {}, "leave_one_out": {}}


def _summary(rng):
    undefined = {"value": None, "low": None, "high": None, "n": 0}
    return {
        "in_domain": _estimate(rng),
        "out_of_domain": _estimate(rng),
        "worst_out_of_domain": _estimate(rng) | {"train": "ldm", "test": "lama"},
        "by_train": {"ldm": _estimate(rng), "lama": undefined},
        "by_test": {"lama": _estimate(rng)},
        "leave_one_out": {"all-but-ldm": _estimate(rng)},
    }


def track_apart(folder, **environment):
    """Call `track` in a process without an account, as W&B's mode holds for a whole process."""
    path = os.pathsep.join(sys.path)  # the same package as here
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent), "PYTHONPATH": path} | environment
    done = run_apart([sys.executable, "-c", TRACK, folder.name], folder.parent, clean)
    assert done.returncode == 0, done.stderr
    return done


def read_run(folder):
    """Return what an offline run holds: its record, logged values and saved files."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("run-*.wandb")
    run, logged, summary, files, artifacts = None, {}, {}, set(), []
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            run = record.run
        _collect(record.history.item, logged)
        _collect(record.summary.update, summary)
        files |= {item.path for item in record.files.files}
        if record.HasField("artifact"):
            artifacts.append((record.artifact.name, record.artifact.type))
    return run, logged, summary, files, artifacts


def _collect(items, target):
    for item in items:
        first, *rest = [item.key] if item.key else item.nested_key
        value = json.loads(item.value_json)
        if rest:
            target.setdefault(first, {})[rest[0]] = value
        else:
            target[first] = value


def table_of(run_folder, entry):
    content = json.loads((run_folder / "files" / entry["path"]).read_text())
    assert len(content["data"]) == entry["nrows"]
    return content["columns"], content["data"]


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A cross-evaluation that was logged, its matrix, its W&B run's folder and what was printed."""
    folder = tmp_path_factory.mktemp("outputs") / "mini-tiny"
    folder.mkdir()
    matrix = make_cross_evaluation(folder, photos=PHOTOS)
    done = track_apart(folder)
    (run_folder,) = (folder / "wandb").glob("offline-run-*")
    return folder, matrix, run_folder, done


def test_the_run_says_what_it_is(offline):
    _, matrix, run_folder, _ = offline
    run, *_ = read_run(run_folder)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.project, run.run_group, run.job_type) == ("declip-pl", "mini", "cross-eval")
    assert run.display_name == "cross-eval mini-tiny" and run.notes == "mini is a stand-in"
    assert set(run.tags) == {"cross-eval", "mini", "ldm", "lama", "all-but-ldm", "seed-0", "seed-1",
                             "tiny-clip+rn50", "layer1", "linear", "full"}  # fmt: skip
    del config["_wandb"]
    assert config == {
        "encoder": "tiny-clip+rn50",
        "layer": "layer1",
        "decoder": "linear",
        "supervision": "full",
        "image_size": 224,
        "encoder_source": "hub",
        "generator": "ldm, lama, all-but-ldm",
        "dataset": "mini",
        "seed": "0, 1",
        "tests": "ldm, lama",
        "pooling": "mean",
        "perturbation": "none",
        "notice": "mini is a stand-in",
        "failed": ["lama on ldm: a damaged photo"],
        "made": matrix["made"],
    }


def test_a_single_seed_and_generator_keep_their_type(tmp_path, monkeypatch):
    make_cross_evaluation(tmp_path, seeds=[0], rows=["ldm"])
    asked = {}
    run = RecordingRun(tmp_path)
    monkeypatch.setattr(wandb, "init", lambda **options: asked.update(options) or run)
    track(tmp_path, {})
    assert asked["config"]["seed"] == 0 and asked["config"]["generator"] == "ldm"


def test_the_matrix_is_there_cell_by_cell(offline):
    _, matrix, run_folder, _ = offline
    _, logged, *_ = read_run(run_folder)
    columns, rows = table_of(run_folder, logged["matrix"])
    assert columns == ["train", "test", "metric", "value", "ci_low", "ci_high", "n", "in_domain"]
    found = {tuple(row[:3]): row[3:] for row in rows}
    assert len(found) == len(rows) == 2 * 5
    for metric, by_row in matrix["matrix"].items():
        for row, cells in by_row.items():
            for column, cell in cells.items():
                expected = [cell["value"], cell["low"], cell["high"], cell["n"]]
                assert found[row, column, metric] == [*expected, column in IN_DOMAIN[row]]


def test_every_photos_scores_are_there(offline):
    folder, matrix, run_folder, _ = offline
    row_of = {model["name"]: model["row"] for model in matrix["models"]}
    _, logged, *_ = read_run(run_folder)
    columns, rows = table_of(run_folder, logged["photos"])
    assert columns == ["train", "test", "seed", "photo", "iou", "ap",
                       "image_score_mean", "image_score_mean-logit"]  # fmt: skip
    found = {tuple(row[:4]): row[4:] for row in rows}
    cells = [read_cell(path) for path in folder.glob("cells/*/*")]
    assert len(found) == len(rows) == sum(len(cell.photos) for cell in cells) == 16 * PHOTOS
    for cell in cells:
        for index, photo in enumerate(cell.photos):
            iou = cell.scores["iou"][index] if index and cell.test != "real" else None
            pooled = [cell.image_scores[name][index] for name in ("mean", "mean-logit")]
            row = found[row_of[cell.model], cell.test, cell.seed, photo]
            assert row == [iou, None, *pooled]  # `ap` is undefined everywhere


def test_every_picture_is_there_under_its_cell(offline):
    folder, matrix, run_folder, _ = offline
    _, logged, *_ = read_run(run_folder)
    keys = {key for key in logged if key.startswith("panels/")}
    assert keys == {f"panels/{r}/{c}" for r, tests in matrix["panels"].items() for c in tests}
    assert len(keys) == 5
    for key in keys:
        _, row, column = key.split("/")
        shown = matrix["panels"][row][column]
        best, median, worst = logged[key]["captions"]
        assert best == f"best: {shown['best']['photo']}, IoU {shown['best']['iou']:.1f}"
        assert median.startswith("median: ") and worst.endswith("IoU undefined")
        for which, file in zip(shown, logged[key]["filenames"], strict=True):
            with Image.open(run_folder / "files" / file) as picture:
                picture.load()
                with Image.open(folder / shown[which]["file"]) as original:
                    assert np.array_equal(np.asarray(picture), np.asarray(original))
    with Image.open(run_folder / "files" / logged["matrix_plot"]["path"]) as picture:
        picture.load()
        assert picture.size == (102, 27)


def test_summary_report_and_files(offline):
    folder, matrix, run_folder, _ = offline
    _, logged, summary, files, artifacts = read_run(run_folder)
    figures = summary_figures(as_matrix(matrix))
    assert set(figures) == {
        *("iou/in_domain", "iou/out_of_domain", "iou/worst_out_of_domain", "iou/by_train/ldm"),
        *("iou/by_test/lama", "iou/leave_one_out/all-but-ldm"),
    }  # what is undefined is left out, and metrics for which there is no room
    assert figures["iou/by_train/ldm"] == matrix["summary"]["iou"]["by_train"]["ldm"]["value"]
    assert {name: summary[name] for name in figures} == figures
    assert not any("/" in name and not name.startswith("panels/") for name in logged)  # no curves
    page = run_folder / "files" / logged["report"]["path"]
    assert page.read_text() == (folder / "report.html").read_text()
    assert {"matrix.json", "matrix.csv"} <= files
    assert json.loads((run_folder / "files/matrix.json").read_text()) == matrix
    assert all(kind == "run_table" for _, kind in artifacts)  # no checkpoint is packed offline


def test_every_mean_is_in_a_table(offline):
    _, matrix, run_folder, _ = offline
    _, logged, *_ = read_run(run_folder)
    columns, rows = table_of(run_folder, logged["means"])
    assert columns == ["metric", "mean", "of", "value", "ci_low", "ci_high", "n"]
    found = {tuple(row[:3]): row[3:] for row in rows}
    means = matrix["summary"]["image_ap"]["in_domain"]
    expected = [means[key] for key in ("value", "low", "high", "n")]
    assert found["image_ap", "in_domain", ""] == expected
    assert found["iou", "by_train", "lama"] == [None, None, None, 0]
    assert ("iou", "worst_out_of_domain", "") in found


def test_it_says_how_to_look_at_an_offline_run(offline):
    _, _, run_folder, done = offline
    leet, sync = done.stdout.splitlines()
    seen = f"mini-tiny/wandb/{run_folder.name}"
    assert f"leet {seen}" in leet and f"sync {seen}" in sync
    assert "WARNING" not in done.stderr


def test_logging_again_asks_for_the_same_run(offline, tmp_path, monkeypatch):
    folder, _, run_folder, _ = offline
    asked = {}

    def init(**options):
        asked.update(options)
        return RecordingRun(tmp_path)

    monkeypatch.setattr(wandb, "init", init)
    track(folder, {})
    assert asked["id"] == read_run(run_folder)[0].run_id == run_folder.name[-8:]
    assert asked["resume"] == "allow"


@pytest.mark.slow  # W&B's part of it, in another process
def test_logging_again_continues_the_run(offline, tmp_path):
    folder, _, run_folder, _ = offline
    track_apart(folder)
    again = [path for path in (folder / "wandb").glob("offline-run-*") if path != run_folder]
    try:
        assert [path.name.rsplit("-", 1)[1] for path in again] == [run_folder.name[-8:]]
        assert read_run(again[0])[0].run_id == read_run(run_folder)[0].run_id
    finally:
        for path in again:
            path.rename(tmp_path / path.name)


def test_disabled_logs_nothing_and_has_no_hints(tmp_path):
    make_cross_evaluation(tmp_path)
    assert track(tmp_path, {}) == [] and os.environ["WANDB_MODE"] == "disabled"
    assert not (tmp_path / "wandb").exists()


@pytest.mark.parametrize("listens", [False, True], ids=["closed", "silent"])
@pytest.mark.parametrize("asked", [False, True], ids=["by account", "by WANDB_MODE"])
def test_a_server_that_does_not_answer_is_one_line(tmp_path, monkeypatch, capsys, listens, asked):
    """W&B's process is never started: the end of the command would wait for it."""

    def refuse(mode, **_):
        raise OSError(f"mode is {mode}")

    make_cross_evaluation(tmp_path)
    monkeypatch.setattr(wandb_runs, "ANSWER_WITHIN", 0.1)
    monkeypatch.setattr(wandb, "login", lambda **options: not options.get("verify", True))
    monkeypatch.setattr(wandb, "init", refuse)
    if asked:
        monkeypatch.setenv("WANDB_MODE", "online")
    else:
        monkeypatch.delenv("WANDB_MODE")
    with socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        address = "http://{}:{}".format(*server.getsockname())
        settings = SimpleNamespace(base_url=address)
        monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=settings))
        (line,) = track(tmp_path, {})
    assert line.startswith("W&B: this cross-evaluation was not logged") and str(tmp_path) in line
    if asked:
        assert f"{address} does not answer" in line and "WANDB_MODE=offline" in line
        assert "mode is" not in line
    else:
        assert "mode is offline" in line and f"{address} does not answer" in capsys.readouterr().out


class RecordingRun:
    """Stands for a run that is online."""

    disabled = offline = False
    url = "https://example.org/run"

    def __init__(self, folder, fail=False):
        self.dir = folder / "files"
        self.dir.mkdir(exist_ok=True)
        self.fail, self.logged, self.artifacts, self.closed = fail, {}, [], None
        self.summary = {}

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.closed = kind is None

    def log(self, values):
        if self.fail:
            raise wandb.errors.CommError("connection reset\nby peer")
        self.logged |= values

    def save(self, path, **options):
        assert Path(path).parent == self.dir

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)


def test_checkpoints_are_artifacts_where_wandb_is_online(tmp_path, monkeypatch):
    matrix = make_cross_evaluation(tmp_path)
    run = RecordingRun(tmp_path)
    monkeypatch.setattr(wandb, "init", lambda **options: run)
    places = {m["name"]: tmp_path / "runs" / m["name"] / "best.ckpt" for m in matrix["models"]}
    assert track(tmp_path, places) == [f"matrix in the browser: {run.url}"] and run.closed
    assert {artifact.type for artifact in run.artifacts} == {"model"}
    assert len(run.artifacts) == len(matrix["models"]) == len({a.name for a in run.artifacts})
    first = run.artifacts[0]
    assert first.name == "mini-tiny-clip_rn50-layer1-linear-ldm"
    assert list(first.manifest.entries) == ["best.ckpt"]
    assert first.metadata["checkpoint_sha256"] == "0" * 64


def test_a_failure_in_between_closes_the_run_and_is_one_line(tmp_path, monkeypatch):
    make_cross_evaluation(tmp_path)
    run = RecordingRun(tmp_path, fail=True)
    monkeypatch.setattr(wandb, "init", lambda **options: run)
    (line,) = track(tmp_path, {})
    assert "CommError: connection reset)" in line and run.closed is False


def test_where_a_run_goes(tmp_path, monkeypatch):
    """$WANDB_MODE decides; else the account does."""
    make_cross_evaluation(tmp_path)
    asked = {}

    def init(**options):
        asked.update(options)
        return RecordingRun(tmp_path)

    monkeypatch.setattr(wandb, "init", init)
    track(tmp_path, {})
    assert asked["mode"] is None and os.environ["WANDB_MODE"] == "disabled"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(requests, "get", lambda server, timeout: None)  # it answers
    for account, mode in ((True, "online"), (False, "offline")):
        monkeypatch.setattr(wandb, "login", lambda account=account, **_: account)
        track(tmp_path, {})
        assert asked["mode"] == mode


def test_cells_of_other_evaluations_stay_out(tmp_path, monkeypatch):
    make_cross_evaluation(tmp_path)
    stale = cell_path(tmp_path, model_name("ldm", 0), "repaint")
    shutil.copy(cell_path(tmp_path, model_name("ldm", 0), "ldm"), stale)
    run = RecordingRun(tmp_path)
    monkeypatch.setattr(wandb, "init", lambda **options: run)
    track(tmp_path, {})
    cells = {tuple(row[:3]) for row in run.logged["photos"].data}
    assert len(cells) == 16 and len(run.logged["photos"].data) == 48
    assert "repaint" not in {test for _, test, _ in cells}


def test_undefined_scores_and_unknown_training_data_are_none():
    models = [plain_model("ldm"), plain_model("imported", trained_on=[])]
    cell = {"value": None, "low": None, "high": 3.0, "n": 1}
    table = {"ap": {"ldm": {"lama": cell}, "imported": {"lama": cell}}}
    matrix = as_matrix(plain_matrix(models, ("lama",), matrix=table))
    assert matrix_rows(matrix) == [
        ["ldm", "lama", "ap", None, None, 3.0, 1, False],
        ["imported", "lama", "ap", None, None, 3.0, 1, None],
    ]


def test_the_run_that_was_logged_last_is_continued(tmp_path):
    """By its time stamp, not by its name, in which `offline` comes before `run`."""
    for name in ("run-20250101_120000-old", "offline-run-20261123_210400-new"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert wandb_runs.wandb_id(tmp_path) == "new"
    (tmp_path / "wandb/run-20261123_210401-newest").mkdir()
    assert wandb_runs.wandb_id(tmp_path) == "newest"
    assert wandb_runs.wandb_id(tmp_path / "elsewhere") is None
