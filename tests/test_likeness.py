"""Whether a photo is like those of a training, by its features: fitted, stored, read, said."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import find, make_tree
from localizer_example import checkpoint_of, content_of
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from declip_pl import Localizer, cli
from declip_pl.data.file_kinds import Picture
from declip_pl.data.images import read_photo
from declip_pl.data.transforms import build_transform
from declip_pl.errors import UserError
from declip_pl.inference import saved_folder
from declip_pl.inference.evidence import sentences, weigh
from declip_pl.inference.prediction_report import print_report
from declip_pl.model.checkpoint import LIKENESS, read_checkpoint
from declip_pl.model.description import SeenPhotos, TrainedOn
from declip_pl.model.features import Features
from declip_pl.model.likeness import (
    COMPONENTS,
    FOLDS,
    LEAST,
    MOST,
    WITHIN,
    Likeness,
    fit_likeness,
    mean_features,
)
from declip_pl.model.transformers_encoder import TransformersEncoder
from declip_pl.training.task import LocalizationTask
from declip_pl.training.validation_photos import ValidationPhotos

PHOTOS, CHANNELS, PLANE = 200, 64, 5


def rows(count=PHOTOS, seed=0, offset=0.0):
    """Photos near a plane of five dimensions that all seeds share, or beside it."""
    plane = torch.randn(PLANE, CHANNELS, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(count, PLANE, generator=generator)
    noise = 0.1 * torch.randn(count, CHANNELS, generator=generator)
    return 3 + places @ plane + noise + offset * torch.arange(CHANNELS).remainder(2)


def maps(means):
    """Feature maps with given means, each patch another."""
    patches = torch.tensor([-1.0, 1, 2, -2]).view(1, 1, 2, 2)
    return Features(means[:, :, None, None] + patches, None)


def same(one: Likeness, other: Likeness):
    theirs = other.as_tensors()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.as_tensors().items())


@pytest.fixture(scope="module")
def fitted() -> Likeness:
    return fit_likeness(rows())


class TestFit:
    def test_by_hand(self):
        plain = Likeness(
            torch.tensor([1.0, 1, 1, 1]),
            torch.tensor([1.0, 1, 2, 1]),
            torch.tensor([[1.0, 0, 0, 0]]),
            torch.tensor(0.5),
            torch.tensor(LEAST),
        )
        on_it, beside = torch.tensor([[9.0, 1, 1, 1]]), torch.tensor([[-4.0, 1, 5, 1]])
        assert plain.distances(maps(torch.cat([on_it, beside]))) == pytest.approx([0, 1])

    @pytest.mark.parametrize(("count", "channels"), [(200, 64), (30, 64), (200, 6)])
    def test_distances_are_those_of_another_implementation(self, count, channels):
        known, new = rows(count)[:, :channels], rows(50, seed=1, offset=0.3)[:, :channels]
        found = fit_likeness(known)
        expected = residuals(known, new, len(found.components))
        assert found.distances(maps(new)) == pytest.approx(expected, abs=2e-3)  # of 16 bits
        assert len(found.components) == min(COMPONENTS, count // 4, channels // 2)
        assert found.photos == count

    def test_the_cut_off_is_of_photos_that_the_fit_did_not_see(self, fitted):
        known = rows().unique(dim=0)
        part = torch.arange(len(known)) % FOLDS
        keep = len(fitted.components)
        held_out = [residuals(known[part != p], known[part == p], keep) for p in range(FOLDS)]
        cutoff = np.quantile(np.concatenate(held_out), WITHIN)
        assert fitted.cutoff.item() == pytest.approx(cutoff, rel=1e-5)

    def test_photos_of_the_same_kind_lie_within_it_and_others_do_not(self, fitted):
        def share(photos):
            return (torch.tensor(fitted.distances(maps(photos))) > fitted.cutoff).float().mean()

        assert share(rows(2000, seed=1)) < 0.1
        assert share(rows(2000, seed=1, offset=1.0)) > 0.9

    def test_neither_order_nor_repeats_change_it(self, fitted):
        mixed = rows()[torch.randperm(PHOTOS, generator=torch.Generator().manual_seed(1))]
        assert same(fit_likeness(mixed), fitted)
        assert same(fit_likeness(torch.cat([mixed, mixed[:50]])), fitted)

    def test_of_few_photos_there_is_none(self):
        assert fit_likeness(rows(LEAST - 1)) is None
        assert fit_likeness(rows(1).repeat(LEAST, 1)) is None
        assert len(fit_likeness(rows(LEAST)).components) == LEAST // 4

    def test_a_channel_that_does_not_vary_does_not_outweigh_the_others(self):
        constant = rows()
        constant[:, 0] = 1
        new = constant[:1].clone()
        new[:, 0] += 1e-4
        found = fit_likeness(constant)
        assert found.distances(maps(new)) == pytest.approx(
            found.distances(maps(constant[:1])), abs=1e-3
        )

    def test_means_do_not_depend_on_the_batch(self):
        grid = torch.randn(8, CHANNELS, 16, 16, generator=torch.Generator().manual_seed(0))
        whole = mean_features(Features(grid, None))
        spread = mean_features(Features(grid.to(memory_format=torch.channels_last), None))
        single = [mean_features(Features(one[None], None)) for one in grid]
        assert torch.equal(whole, torch.cat(single)) and torch.equal(whole, spread)
        assert whole.dtype is torch.float32


def residuals(known, new, keep):
    """Return distances as scikit-learn's standardisation and components give them."""
    scaler = StandardScaler().fit(known.double().numpy())
    pca = PCA(keep, svd_solver="full").fit(scaler.transform(known.double().numpy()))
    standard = scaler.transform(new.double().numpy())
    rest = standard - pca.inverse_transform(pca.transform(standard))
    return np.sqrt((rest**2).mean(1))


class TestPhotos:
    """Which validation photos count."""

    def collected(self, batches):
        photos = ValidationPhotos()
        for means, names, paths, label in batches:
            batch = {"name": names, "path": paths, "label": torch.full((len(names),), label)}
            photos.add(maps(means), batch)
        return photos.likeness()

    def batch(self, means, label, folder="real", start=0):
        names = [str(start + index) for index in range(len(means))]
        return means, names, [f"{folder}/{name}.png" for name in names], label

    def test_untouched_ones_in_any_order(self):
        known, fakes = rows(60), rows(60, seed=1)
        batches = [self.batch(known[:40], 0.0), self.batch(known[40:], 0.0, start=40)]
        found = self.collected([*batches, self.batch(fakes, 1.0)])
        assert same(found, fit_likeness(mean_features(maps(known))))
        assert same(found, self.collected([self.batch(fakes, 1.0), *batches[::-1]]))

    def test_manipulated_ones_where_few_are_untouched_one_of_each_name(self):
        fakes, others = rows(60, seed=1), rows(60, seed=2)
        batches = [
            self.batch(rows(LEAST - 1), 0.0),
            self.batch(others, 1.0, "b"),
            self.batch(fakes, 1.0, "a"),
        ]
        assert same(self.collected(batches), fit_likeness(mean_features(maps(fakes))))
        assert self.collected(batches[:1]) is None

    def test_of_many_the_same_few_whatever_the_order(self):
        count = 3 * MOST
        known = rows(count)[:, :16]
        parts = [self.batch(known[i : i + 100], 0.0, start=i) for i in range(0, count, 100)]
        found = self.collected(parts)
        assert found.photos == MOST and same(found, self.collected(parts[::-1]))


class TestFiles:
    """What comes from a file that anybody may have written."""

    @pytest.fixture(scope="class")
    def checkpoint(self, clip):
        task = LocalizationTask(str(clip), "layer1", "linear", 64)
        channels = task.network.encoder.shape.channels
        return checkpoint_of(task, likeness=fit_likeness(rows()[:, :channels]))

    def test_a_saved_folder_has_it(self, checkpoint, tmp_path):
        saved_folder.save(checkpoint, tmp_path / "saved")
        found = read_checkpoint(tmp_path / "saved")
        assert same(found.likeness, checkpoint.likeness)
        assert found.weights.keys() == checkpoint.weights.keys()
        card = (tmp_path / "saved/README.md").read_text()
        assert "| features of photos like them | at a distance of at most " in card
        assert f"95% of {PHOTOS} validation photos" in card
        Localizer.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "again")
        assert same(read_checkpoint(tmp_path / "again").likeness, checkpoint.likeness)

    def test_older_ones_have_none(self, checkpoint, tmp_path):
        saved_folder.save(replace(checkpoint, likeness=None), tmp_path / "saved")
        assert read_checkpoint(tmp_path / "saved").likeness is None
        assert "features of photos" not in (tmp_path / "saved/README.md").read_text()

    @pytest.mark.parametrize(
        ("name", "damaged", "message"),
        [
            ("mean", None, "there is no mean"),
            ("other", torch.ones(1), "there is an unknown other"),
            ("mean", torch.ones(2, 2), r"mean of shape \[2, 2\]"),
            ("scale", torch.ones(3), r"scale of shape \[3\]"),
            ("scale", "zeros", "scale of shape"),
            ("components", torch.ones(2, 3), r"components of shape \[2, 3\]"),
            ("components", "empty", "components of shape"),
            ("cutoff", torch.tensor(0.0), "cutoff of shape"),
            ("photos", torch.tensor(1), "photos of shape"),
            ("cutoff", torch.tensor(torch.nan), "NaN or infinite numbers in the likeness's cutoff"),
            ("mean", "words", "no tensor of real numbers"),
        ],
    )
    def test_damaged_ones_are_refused_by_name(self, checkpoint, tmp_path, name, damaged, message):
        tensors = checkpoint.likeness.as_tensors()
        made = {
            "zeros": torch.zeros_like(tensors["scale"]),
            "empty": tensors["components"][:0],
        }
        tensors[name] = made.get(damaged, damaged) if isinstance(damaged, str) else damaged
        if damaged is None:
            del tensors[name]
        path = tmp_path / "x.ckpt"
        torch.save({**content_of(checkpoint), LIKENESS: tensors}, path)
        with pytest.raises(UserError, match=message) as raised:
            read_checkpoint(path)
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)

    def test_of_another_encoder_is_refused(self, checkpoint, tmp_path):
        fewer = fit_likeness(rows()[:, :7])
        saved_folder.save(replace(checkpoint, likeness=fewer), tmp_path / "saved")
        with pytest.raises(UserError, match="its likeness is of 7 channels; its encoder has"):
            Localizer.from_pretrained(tmp_path / "saved")


class TestWords:
    SEEN = TrainedOn(("ldm",), "full", "", "mini", photos=SeenPhotos((64, 128), (80, 95)))
    PIXELS = np.zeros((100, 100, 3), np.uint8)

    @pytest.fixture(scope="class")
    def checkpoint(self, clip, fitted):
        task = LocalizationTask(str(clip), "layer1", "linear", 64)
        return checkpoint_of(task, trained_on=self.SEEN, likeness=fitted)

    def said(self, checkpoint, distance, quality=90, tiled=False):
        found = weigh(checkpoint, 0.5, Picture(self.PIXELS, quality), tiled, distance)
        return found, sentences(0.5, found)[-2]

    def test_a_photo_like_them(self, checkpoint):
        found, said = self.said(checkpoint, 0.001)
        assert found.compared == ("size", "JPEG quality", "features") and found.unlike == ()
        assert said == (
            "Nothing in size, JPEG quality or features (what the encoder sees of camera, "
            "processing and subject) sets it apart from the photos of the training; that does not "
            "make it one of them, and untouched photos of other kinds may score higher."
        )

    def test_a_photo_unlike_them(self, checkpoint, fitted):
        found, said = self.said(checkpoint, 1.5 * fitted.cutoff.item(), quality=60)
        assert found.unlike[0] == "JPEG of quality 60 (theirs 80 to 95)"
        cutoff = fitted.cutoff.item()
        assert found.unlike[1] == (
            f"features at a distance of {1.5 * cutoff:.2f} from theirs "
            f"(95% of {PHOTOS} validation photos: at most {cutoff:.2f})"
        )
        assert said.startswith("Unlike the photos that the model was trained on, and so less")

    def test_what_is_no_jpeg(self, checkpoint):
        said = self.said(checkpoint, 0.001, quality=None)[1]
        assert "; compression (it is no JPEG) was not compared, and untouched" in said

    def test_tiles_and_older_models_are_not_compared(self, checkpoint):
        for model, tiled in ((checkpoint, True), (replace(checkpoint, likeness=None), False)):
            found, said = self.said(model, None, tiled=tiled)
            assert found.compared == ("size", "JPEG quality")
            assert "; camera and subject were not compared, and" in said

    def test_where_files_are_not_on_record(self, checkpoint):
        found, said = self.said(replace(checkpoint, trained_on=None), 0.001)
        assert found.compared == ("features",)
        assert "; size and compression were not compared, and" in said

    @pytest.mark.parametrize(
        ("compared", "expected"),
        [
            ((["size"], ["size"]), "in size; camera and subject were not compared"),
            (
                (["size", "features"], ["size", "JPEG quality"]),
                "in size, JPEG quality or features; camera and subject of 1 were not compared",
            ),
            ((["size", "features"],) * 2, "in size or features"),
        ],
    )
    def test_of_several_photos(self, compared, expected, tmp_path, capsys):
        plain = {"above": None, "area": 0, "regions": [], "unlike": []}
        records = [plain | {"compared": one} for one in compared]
        print_report(tmp_path, records, {"floor": 0.5})
        lines = capsys.readouterr().out.splitlines()
        assert f"unlike:   0 of 2 are unlike the photos of the training {expected}" in lines


def test_a_photo_passes_the_encoder_once(clip, fitted, monkeypatch):
    task = LocalizationTask(str(clip), "layer1", "linear", 64)
    channels = task.network.encoder.shape.channels
    likeness = fit_likeness(rows()[:, :channels])
    localizer = Localizer("x", checkpoint_of(task, likeness=likeness), task.network)
    passed = []
    forward = TransformersEncoder.forward
    monkeypatch.setattr(
        TransformersEncoder, "forward", lambda self, x: passed.append(len(x)) or forward(self, x)
    )
    photo = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    found = localizer([photo, photo])
    assert passed == [2] and found[0].evidence.compared == ("features",)
    tiled = localizer(photo, tiles=True)
    assert tiled.evidence.compared == () and sum(passed) == 2 + 4
    assert localizer(photo[:200, :200], tiles=True).evidence.compared == ("features",)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A data set with enough validation photos."""
    counts = {"train": 4, "valid": LEAST + 2, "test": 2}
    return make_tree(tmp_path_factory.mktemp("many") / "dolos", ("ldm",), counts=counts)


def test_training_stores_it_and_predict_says_it(fit_arguments, many, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"data.root": many, "data.batch_size": 8}
    cli.main(fit_arguments(**options, **{"run.name": "whole"}))
    best = read_checkpoint("outputs/whole").likeness
    assert best.photos == LEAST + 2
    encoder = Localizer.from_pretrained("outputs/whole").network.encoder
    transform = build_transform(encoder.preprocessing)
    photos = [read_photo(sample.image) for sample in find(many, "real", "valid")]
    features = encoder(torch.stack([transform(image=photo)["image"] for photo in photos]))
    expected = mean_features(features).mean(0)  # the cache's are of 16 bits
    assert best.mean.numpy() == pytest.approx(expected.numpy(), abs=1e-3)
    assert same(read_checkpoint("outputs/whole/checkpoints/last.ckpt").likeness, best)

    # Without a cache, ended after one epoch, and gone on with.
    part = options | {"run.name": "part", "data.cache": "false"}
    cli.main(fit_arguments(**part, **{"trainer.max_epochs": 1}))
    before = read_checkpoint("outputs/part/checkpoints/last.ckpt").likeness
    (tmp_path / "outputs/part/test_metrics.json").unlink()  # of a run that is over
    cli.main(fit_arguments(**part, **{"run.resume": "true"}))
    assert same(read_checkpoint("outputs/part/checkpoints/last.ckpt").likeness, before)
    assert before.mean.numpy() == pytest.approx(best.mean.numpy(), abs=1e-3)

    capsys.readouterr()
    photo = find(many, "ldm", "test")[0].image
    cli.main(["predict", str(photo), "--model=outputs/whole", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["compared"] == ["size", "features"]
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    (unlike,) = Localizer.from_pretrained("outputs/whole")(noise).evidence.unlike
    assert unlike.startswith("features at a distance of ")
