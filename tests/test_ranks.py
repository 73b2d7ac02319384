"""What several processes of one run share out and agree on; here they are threads of one."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PATIENCE, make_tree
from PIL import Image

from declip_pl.data import datamodule, feature_cache, memory
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.memory import free_memory, left_in_groups
from declip_pl.data.ranks import ALONE, Ranks, all_ranks
from declip_pl.data.room import check_room
from declip_pl.data.shards import shard_files
from declip_pl.errors import UserError
from declip_pl.files import sha256
from declip_pl.metrics.accumulate import GRAIN, LocalizationMetrics, UntouchedMetrics
from declip_pl.model.features import Features, FeatureShape, Preprocessing
from declip_pl.model.frozen import Encoder
from declip_pl.training.run_folder import is_first_process

CPU = torch.device("cpu")


class Table:
    """Where threads meet."""

    def __init__(self, world):
        self.said, self.barrier = [None] * world, Barrier(world)


class Threads(Ranks):
    """Ranks that are threads of this process."""

    def __init__(self, rank, world, table):
        super().__init__(rank, world)
        self.table = table

    def gather(self, said):
        self.table.said[self.rank] = said
        self.table.barrier.wait(PATIENCE)
        found = list(self.table.said)
        self.table.barrier.wait(PATIENCE)
        return found

    def of_first(self, said):
        return self.gather(said)[0]


def at_once(world, work):
    """Do the work of each rank at the same time, and return what each returns."""
    table = Table(world)
    with ThreadPoolExecutor(world) as pool:
        ranks = [Threads(rank, world, table) for rank in range(world)]
        return [done.result(PATIENCE) for done in [pool.submit(work, rank) for rank in ranks]]


class Pixels(Encoder):
    """An encoder whose features are the pixels."""

    name, layer, source, sha256 = "pixels", "layer1", "test", "0"
    shape, arithmetic = FeatureShape(3, 2), {}
    preprocessing = Preprocessing(2, (0.0,) * 3, (1.0,) * 3)

    def __init__(self):
        super().__init__()
        self.photos = 0

    def forward(self, pixels):
        self.photos += len(pixels)
        return Features(pixels, pixels.mean((2, 3)))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Seven photos, of which two make a shard."""
    monkeypatch.setattr(feature_cache, "SHARD", 2)
    paths = [tmp_path / f"{level}.png" for level in range(30, 100, 10)]
    for path in paths:
        Image.fromarray(np.full((2, 2, 3), int(path.stem), np.uint8)).save(path)
    return paths


def content(folder):
    return {path.name: path.read_bytes() for path in shard_files(folder)}


@pytest.mark.parametrize(("world", "shares"), [(1, [7]), (2, [4, 3]), (3, [3, 2, 2])])
def test_ranks_share_out_what_is_encoded(photos, tmp_path, capsys, world, shares):
    """Uneven shares, of the same files as one process writes, and one of them speaks."""
    encoders = [Pixels() for _ in range(world)]

    def work(ranks):
        cache = FeatureCache(encoders[ranks.rank], root=tmp_path / "shared")
        return cache.fetch(photos, CPU, ranks=ranks)

    found = at_once(world, work)
    assert [encoder.photos for encoder in encoders] == shares
    assert capsys.readouterr().out.count("for 7 photos") == 1
    alone = FeatureCache(Pixels(), root=tmp_path / "alone")
    alone.fetch(photos, CPU)
    shared = tmp_path / "shared" / alone.folder.name
    assert content(shared) == content(alone.folder) and len(content(shared)) == 4
    for features in found:
        assert [int(features[p].grid[0, 0, 0] * 255 + 0.5) for p in photos] == list(
            range(30, 100, 10)
        )


def test_more_ranks_than_batches(photos, tmp_path):
    encoders = [Pixels() for _ in range(6)]

    def work(ranks):
        cache = FeatureCache(encoders[ranks.rank], root=tmp_path / "shared")
        return cache.fetch(photos, CPU, ranks=ranks)

    assert all(len(found.places) == 7 for found in at_once(6, work))
    assert [encoder.photos for encoder in encoders] == [2, 2, 2, 1, 0, 0]


def test_a_rank_that_sees_another_disk_encodes_what_it_lacks(photos, tmp_path):
    """The second has its own folder, and in it already what the first has yet to encode."""
    roots = [tmp_path / "one", tmp_path / "two"]
    FeatureCache(Pixels(), root=roots[1]).fetch(photos[:2], CPU)
    encoders = [Pixels(), Pixels()]

    def work(ranks):
        cache = FeatureCache(encoders[ranks.rank], root=roots[ranks.rank])
        return cache.fetch(photos, CPU, ranks=ranks)

    for found, root in zip(at_once(2, work), roots, strict=True):
        assert len(found.places) == 7
        used = {shard for shard, _ in found.places.values()}
        assert all(shard.is_relative_to(root) and shard.exists() for shard in used)
    # The first has its share and then all that the second wrote elsewhere; so has the second, but
    # for the two that it had.
    assert [encoder.photos for encoder in encoders] == [7, 7 - 2]


def test_a_rank_whose_photos_are_there_does_not_hold_up_the_others(photos, tmp_path):
    roots = [tmp_path / "one", tmp_path / "two"]
    FeatureCache(Pixels(), root=roots[0]).fetch(photos, CPU)

    def work(ranks):
        return FeatureCache(Pixels(), root=roots[ranks.rank]).fetch(photos, CPU, ranks=ranks)

    assert [len(found.places) for found in at_once(2, work)] == [7, 7]


def test_a_damaged_shard_is_named_once_and_made_again(photos, tmp_path, capsys):
    root = tmp_path / "shared"
    cache = FeatureCache(Pixels(), root=root)
    cache.fetch(photos, CPU)
    before = content(cache.folder)
    damaged = shard_files(cache.folder)[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    capsys.readouterr()
    at_once(2, lambda ranks: FeatureCache(Pixels(), root=root).fetch(photos, CPU, ranks=ranks))
    assert capsys.readouterr().out.count(f"{damaged} is damaged") == 1
    assert content(cache.folder) == before


def test_one_process_talks_to_itself():
    with all_ranks() as ranks:
        assert ranks is ALONE and ranks.first
        assert ranks.gather("said") == ["said"] and ranks.of_first("said") == "said"


# Shares of what is evaluated


def test_more_devices_than_photos_are_refused_before_training(tmp_path):
    tree = make_tree(tmp_path / "few", counts={"train": 4, "valid": 2, "test": 1})
    data = LocalizationDataModule(str(tree), "ldm")
    data.trainer = SimpleNamespace(world_size=2, global_rank=0)
    data.setup("fit")
    data.is_tested_next = True
    with pytest.raises(UserError, match=r"test/ldm has fewer photos \(1\) than .* devices \(2\)"):
        data.setup("fit")
    data.setup("validate")
    with pytest.raises(UserError, match="test/ldm has fewer"):
        data.setup("test")
    data.photos = [tree / "real/test/0.png"]
    with pytest.raises(UserError, match="predict has fewer"):
        data.setup("predict")
    data.trainer.world_size = 3
    with pytest.raises(UserError, match=r"valid/ldm has fewer photos \(2\)"):
        data.setup("validate")


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"RANK": "4", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),
    ],
)
def test_the_first_of_all_processes_decides(monkeypatch, variables, first):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first


# Figures


def test_sums_do_not_depend_on_who_adds_what():
    """Three processes in any order have the digits of one, which plain sums have not."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(60, 1, 8, 8, generator=generator)
    masks = list(torch.rand(60, 8, 8, generator=generator) < 0.1)
    alone = LocalizationMetrics(0.3, 0.6)
    alone.update(maps, masks)
    shares = [LocalizationMetrics(0.3, 0.6) for _ in range(3)]
    for index in torch.randperm(60, generator=generator).tolist():
        shares[index % 3].update(maps[index : index + 1], masks[index : index + 1])
    total = sum(part.total for part in shares)
    assert torch.equal(total, alone.total)
    assert torch.equal(sum(part.count for part in shares), alone.count)


def test_a_score_that_is_added_changes_by_less_than_anybody_prints():
    metric = UntouchedMetrics(0.5)
    metric.update(torch.rand(1, 1, 64, 64), [torch.zeros(64, 64, dtype=torch.bool)])
    assert torch.equal(metric.total / GRAIN, (metric.total / GRAIN).round())
    assert GRAIN < 1e-7


# Memory and disk


def group(folder: Path, version, limit, used, droppable):
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names[:2], (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {droppable}\n")


def left(tmp_path, lines):
    (tmp_path / "mine").write_text(lines)
    return list(left_in_groups(tmp_path / "mine", tmp_path / "groups"))


def test_limits_of_a_job_and_of_all_above_it_count(tmp_path):
    """Version 2, as SLURM has it: the step has no limit, its job has."""
    job = tmp_path / "groups/system.slice/slurmstepd.scope/job_7"
    group(job / "step_0/user/task_0", 2, "max", 300, 100)
    group(job, 2, 1000, 300, 100)
    group(job.parents[1], 2, 5000, 4900, 0)
    lines = "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n"
    assert left(tmp_path, lines) == [800, 100]


@pytest.mark.parametrize("inside", ["docker/3f", ""])
def test_limits_of_version_1(tmp_path, inside):
    """A container may see itself at the top only, not at its host's path."""
    group(tmp_path / "groups/memory" / inside, 1, 2**30, 2**20, 0)
    lines = "5:cpu,cpuacct:/docker/3f\n4:memory:/docker/3f\n1:name=systemd:/x\n0::/\n"
    assert left(tmp_path, lines) == [2**30 - 2**20]


def test_without_limits_the_machine_decides(tmp_path, monkeypatch):
    assert left(tmp_path, "0::/\n") == []
    assert list(left_in_groups(tmp_path / "nowhere", tmp_path)) == []
    monkeypatch.setattr(memory, "left_in_groups", lambda: iter(()))
    whole = free_memory(CPU)
    monkeypatch.setattr(memory, "left_in_groups", lambda: iter([1000, 70]))
    assert whole > 1000 and free_memory(CPU) == 70


def test_a_limit_that_is_passed_leaves_nothing(tmp_path):
    group(tmp_path / "groups", 2, 100, 130, 10)
    assert left(tmp_path, "0::/\n") == [0]


@pytest.mark.parametrize(("devices", "preloaded"), [(1, True), (2, False)])
def test_processes_on_cpus_share_the_memory_that_is_free(tree, monkeypatch, devices, preloaded):
    data = LocalizationDataModule(str(tree), "ldm")
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, num_devices=devices)
    sets = [data.train_set(), *data.valid_sets()]
    needed = sum(part.mask_bytes() for part in sets)
    monkeypatch.setattr(datamodule, "free_memory", lambda device: 6 * needed)
    data.preload(CPU)
    loader = data.val_dataloader()[0]
    assert (loader.num_workers == 0) == preloaded


def test_room_is_asked_for_all_that_is_missing(photos, tmp_path, monkeypatch):
    """Of seven photos two are there; the rest need 5 tokens of 3 channels of 2 bytes each."""
    cache = FeatureCache(Pixels(), root=tmp_path / "new" / "features")
    changed = FeatureCache(Pixels(), "blur", root=tmp_path / "new" / "features")
    keys = [sha256(photo) for photo in photos]
    wanted = [(cache, keys[:4]), (cache, keys[2:]), (changed, keys[:1])]
    usage = shutil.disk_usage("/")

    def check(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
        check_room(wanted)

    check(8 * 30)
    with pytest.raises(UserError, match=r"do not fit into .*features: .*\(8 photos\).*DECLIP_F"):
        check(8 * 30 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    cache.fetch(photos[:2], CPU)
    check(6 * 30)
    with pytest.raises(UserError, match="6 photos"):
        check(6 * 30 - 1)
