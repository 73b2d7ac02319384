"""Training on forgeries: what an epoch sees, what validation decides by, what is on record."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import make_tree
from forgery_example import COUNTS, quick, small_tree, write_photos
from PIL import Image

from declip_pl import cli
from declip_pl.cross_eval.models import choices, read_models
from declip_pl.data import chosen
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import EpochSampler
from declip_pl.data.forgeries.sources import Forgeries
from declip_pl.data.layout import build_layout
from declip_pl.data.masks import read_mask
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.model.description import Description, ForgedPhotos, TrainedOn, describe
from declip_pl.model.features import Identity
from declip_pl.training.recipe import Options, Recipe
from declip_pl.training.run_folder import run_name


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("forged")


@pytest.fixture(scope="module")
def root(home) -> Path:
    return small_tree(home / "photos")


@pytest.fixture(autouse=True)
def cache(home, monkeypatch):
    quick(monkeypatch, home / "cache")


def module(root: Path, generator: str = "ldm", **options) -> LocalizationDataModule:
    options = {"batch_size": 4, "num_workers": 0, "forgeries": Forgeries(versions=3)} | options
    return LocalizationDataModule(str(root), generator, **options)


def paths(data, epoch: int) -> list[Path]:
    data.epoch = epoch
    return [Path(data.path(index)) for index in range(len(data))]


def test_an_epoch_sees_fakes_reals_and_the_next_version_of_each_forgery(root):
    photos = module(root)
    data = photos.train_set()
    fixed = [sample.image for sample in photos.files("train", "ldm", "real")]
    assert len(data) == 3 * COUNTS["train"] and len(data.samples) == 5 * COUNTS["train"]
    epochs = [paths(data, epoch) for epoch in range(4)]
    versions = [[sample.image for sample in version] for version in photos.forged_samples("train")]
    assert epochs[:3] == [[*fixed, *version] for version in versions]
    assert epochs[3] == epochs[0] and len({*epochs[0], *epochs[1], *epochs[2]}) == 20


@pytest.mark.parametrize("supervision", ["full", "weak"])
def test_every_item_is_of_its_epoch(root, supervision):
    photos = module(root, supervision=supervision)
    data = photos.train_set()
    for epoch in range(3):
        for index, path in enumerate(paths(data, epoch)):
            item = data[index]
            (sample,) = (s for s in data.samples if s.image == path)
            assert item["path"] == str(path) and item["name"] == sample.name
            assert item["label"] == (sample.mask is not None)
            assert item["mask"].any() == (sample.mask is not None)
            if sample.generator == "forgeries" and sample.mask:
                share = read_mask(sample.mask, "white").mean()
                assert item["mask"].float().mean() == pytest.approx(share, abs=0.02)


def test_preloaded_masks_are_those_of_the_epoch(root):
    plain, preloaded = module(root).train_set(), module(root).train_set()
    assert preloaded.mask_bytes() == 20 * 256**2
    preloaded.preload(torch.device("cpu"))
    for epoch in range(3):
        plain.epoch = preloaded.epoch = epoch
        for index in range(len(plain)):
            assert torch.equal(plain[index]["mask"], preloaded[index]["mask"])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_the_same_with_any_number_of_workers_and_processes(root, workers):
    photos = module(root, num_workers=workers)
    data = photos.train_set()
    loader = photos.train_dataloader()
    for epoch in (0, 1, 5):
        loader.sampler.set_epoch(epoch)
        seen = [path for batch in loader for path in batch["path"]]
        assert sorted(seen) == sorted(map(str, paths(data, epoch)))
        shares = []
        for rank in range(2):
            sampler = EpochSampler(data, 2, rank, shuffle=True, seed=0)
            sampler.set_epoch(epoch)
            shares += [data.path(index) for index in sampler]
        assert sorted(shares) == sorted(seen)


def test_with_none_training_sees_no_generators_photos(root):
    photos = module(root, "none")
    train = photos.train_set()
    assert len(train) == 2 * COUNTS["train"] and len(train.samples) == 4 * COUNTS["train"]
    assert {sample.generator for sample in train.samples} == {"forgeries", "real"}
    assert [data.name for data in photos.valid_sets()] == ["valid/forgeries", "valid/real"]
    assert [data.name for data in photos.test_sets()] == ["test/lama", "test/ldm", "test/real"]
    assert photos.trained_on.generators == ("forgeries",) and not list(photos.train_masks())
    with pytest.raises(UserError, match="none trains on forgeries alone; say of which photos"):
        module(root, "none", forgeries=None)


def test_validation_has_a_set_of_forgeries_and_takes_untouched_photos_as_they_are(root):
    photos = module(root, forgeries=Forgeries(versions=10))
    fakes, made, reals = photos.valid_sets()
    assert [fakes.name, made.name, reals.name] == ["valid/ldm", "valid/forgeries", "valid/real"]
    assert len(fakes) == COUNTS["valid"] and all(sample.mask for sample in made.samples)
    assert 0 < len(made) < 10 * COUNTS["valid"]  # in some of the forged photos nothing was forged
    assert {sample.generator for sample in reals.samples} == {"real"}
    assert len(reals) == COUNTS["valid"]
    assert made[0]["mask"].shape == (96, 96)


@pytest.mark.parametrize("name", ["more", "real"])
def test_further_photos_are_seen_as_they_are_in_training_and_validation(root, tmp_path, name):
    folder = write_photos(tmp_path / name, 12)
    photos = module(root, forgeries=Forgeries([str(folder)], versions=2))
    train, (*_, reals) = photos.train_set(), photos.valid_sets()
    further = set(folder.iterdir())
    seen = {sample.image for sample in train.samples if sample.generator == "real"}
    held_back = {sample.image for sample in reals.samples}
    assert held_back & further and seen & further and seen | held_back > further
    assert not seen & held_back
    assert seen - further == {s.image for s in photos.files("train", "real")}
    assert held_back - further == {s.image for s in photos.files("valid", "real")}
    assert not any(s.mask for s in [*train.samples, *reals.samples] if s.image in further)
    assert photos.trained_on.untouched == sum(sample.mask is None for sample in train.samples)


def test_a_further_photo_that_changes_meanwhile_is_named(root, tmp_path):
    folder = write_photos(tmp_path / "more", 12)
    photos = module(root, forgeries=Forgeries([str(folder)], versions=1))
    train = photos.train_set()
    index, changed = next((i, s) for i, s in enumerate(train.samples) if s.image.parent == folder)
    Image.new("RGB", (90, 90)).save(changed.image)
    with pytest.raises(UserError, match=f"{changed.image} has changed"):
        train[index]


def test_without_forgeries_nothing_is_another(root, monkeypatch):
    monkeypatch.setattr(chosen, "ForgeryFolder", None)
    photos = module(root, forgeries=None)
    assert [data.name for data in photos.valid_sets()] == ["valid/ldm", "valid/real"]
    assert len(photos.train_set()) == COUNTS["train"] and photos.trained_on.forgeries is None


def test_tests_do_not_touch_forgeries(root, monkeypatch):
    monkeypatch.setattr(chosen, "ForgeryFolder", None)
    photos = module(root)
    assert len(photos.test_sets()) == 2 and photos.notice == "" and photos.fingerprint
    assert list(photos.train_masks())


@pytest.mark.parametrize("name", ["forgeries", "none"])
def test_words_for_training_without_generator_are_no_generators_names(tmp_path, name):
    root = make_tree(tmp_path / "photos", generators=(name,), counts={"test": 1})
    with pytest.raises(UserError, match=f"{name}' is no generator's name; rename it"):
        build_layout("dolos", root)


def test_a_forgery_that_changes_meanwhile_is_named(tmp_path, monkeypatch):
    quick(monkeypatch, tmp_path / "cache")
    data = module(small_tree(tmp_path / "photos")).train_set()
    Path(data.path(4)).touch()
    with pytest.raises(UserError, match="has changed since this run began"):
        data[4]


def fit(fit_arguments, root, **options) -> None:
    given = {"data.root": root, "trainer.max_epochs": 2, "data.num_workers": 0}
    given |= {"data.forgeries": "{versions: 3}", "run.name": "run"}
    cli.main(fit_arguments(**given | options))


def test_the_score_is_the_mean_of_both_sets(fit_arguments, root, tmp_path):
    fit(fit_arguments, root)
    run = tmp_path / "outputs/run"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        both = (float(row["val/iou"]) + float(row["val/forgeries_iou"])) / 2
        assert "val/untouched_area" in row and "val/forgeries_untouched_area" not in row
        assert float(row["val/score"]) == pytest.approx(both, rel=1e-5)
    described = read_checkpoint(run)
    assert described.trained_on.generators == ("ldm",)
    assert described.trained_on.forgeries == module(root).trained_on.forgeries
    assert described.thresholds.pixel is not None
    assert json.loads((run / "test_metrics.json").read_text())["scores"].keys() == {"ldm"}


def test_none_is_tested_on_every_generator_and_scored_on_forgeries(fit_arguments, root, tmp_path):
    fit(fit_arguments, root, data__generator="none")
    run = tmp_path / "outputs/run"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["val/score"] == row["val/iou"] for row in rows)
    results = json.loads((run / "test_metrics.json").read_text())
    assert results["scores"].keys() == {"lama", "ldm"}
    made = results["model"]["forgeries"]
    assert made["photos"] == {"real": 6} and "own" in made["operations"]
    assert results["baselines"]["ldm"]["mean train mask"] == {}
    (model,), failures = read_models([run], ["lama", "ldm"])
    assert not failures and model.row == "none" and model.trained_on == ("forgeries",)
    cli.main(["test", str(run), "--overwrite", "--trainer.logger=false"])


def test_a_resumed_run_ends_as_if_it_had_never_stopped(
    fit_arguments, root, tmp_path, monkeypatch, error_of
):
    quick(monkeypatch, tmp_path / "cache")
    further = write_photos(tmp_path / "further", 2)
    said = "{photos: [%s], versions: %d}"
    options = {"schedule": "PaperSchedule", "data.forgeries": said % (further, 2)}
    fit(fit_arguments, root, **options, run__name="whole")
    fit(fit_arguments, root, **options, run__name="part", trainer__max_epochs=1)
    options["ckpt_path"] = tmp_path / "outputs/part/checkpoints/last.ckpt"
    fit(fit_arguments, root, **options, run__name="resumed")
    tables = [
        (tmp_path / "outputs" / name / "metrics.csv").read_text() for name in ("whole", "resumed")
    ]
    assert tables[0] == tables[1] and tables[0].count("\n") == 3
    options |= {"data.root": root, "run.name": "other"}
    write_photos(tmp_path / "new", 1, seed=8)
    (tmp_path / "new/further0.png").rename(further / "one-more.png")
    assert "trained on other data: its forgeries are" in error_of(*fit_arguments(**options))
    options["data.forgeries"] = said % (further, 1)
    assert "other settings: data.forgeries is" in error_of(*fit_arguments(**options))


RECORD = ForgedPhotos("ab" * 32, {"real": 3}, 4, ("own", "blur"))


def test_a_description_keeps_what_is_on_record_of_forgeries():
    trained_on = TrainedOn(("ldm",), "full", "", forgeries=RECORD)
    identity = Identity("clip", "layer1", "hub", "0" * 64)
    said = Description("clip", "layer1", "linear", 64, identity, trained_on=trained_on).as_dict()
    assert describe(json.loads(json.dumps(said)), "x").trained_on == trained_on
    for name, value in (
        *(("sha256", "abc"), ("photos", {"real": -1}), ("photos", [1]), ("versions", 0)),
        *(("operations", "own"), ("operations", [3]), ("further", 1)),
    ):
        damaged = json.loads(json.dumps(said))
        damaged["trained_on"]["forgeries"][name] = value
        with pytest.raises(UserError, match=rf"trained_on\.forgeries\.{name}"):
            describe(damaged, "x")
    said["trained_on"].pop("forgeries")  # a checkpoint of before
    assert describe(said, "x").trained_on.forgeries is None


def test_the_option_adds_folders_to_the_recipes(tmp_path):
    sections = {"data": {"forgeries": {"photos": ["a"], "versions": 2}}}
    given = Options(forgeries="b,a,c").given(sections)
    assert given == {"data.forgeries": Forgeries(["a", "b", "c"], 2)}
    assert Options(forgeries="own").given({}) == {"data.forgeries": Forgeries()}
    assert Options().given(sections) == {}
    assert Options(forgeries="own").trains() and not Options().trains()


def test_runs_on_forgeries_have_names_of_their_own():
    plain, own, further = (
        run_name("x", "y", "z", "ldm", forgeries=forgeries)
        for forgeries in (None, Forgeries(), Forgeries(["photos"]))
    )
    assert plain == "x-y-z-ldm" and own == "x-y-z-ldm-forgeries"
    assert further.startswith(own) and further != own


def test_a_matrix_has_a_row_of_forgeries_where_it_is_asked_for():
    assert choices(["a", "b"], loo=False, none=False) == ["a", "b"]
    assert choices(["a", "b"], loo=False, none=True) == ["a", "b", "none"]


def test_a_recipe_knows_the_runs_that_it_made(root, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"model: {{encoder: {clip}, layer: layer1, decoder: linear}}\n"
        "data: {root: x, generator: x, batch_size: 4, num_workers: 0, forgeries: {versions: 2}}\n"
        "trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, logger: false}\n"
    )
    further = write_photos(tmp_path / "further", 3)
    given = [f"--data={root}", f"--config={recipe}", f"--forgeries={further}"]
    cli.main(["train", *given, "--generator=none"])
    ours = Recipe(root, recipe, Options(forgeries=str(further)))
    run = ours.run("none", 0).folder
    assert (run / "test_metrics.json").is_file() and "-none-forgeries-" in run.name
    ours.check(run, "none")
    assert f"--forgeries={further}" in ours.command("none", 0)
    cli.main(["train", *given, "--generator=ldm"])
    both, _ = read_models([ours.run("ldm", 0).folder, run], ["lama", "ldm"])
    assert [model.row for model in both] == ["ldm", "none"]  # both have seen forgeries
    with pytest.raises(UserError, match=r"another recipe \(data\.forgeries is"):
        Recipe(root, recipe, Options()).check(run, "none")
    write_photos(tmp_path / "new", 1, seed=8)
    (tmp_path / "new/further0.png").rename(further / "one-more.png")
    with pytest.raises(UserError, match="trained on other forgeries"):
        ours.check(run, "none")


# Without a data set


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    return [write_photos(tmp_path / "a", 12), write_photos(tmp_path / "b", 8, seed=8)]


def alone(*folders: Path, **options) -> LocalizationDataModule:
    made = Forgeries([str(folder) for folder in folders], versions=2)
    return module(Path("none"), "none", forgeries=made, **options)


def test_folders_of_photos_are_seen_as_they_are_and_forged(folders):
    photos = alone(*folders)
    train, (made, reals) = photos.train_set(), photos.valid_sets()
    originals = {path for folder in folders for path in folder.iterdir()}
    seen = [sample for sample in train.samples if sample.image in originals]
    assert {sample.generator for sample in seen} == {"real"} and not any(s.mask for s in seen)
    valid = {sample.image for sample in reals.samples}
    assert valid < originals
    assert valid and {sample.image for sample in seen} == originals - valid
    assert len(train.samples) == 3 * len(seen) and len(train) == 2 * len(seen)
    assert len(reals) == len(valid) and 0 < len(made) <= 2 * len(valid)
    said = photos.trained_on
    assert said.generators == ("forgeries",) and said.forgeries.photos == {"a": 12, "b": 8}
    assert said.data == "none" and said.notice == ""
    assert said.untouched == sum(sample.mask is None for sample in train.samples) > len(seen)
    assert photos.test_sets() == [] and photos.generators == []


def test_where_the_photos_lie_is_no_part_of_what_is_trained_on(folders, tmp_path):
    before = alone(*folders).fingerprint
    moved = folders[0].rename(tmp_path / "moved")
    assert alone(folders[1], moved).fingerprint == before
    assert alone(moved).fingerprint != before


@pytest.mark.parametrize(
    ("generator", "forgeries", "expected"),
    [
        ("ldm", Forgeries(["a"]), "no photos of 'ldm' without a data set .--data none"),
        ("all", Forgeries(["a"]), "no photos of 'all' without a data set"),
        ("none", Forgeries(), "name their folders: --forgeries DIR,DIR. A folder called none is"),
        ("none", None, "none trains on forgeries alone; say of which photos"),
        ("none", Forgeries(["nowhere"]), "there is no folder nowhere of photos to forge"),
        ("none", Forgeries(["empty"]), "empty holds no photo to forge$"),
    ],
)
def test_without_a_data_set_there_have_to_be_photos(
    folders, tmp_path, monkeypatch, generator, forgeries, expected
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(UserError, match=expected):
        module(Path("none"), generator, forgeries=forgeries)


def test_too_few_photos_for_validation_are_refused(tmp_path):
    photos = alone(write_photos(tmp_path / "a", 1))
    with pytest.raises(
        UserError, match=r"no untouched (valid|train) photo to forge: a hash of its"
    ):
        photos.train_set()


def test_a_run_without_a_data_set_is_finished_and_tested_where_there_is_one(
    folders, root, clip, tmp_path, monkeypatch, error_of, capsys
):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"model: {{encoder: {clip}, layer: layer1, decoder: linear}}\n"
        "data: {root: x, generator: x, batch_size: 4, num_workers: 0, forgeries: {versions: 2}}\n"
        "trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, logger: false}\n"
    )
    photos = ",".join(map(str, folders))
    options = [f"--config={recipe}", "--data=none", "--generator=none", f"--forgeries={photos}"]
    cli.main(["train", *options, "--name=run"])
    printed = capsys.readouterr().out
    assert "data: none (DATA names it)" in printed and "there was no data set to test" in printed
    assert "declip-pl evaluate outputs/train/run --data DIR" in printed.replace("\n", " ")
    run = Path("outputs/train/run")
    results = json.loads((run / "test_metrics.json").read_text())
    assert results["scores"] == {} and results["data"]["root"] == "none"
    assert read_checkpoint(run).thresholds.floor is not None  # by the untouched ones
    assert "there is nothing to test on: name one (--data DIR)" in error_of("test", str(run))
    cli.main(["test", str(run), f"--data={root}"])
    (tested,) = run.glob("test_metrics_*.json")
    assert json.loads(tested.read_text())["scores"].keys() == {"lama", "ldm"}
    cli.main(["predict", str(folders[0] / "further0.png")])
    assert "model: outputs/train/run (the only finished run)" in capsys.readouterr().out
    assert "none has no test photos to score on" in error_of(
        "cross-eval", "--data=none", "--forgeries=a"
    )


def test_the_forgeries_of_folders_are_looked_at_without_a_data_set(folders, tmp_path, capsys):
    photos, sheet = ",".join(map(str, folders)), tmp_path / "sheet.png"
    options = [f"--photos={photos}", "--versions=1", f"--output={sheet}"]
    cli.main(["data", "forgeries", "none", *options])
    assert "20 of 20 photos (12 of a, 8 of b)" in capsys.readouterr().out and sheet.is_file()
