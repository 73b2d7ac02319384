"""Pieces of a command in processes apart: what is read, run, named, encoded in shares."""

import json
import os
import subprocess
import sys

import psutil
import pytest
import torch
from conftest import make_clip, make_tree, wait_until

from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.feature_share import encode_share
from declip_pl.data.shards import inspect, shard_files
from declip_pl.errors import UserError
from declip_pl.files import all_sha256, relative
from declip_pl.jobs import slurm
from declip_pl.jobs.outcome import Told
from declip_pl.jobs.pieces import Piece, Stage
from declip_pl.jobs.run import run
from declip_pl.jobs.where import Local, Part, Slurm, read_part, read_where
from declip_pl.model.encoder import build_encoder

RECIPE = """
model: {{encoder: {folder}/tiny-clip, layer: layer1, decoder: linear, image_size: 64}}
data: {{root: x, generator: x, batch_size: 4, num_workers: 0}}
trainer: {{max_epochs: 2, accelerator: cpu, enable_progress_bar: false, logger: false}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, an encoder and a recipe, where a serial cross-evaluation was done."""
    folder = tmp_path_factory.mktemp("place")
    make_tree(folder / "dolos")
    make_clip(folder / "tiny-clip")
    (folder / "tiny.yaml").write_text(RECIPE.format(folder=folder))
    (folder / "serial").mkdir()
    command(folder, folder / "serial")
    return folder


def command(place, here, *options, check=True):
    """Run ``cross-eval`` in a folder, with features of its own."""
    words = [sys.executable, "-m", "declip_pl", "cross-eval", f"--data={place}/dolos"]
    environment = os.environ | {"DECLIP_FEATURES": str(here / "features")}
    return subprocess.run(
        [*words, f"--config={place}/tiny.yaml", *options], check=check, cwd=here, text=True,
        capture_output=True, env=environment,
    )  # fmt: skip


def matrix(here):
    """Return the content of the only matrix in a folder."""
    (file,) = (here / "outputs/cross_eval").glob("*/matrix.json")
    return json.loads(file.read_text())


FIGURES = ("rows", "columns", "in_domain", "matrix", "summary", "curves", "rates", "failed")


def figures(here):
    return {name: matrix(here)[name] for name in FIGURES}


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")}


@pytest.mark.slow  # eighteen processes, of which each imports torch
def test_pieces_give_the_matrix_of_one_process_whatever_failed_before(place, tmp_path):
    good, bad = (f"tiny-clip-layer1-linear-{generator}" for generator in ("ldm", "lama"))
    obstacle = tmp_path / "outputs/train" / bad
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("no folder")
    done = command(place, tmp_path, "--on=local:2", check=False)
    assert done.returncode == 1
    for piece in ("encode 1 of 1", f"train {good}", f"score {good}"):
        assert f"{piece}: done" in done.stdout
    message = done.stderr[done.stderr.index("error: these parts of the cross-evaluation failed") :]
    for piece in (f"train {bad}", f"score {bad}", "report"):
        assert f"{piece}: failed" in done.stdout
        (line,) = [line for line in message.splitlines() if line.startswith(f"  {piece}: ")]
        assert (tmp_path / line.rpartition("(log: ")[2].rstrip(")")).is_file()
    assert f"score {bad}: {bad} can't be scored: it is not trained" in message
    assert matrix(tmp_path)["rows"] == ["ldm"]

    obstacle.unlink()
    before = stamps(tmp_path)
    assert len(before) == 2
    done = command(place, tmp_path, "--on=local:2")
    assert "report.html" in done.stdout and "submitit" not in done.stdout
    assert good not in done.stdout.partition("report: done")[0]
    assert figures(tmp_path) == figures(place / "serial")
    assert {path: found for path, found in stamps(tmp_path).items() if path in before} == before

    done = command(place, tmp_path, "--on=local:2", "--dry-run")
    assert "0 are to be trained, 0 to be scored" in done.stdout


def test_what_is_named_is_read(tmp_path):
    assert read_where("local:2") == Local(2) and read_where("slurm") == Slurm()
    options = tmp_path / "cluster.yaml"
    options.write_text("partition: gpu\ngres: gpu:1\ntime: 30\nsetup: [module load cuda]\n")
    found = read_where(f"slurm:{options}")
    assert found == Slurm(partition="gpu", gres="gpu:1", time=30, setup=("module load cuda",))
    assert read_part("encode:2/8") == Part("encode", number=2, of=8)
    assert read_part("score:a b") == Part("score", "a b") and read_part("report") == Part("report")


@pytest.mark.parametrize("on", ["local", "local:0", "local:x", "local:2000", "slum", ""])
def test_a_wrong_place_is_refused(on):
    with pytest.raises(UserError, match=r"expected slurm, slurm:FILE or local:N"):
        read_where(on)


@pytest.mark.parametrize(
    "part", ["encode", "encode:0/2", "encode:3/2", "score", "score:", "train:a"]
)
def test_a_wrong_part_is_refused(part):
    with pytest.raises(UserError, match=r"expected encode:1/8, score:MODEL or report"):
        read_part(part)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("partitoin: gpu", "there is no option 'partitoin'; expected partition, account"),
        ("time: 2:00:00", "time is '2:00:00'; expected a whole number from 5 (of minutes)"),
        ("time: 4", "time is '4'; expected a whole number from 5 (of minutes)"),
        ("array: 0", "array is '0'; expected a whole number from 1"),
        ("setup: module load", "setup is 'module load'; expected a list of lines"),
        ("mem: [32]", "mem is ['32']; expected text"),
        ("gres:", "gres is ''; expected text"),
        ("gpu", "holds no options of jobs"),
        ("{", "can't be read as YAML"),
    ],
)
def test_wrong_options_of_jobs_are_refused(tmp_path, text, reason):
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_where(f"slurm:{tmp_path}/cluster.yaml")
    assert "cluster.yaml" in str(error.value) and reason in str(error.value)


@pytest.mark.parametrize("command", [("cross-eval",), ("ablate", "layer"), ("robustness",)])
def test_commands_refuse_what_does_not_fit(command, tree, error_of, monkeypatch):
    data = f"--data={tree}" if command[0] != "ablate" else "--seeds=1"
    assert "leave out --on" in error_of(*command, data, "--on=local:2", "--part=report")
    assert "--on here: expected slurm" in error_of(*command, data, "--on=here")
    monkeypatch.setitem(sys.modules, "submitit", None)
    message = error_of(*command, data, "--on=local:2")
    assert "pip install 'declip-pl[slurm]'" in message


def python(name, code):
    return Piece(name, (sys.executable, "-c", code))


def test_a_piece_that_fails_is_named_with_its_log_and_the_others_go_on(tmp_path, capsys):
    leave = "import os, pathlib; pathlib.Path({!r}).write_text(os.environ['OMP_NUM_THREADS'])"
    first = (
        python("good", leave.format(str(tmp_path / "good"))),
        python("bad", "import sys; print('hello'); sys.exit('error: the disk is full')"),
    )
    after = f"import os; assert os.path.exists({str(tmp_path / 'good')!r}); print('seen')"
    stages = [Stage("first", first), Stage("none", ()), Stage("last", (python("after", after),))]
    told = run(Local(2), stages, tmp_path)
    (failed,) = told.failed
    assert (failed.piece, failed.why) == ("bad", "the disk is full")
    assert "hello" in failed.log.read_text()
    assert "seen" in told.logs["after"].read_text()
    assert (tmp_path / "good").read_text().isdecimal()
    out = capsys.readouterr().out
    assert f"bad: started, log {relative(failed.log)}\n" in out
    assert "bad: failed (" in out and "after: done (3 of 3)" in out
    assert {log.parent for log in told.logs.values()} == {tmp_path / "jobs/1"}


KILLED = """
import sys
from pathlib import Path
from declip_pl.jobs.pieces import Piece, Stage
from declip_pl.jobs.run import run
from declip_pl.jobs.where import Local
code = "import os, time; print(os.getpid(), file=open('pid', 'w'), flush=True); time.sleep(3600)"
run(Local(1), [Stage("long", (Piece("long", (sys.executable, "-c", code)),))], Path())
"""


def test_pieces_end_with_the_command_that_started_them(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED], cwd=tmp_path)
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text(), process)
    process.kill()
    process.wait()
    wait_until(lambda: not psutil.pid_exists(int(pid.read_text())))


SBATCH = """#!{python}
import pathlib, pickle, re, sys
text = pathlib.Path(sys.argv[1]).read_text()
here = pathlib.Path(__file__).parent
scripts = len(list(here.glob("script-*")))
(here / f"script-{{scripts}}").write_text(text)
folder = pathlib.Path(re.search("--output='?(.+?)'?$", text, re.M)[1]).parent
array = re.search("--array=0-([0-9]+)", text)
for job in [f"{{scripts}}_{{k}}" for k in range(int(array[1]) + 1)] if array else [str(scripts)]:
    (folder / f"{{job}}_0_result.pkl").write_bytes(pickle.dumps(("success", None)))
print("Submitted batch job", scripts)
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Programs that are called like SLURM's: jobs end as soon as they are submitted."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {"sbatch": SBATCH.format(python=sys.executable), "squeue": "#!/bin/sh\n"}
    for name, text in (programs | {"srun": "#!/bin/sh\n"}).items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_stages_wait_for_each_other_in_arrays_that_are_not_too_long(cluster, tmp_path):
    first = Stage("first", tuple(python(f"piece {n}", "") for n in range(5)))
    last = Stage("last", (python("report", ""),))
    told = run(Slurm(partition="gpu", time=30, array=2), [first, last], tmp_path)
    assert not told.failed and len(told.logs) == 6
    scripts = [(cluster / f"script-{n}").read_text() for n in range(4)]
    assert ["--array=0-1" in text for text in scripts] == [True, True, False, False]
    assert ["afterany:0:1:2" in text for text in scripts] == [False, False, False, True]
    for line in ("--partition=gpu", "--time=30", "--requeue", "--signal=USR2@90"):
        assert all(line in text for text in scripts)
    record = json.loads((tmp_path / "jobs/1" / slurm.RECORD).read_text())
    assert record["piece 3"] == "1_1" and record["report"] == "3"


def test_jobs_of_before_are_waited_for(cluster, tmp_path, capsys):
    (tmp_path / slurm.RECORD).write_text(json.dumps({"train a": "7_0", "train b": "7_1"}))
    asked = tmp_path / "asked"
    (cluster / "squeue").write_text(f"#!/bin/sh\n[ -e {asked} ] || echo 7_1\ntouch {asked}\n")
    slurm.wait_for_earlier([tmp_path])
    assert "1 jobs of before are queued or running: waiting (scancel 7)" in capsys.readouterr().out


def test_a_cluster_that_refuses_is_one_line(cluster, tmp_path):
    (cluster / "sbatch").write_text(
        "#!/bin/sh\necho 'invalid partition specified: gup' >&2; exit 1\n"
    )
    stages = [Stage("train", (python("train a", ""),))]
    with pytest.raises(UserError, match=r"refuses the jobs of train \(.*invalid partition"):
        slurm.run(stages, Slurm(partition="gup"), tmp_path, Told(1))


def test_without_a_cluster_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no squeue here"):
        slurm.active()


def test_shares_of_photos_are_all_of_them_and_wait_for_nobody(own_tree, clip, tmp_path):
    photos = sorted(own_tree.rglob("*/images/*/*.png")) * 3
    photos += [tmp_path / f"{n}.png" for n in range(120)]
    for n, photo in enumerate(photos[-120:]):
        photo.write_bytes(photos[0].read_bytes() + bytes([n]))  # behind the picture: another file
    cache = FeatureCache(build_encoder(str(clip), "layer1", 64), root=tmp_path / "shared")
    cpu = torch.device("cpu")
    photos = list(dict.fromkeys(photos))
    counts = [encode_share(cache, photos, n, 3, cpu, all_sha256) for n in (1, 2, 3)]
    assert counts == [64, 64, len(photos) - 128]
    rows = [key for file in shard_files(cache.folder) for key in inspect(file).photos]
    assert sorted(rows) == sorted(all_sha256(photos).values())
    assert encode_share(cache, photos, 1, 2, cpu, all_sha256) == 0
    alone = FeatureCache(cache.encoder, root=tmp_path / "alone").fetch(photos, cpu)
    shared = cache.fetch(photos, cpu)
    for photo in photos:
        assert torch.equal(shared[photo].grid, alone[photo].grid)
