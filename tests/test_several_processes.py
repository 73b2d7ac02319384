"""Processes that train together: the same figures as one, and one message when they end."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.distributed as dist
from conftest import PATIENCE, make_tree, wait_until
from conftest import run_apart as run_in

from declip_pl import cli
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.model.likeness import LEAST
from declip_pl.training import together
from declip_pl.training.bounds import check_lightning, check_processes
from declip_pl.training.together import Together

CLOSED = RuntimeError("[../gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# How they end, without training


def trainer(rank=0, world=2, children=(), devices=2):
    """What Together looks at of a trainer."""
    launcher = SimpleNamespace(procs=list(children))
    return SimpleNamespace(
        world_size=world,
        callbacks=[],
        global_rank=rank,
        num_devices=devices,
        strategy=SimpleNamespace(launcher=launcher),
    )


@pytest.fixture
def child():
    """Another process, which would go on for long."""
    process = subprocess.Popen(["sleep", str(PATIENCE)])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def met(monkeypatch):
    """Have processes met in torch's store; in truth there is this one alone."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    dist.init_process_group("gloo", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def run(failure, trainer, before=lambda: None):
    """Return what a process raises in the end whose work fails."""
    ours = Together()

    def work():
        ours.follow(trainer)
        before()
        raise failure

    with pytest.raises((Exception, SystemExit, KeyboardInterrupt)) as raised:
        ours.run(work)
    return raised.value


def test_one_process_says_what_it_always_says():
    failure = UserError("the mask is damaged")
    assert run(failure, trainer(world=1)) is failure
    Together().run(lambda: None)


def test_of_a_killed_process_the_one_that_started_it_tells(child, monkeypatch):
    monkeypatch.setattr(together, "PAUSE", PATIENCE)

    def kill():
        child.kill()
        child.wait()

    said = run(CLOSED, trainer(children=[child]), kill)
    assert isinstance(said, UserError) and "process 1 of 2 was ended by SIGKILL" in str(said)


def test_it_is_told_as_soon_as_it_is_seen_and_once(child, capsys):
    seen = []

    def kill():
        child.kill()
        wait_until(lambda: seen.append(capsys.readouterr().err) or "SIGKILL" in "".join(seen))

    said = run(CLOSED, trainer(children=[child]), kill)
    assert isinstance(said, SystemExit) and said.code == 1
    seen.append(capsys.readouterr().err)
    assert re.fullmatch(r"error: process 1 of 2 was ended by SIGKILL.*\n", "".join(seen))


def test_who_has_said_why_it_ends_is_not_interrupted(capsys):
    """A child with an exit status has spoken: its parent ends in silence."""
    spoken = subprocess.Popen(["false"])
    spoken.wait()
    said = run(CLOSED, trainer(children=[spoken]))
    assert isinstance(said, SystemExit) and said.code == 1
    assert capsys.readouterr() == ("", "")


def test_a_failure_of_the_first_ends_those_that_it_started(child):
    failure = UserError("the disk is full")
    assert run(failure, trainer(children=[child])) is failure
    assert child.wait(PATIENCE) == -signal.SIGKILL


def test_lightning_sees_children_that_never_fail_and_can_signal_them(child):
    watched = trainer(children=[child])

    def adopted():
        (seen,) = watched.strategy.launcher.procs
        return seen is not child

    def send():
        wait_until(adopted)
        (seen,) = watched.strategy.launcher.procs
        assert seen.poll() == seen.returncode == 0
        seen.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE) == -signal.SIGTERM

    run(CLOSED, watched, send)


def test_of_an_interruption_nobody_says_that_a_process_was_killed(child, capsys):
    """Lightning kills the other processes, and then leaves by an exit."""
    watched = trainer(children=[child])

    def interrupt():
        wait_until(lambda: watched.strategy.launcher.procs[0] is not child)
        watched.strategy.launcher.procs[0].send_signal(signal.SIGKILL)
        child.wait(PATIENCE)

    leaves = SystemExit(1)
    assert run(leaves, watched, interrupt) is leaves
    assert capsys.readouterr().err == ""


def test_of_several_that_fail_the_first_to_fail_speaks(met):
    first = UserError("a photo has changed")
    assert run(first, trainer(rank=2, world=3, devices=4)) is first
    for rank, failure in ((1, UserError("another")), (0, CLOSED)):
        said = run(failure, trainer(rank=rank, world=3, devices=4))
        assert isinstance(said, SystemExit) and said.code == 1


def test_where_nobody_says_why_the_first_to_lose_another_says_so(met, monkeypatch):
    monkeypatch.setattr(together, "GRACE", 0.5)
    said = run(CLOSED, trainer(rank=1, world=3, devices=4))
    assert isinstance(said, UserError) and "another process of this run is gone" in str(said)
    assert isinstance(run(CLOSED, trainer(rank=2, world=3, devices=4)), SystemExit)


def test_of_an_interruption_the_first_process_tells(met):
    said = run(KeyboardInterrupt(), trainer(rank=1, devices=4))
    assert isinstance(said, SystemExit) and said.code == 1
    assert isinstance(run(KeyboardInterrupt(), trainer(rank=0, devices=4)), KeyboardInterrupt)


# What is refused


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork_find_unused_parameters_true"])
def test_strategies_that_lose_results_are_refused(strategy):
    with pytest.raises(UserError, match=f"{strategy} would lose .* choose ddp"):
        check_lightning(0, {"strategy": strategy})
    check_lightning(0, {"strategy": "ddp_find_unused_parameters_true"})


def test_several_machines_have_to_know_of_each_other(monkeypatch):
    for name in ("MASTER_ADDR", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="num_nodes is 2, and nothing says where the others are"):
        check_lightning(0, {"num_nodes": 2})
    monkeypatch.setenv("MASTER_ADDR", "node1")
    check_lightning(0, {"num_nodes": 2})


def test_a_cpu_takes_no_more_processes_than_it_has_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    strategy = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
    check_processes(SimpleNamespace(strategy=strategy, num_devices=4))
    with pytest.raises(UserError, match=r"devices is 5; .* at most 4"):
        check_processes(SimpleNamespace(strategy=strategy, num_devices=5))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    check_processes(SimpleNamespace(strategy=strategy, num_devices=2))
    strategy.root_device.type = "cuda"
    check_processes(SimpleNamespace(strategy=strategy, num_devices=8))


# Two processes in truth

TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")
PROGRAM = [sys.executable, "-m", "declip_pl"]


def run_apart(folder, *arguments, **variables):
    return run_in([*PROGRAM, *arguments], folder, os.environ | variables)


def run_well(folder, *arguments, **variables):
    done = run_apart(folder, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    return done


def rows_of(run):
    with (run / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def scores_of(path):
    return json.loads(path.read_text())["scores"]


def errors(text):
    """Return what a process printed that is not a library's warning."""
    return [line for line in text.splitlines() if line.startswith("error:") or "Trace" in line]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """66 photos to train on, more than a shard; 21 for validation, 5 to test: uneven shares."""
    counts = {"train": 66, "valid": LEAST + 1, "test": 5}
    return make_tree(tmp_path_factory.mktemp("uneven") / "dolos", counts=counts)


@pytest.mark.slow  # four runs in two processes
def test_two_processes_train_validate_and_test_as_one(
    fit_arguments, uneven, tmp_path, monkeypatch, capsys
):
    said = {"data.root": uneven, "trainer.max_epochs": 1}
    words = fit_arguments(**said, **{"run.name": "two", "data.batch_size": 1})
    run_well(tmp_path, *words, *TWO, DECLIP_FEATURES=str(tmp_path / "of_two"))
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "of_one"))
    cli.main(fit_arguments(**said, **{"run.name": "one", "data.batch_size": 2}))

    shards = [{p.name: p.read_bytes() for p in (tmp_path / name).glob("*/*.safetensors")}
              for name in ("of_two", "of_one")]  # fmt: skip
    assert shards[0] == shards[1] and len(shards[0]) == 3
    one, two = tmp_path / "outputs/one", tmp_path / "outputs/two"
    for ours, theirs in zip(rows_of(two), rows_of(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    ours, theirs = (read_checkpoint(run).likeness.as_tensors() for run in (two, one))
    assert theirs["photos"] == LEAST + 1
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())

    # One model, to the last digit: batches of one photo are the same whatever the devices.
    words = ["test", str(one), "--data.batch_size=1"]
    cli.main([*words, f"--output={tmp_path / 'one'}"])
    run_well(tmp_path, *words, *TWO, f"--output={tmp_path / 'two'}")
    name = "test_metrics_ldm.json"
    assert scores_of(tmp_path / "two" / name) == scores_of(tmp_path / "one" / name)

    words = ["validate", f"--config={one / 'config.yaml'}", f"--ckpt_path={one}",
             "--data.batch_size=1"]  # fmt: skip
    capsys.readouterr()
    cli.main(words)
    figures = re.compile(r"val/\S+ +\D* *[\d.]+")
    expected = figures.findall(capsys.readouterr().out)
    done = run_well(tmp_path, *words, *TWO)
    assert figures.findall(done.stdout) == expected and len(expected) > 5


@pytest.mark.slow  # starts three processes
@pytest.mark.parametrize("share", [0, 1], ids=["first", "second"])
def test_an_error_of_one_process_ends_both_with_one_message(
    fit_arguments, own_tree, tmp_path, share
):
    """A damaged mask that only one of them reads, as nothing is checked before."""
    words = {"data.root": own_tree, "run.name": "x", "trainer.max_epochs": 1}
    cli.main(fit_arguments(**words))
    mask = own_tree / "fake/ldm/masks/test" / f"{share}.png"
    mask.write_bytes(b"not an image")
    done = run_apart(
        tmp_path, "test", str(tmp_path / "outputs/x"), *TWO, "--data.check=false", "--overwrite"
    )
    assert done.returncode == 1
    (line,) = errors(done.stderr)
    assert line.startswith("error: ") and str(mask) in line
    assert not left_over(tmp_path)


def left_over(folder):
    """Return the processes of a run that are still there."""
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(folder) in str(p.info)]


@pytest.mark.slow  # starts two processes
@pytest.mark.parametrize(
    ("victim", "number", "status", "told"),
    [
        ("second", signal.SIGKILL, 1, "process 1 of 2 was ended by SIGKILL"),
        ("first", signal.SIGKILL, -signal.SIGKILL, "the first process of this run is gone"),
        ("first", signal.SIGTERM, 143, "ended by SIGTERM; finished epochs are kept"),
    ],
    ids=["kill the second", "kill the first", "end the first"],
)
def test_a_process_that_is_killed_ends_the_other(
    fit_arguments, tmp_path, victim, number, status, told
):
    words = fit_arguments(**{"run.name": "x", "trainer.max_epochs": 10_000})
    with (tmp_path / "err").open("w+") as err:
        first = subprocess.Popen([*PROGRAM, *words, *TWO], stderr=err, stdout=subprocess.DEVNULL)
        wait_until((tmp_path / "outputs/x/metrics.csv").exists, first)
        (second,) = (
            c for c in psutil.Process(first.pid).children() if "declip_pl" in " ".join(c.cmdline())
        )
        (second if victim == "second" else psutil.Process(first.pid)).send_signal(number)
        assert first.wait(PATIENCE) == status
        second.wait(PATIENCE)
    lines = (tmp_path / "err").read_text().splitlines()
    said = re.compile(r"error:|interrupted|ended by|this is a fault|Trace")
    found = [line for line in lines if said.match(line)]
    assert len(found) == 1 and told in found[0]


@pytest.mark.slow  # starts two processes
def test_two_machines_train_together(fit_arguments, tree, tmp_path):
    """Each is told where the first is; here both are this one."""
    words = fit_arguments(**{"run.name": "x", "trainer.num_nodes": 2, "trainer.strategy": "ddp"})
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ran = []
    for rank in range(2):
        variables = os.environ | place | {"NODE_RANK": str(rank)}
        with (tmp_path / f"out{rank}").open("w") as out:
            ran.append(subprocess.Popen([*PROGRAM, *words], env=variables, stdout=out, stderr=out))
    statuses = [process.wait(PATIENCE) for process in ran]
    said = [(tmp_path / f"out{rank}").read_text() for rank in range(2)]
    assert statuses == [0, 0], "\n".join(said)
    assert "test set ldm (4 images)" in said[0] and "test set" not in said[1]
    assert scores_of(tmp_path / "outputs/x/test_metrics.json")["ldm"]["iou_n"] == 4
