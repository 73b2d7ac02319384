"""Cells scored by a decoder of which every map is known: each figure against one made by hand."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.matrix import trained_models
from torch import nn
from torch.nn.functional import interpolate

from declip_pl.cross_eval.cell import FORMAT, CellKey, cell_path, read_cell, read_thresholds
from declip_pl.cross_eval.cells import Cells
from declip_pl.cross_eval.drawing import PANELS, SAMPLES, chosen
from declip_pl.cross_eval.heat_maps import DecodedMaps, TestSet
from declip_pl.cross_eval.map_scores import Rows
from declip_pl.cross_eval.measured import LEVELS, Panel
from declip_pl.data.dataset import Item
from declip_pl.files import sha256
from declip_pl.metrics import THRESHOLDS, Thresholds, map_metrics
from declip_pl.model.features import Features
from declip_pl.model.network import POOLINGS

CPU = torch.device("cpu")
CHOSEN = Thresholds(0.3, dict.fromkeys(POOLINGS, 0.4))


class Enlarge(nn.Module):
    """Features are the map itself: 4 x 4 logits."""

    def forward(self, features):
        return interpolate(features.grid, (256, 256), mode="nearest")


class Broken(nn.Module):
    def forward(self, features):
        raise AssertionError("scored again")


ENLARGED, BROKEN = (DecodedMaps(decoder, CPU) for decoder in (Enlarge(), Broken()))


@dataclass
class Photo:
    """A photo of 4 x 4 fields: each one's probability, and whether it is fake."""

    name: str
    probabilities: np.ndarray
    fake: np.ndarray
    size: int = 32


class Photos(list):
    """A set of photos with features, as a cell needs it."""

    def __init__(self, photos, is_fake=True):
        super().__init__(self.item(photo, is_fake) for photo in photos)

    @staticmethod
    def item(photo, is_fake):
        grid = torch.from_numpy(photo.probabilities).logit().view(1, 4, 4).half()
        mask = torch.from_numpy(np.kron(photo.fake, np.ones((photo.size // 4,) * 2)) > 0)
        return Item(
            image=Features(grid, None), mask=mask, label=float(is_fake), path=photo.name,
            name=photo.name,
        )  # fmt: skip

    def path(self, index):
        return self[index]["path"]

    def photo_size(self, path):
        return 40, 30

    def shown(self, path):
        return np.full((8, 8, 3), int(path[1:]), np.uint8)


def found(name, fields, probability=0.9, otherwise=0.1, fake=8, size=32):
    """Return a photo of ``fake`` fake fields; ``fields`` of all have the probability."""
    probabilities = np.full(16, otherwise)
    probabilities[:fields] = probability
    return Photo(name, probabilities, (np.arange(16) < fake).reshape(4, 4), size)


def fakes(name="lama", photos=None, **changes):
    # IoU 50, 100, 0, 25 and 75 %, masks of two sizes in turn
    photos = photos or [
        found(f"p{index}", fields, size=(32, 64)[index % 2])
        for index, fields in enumerate((4, 8, 0, 2, 6))
    ]
    return replace(TestSet(name, Photos(photos), f"hash of {name}"), **changes)


def reals(scores=(0.1, 0.2), **changes):
    photos = [found(f"r{i}", 0, otherwise=score, fake=0) for i, score in enumerate(scores)]
    return replace(TestSet("real", Photos(photos, is_fake=False), "hash of real"), **changes)


@pytest.fixture
def model(tmp_path):
    first = trained_models()[0]
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"weights")
    return replace(first, checkpoint=replace(first.checkpoint, path=path, seed=3))


@pytest.fixture
def cells(tmp_path):
    return Cells(tmp_path / "folder")


def test_a_cell_holds_what_was_scored(cells, model):
    cell = cells.score(model, ENLARGED, fakes(perturbation="jpeg"), CHOSEN)
    names = tuple(metric.name for metric in map_metrics(tuned=True))
    assert cell.key == CellKey(
        FORMAT, sha256(model.checkpoint.path), "hash of lama", "jpeg", 0.3, names
    )
    assert (cell.model, cell.seed, cell.test) == (model.name, 3, "lama")
    assert cell.thresholds == CHOSEN and 0 <= cell.seconds < 100
    assert cell.photos == ["p0", "p1", "p2", "p3", "p4"]
    assert tuple(cell.scores) == names and tuple(cell.image_scores) == POOLINGS
    assert cell.scores["iou"] == pytest.approx([50, 100, 0, 25, 75])
    assert cell.image_scores["mean"] == pytest.approx([0.3, 0.5, 0.1, 0.2, 0.4], abs=1e-3)
    assert cell.image_scores["max"] == pytest.approx([0.9, 0.9, 0.1, 0.9, 0.9], abs=1e-3)
    assert cell.histogram.shape == (5, 3, 15) and cell.histogram.dtype == np.float64
    pixels = cell.histogram.sum(-1) / np.array([32, 64] * 2 + [32])[:, None] ** 2
    assert pixels[:, 0].tolist() == [1] * 5 and pixels[:, 2].tolist() == [0.5] * 5
    assert pixels[:, 1] == pytest.approx(cell.image_scores["mean"], abs=1e-3)
    kept = read_cell(cell_path(cells.folder, model.name, "lama"))
    assert kept.about == cell.about


def test_curves_are_means_over_photos(cells, model):
    curve = cells.score(model, ENLARGED, fakes(), CHOSEN).curve
    assert curve.thresholds == list(THRESHOLDS)
    for threshold, iou, f1 in zip(curve.thresholds, curve.iou, curve.f1, strict=True):
        if threshold < 0.09:  # everything is called fake; edges are blurred
            assert iou == pytest.approx(50) and f1 == pytest.approx(100 * 2 / 3)
        elif 0.3 < threshold < 0.7:
            assert iou == pytest.approx(50)
            assert f1 == pytest.approx(np.mean([100 * 2 * n / (n + 8) for n in (4, 8, 0, 2, 6)]))
        elif threshold > 0.91:
            assert iou == f1 == pytest.approx(0)


def test_an_undefined_curve_is_none_and_not_nan(cells, model):
    none = cells.score(model, ENLARGED, fakes(photos=[found("p0", 0, fake=0)]), CHOSEN)
    assert np.isnan(none.scores["ap"]).all()
    for value in (*none.curve.iou, *none.curve.f1, none.panels["best"].iou):
        assert value is None or not np.isnan(value)


def test_the_best_the_median_and_the_worst_photo_are_drawn(cells, model):
    cell = cells.score(model, ENLARGED, fakes(), CHOSEN)
    expected = {"best": ("p1", 100), "median": ("p0", 50), "worst": ("p2", 0)}
    assert PANELS == tuple(expected) == tuple(cell.panels)[:3]
    for which, (photo, iou) in expected.items():
        file = f"panels/{model.name}/lama/{which}.png"
        drawn = Panel(file, photo, pytest.approx(iou), sha256(cells.folder / file))
        assert cell.panels[which] == drawn
    # The two photos that are left stand alone in their parts of the order.
    assert sorted(panel.photo for panel in cell.panels.values()) == ["p0", "p1", "p2", "p3", "p4"]
    for kind in tuple(cell.panels)[3:]:
        file = f"panels/{model.name}/lama/{kind}.webp"
        assert cell.panels[kind].file == file and (cells.folder / file).is_file()


def test_samples_are_spread_over_the_order_and_differ_between_cells():
    names = [f"photo{index}" for index in range(60)]
    iou = np.random.default_rng(0).permutation(60).astype(float)
    first, second = (chosen(iou, names, ("model", test)) for test in ("lama", "ldm"))
    assert len(first) == len(PANELS) + SAMPLES == len(set(first.values()))
    assert [iou[first[kind]] for kind in PANELS] == [59, 29, 0]
    for number in range(1, SAMPLES + 1):
        rank = 59 - iou[first[f"sample-{number}"]]
        assert (number - 1) * 10 <= rank < number * 10
    assert first == chosen(iou, names, ("model", "lama"))
    samples = [{n for k, n in found.items() if k not in PANELS} for found in (first, second)]
    assert samples[0] != samples[1]


def test_a_cell_says_what_its_photos_are_like(cells, model):
    fields = np.zeros((4, 4), bool)
    fields[[0, 1, 3], [0, 1, 3]] = True  # two meet at a corner, the third stands alone
    photo = Photo("p0", np.full(16, 0.5), fields)
    cell = cells.score(model, ENLARGED, fakes(photos=[photo]), CHOSEN)
    facts = {name: values.tolist() for name, values in cell.facts.items()}
    assert facts == {"width": [40], "height": [30], "regions": [2]}
    assert cell.areas.tolist() == [100 * 3 / 16]
    assert sum(cell.pixels.fake) == 3 * 64 and sum(cell.pixels.real) == 13 * 64
    assert cell.pixels.fake[LEVELS // 2 - 1] + cell.pixels.fake[LEVELS // 2] == 3 * 64
    assert cells.score(model, ENLARGED, reals(), CHOSEN).facts == {}


def test_pixels_are_summed_over_batches_and_the_rest_has_a_row_for_each_photo():
    rows = Rows(6)
    counts = torch.randint(0, 2**20, (5, 2, LEVELS)).double()
    for batch in (slice(0, 3), slice(3, 5)):
        rows.add({"pixels": counts[batch], "size": counts[batch, :, 0]})
    table = rows.table()
    assert torch.equal(table["pixels"], counts.sum(0, keepdim=True))
    assert torch.equal(table["size"], counts[:, :, 0])


def test_reals_have_image_scores_and_pixels_alone(cells, model):
    cell = cells.score(model, ENLARGED, reals(), CHOSEN)
    assert cell.panels == {}
    assert set(cell.scores) == {"untouched_area", "untouched_marked"}
    assert cell.image_scores["top"] == pytest.approx([0.1, 0.2], abs=1e-3)
    assert cell.histogram[:, 2].sum() == 0 and cell.histogram[:, 0].sum() == 2 * 32 * 32


def test_the_decision_cuts_each_photo_by_itself(cells, model):
    """Low probabilities that 0.5 would leave unmarked; the floor keeps an even lower one so."""
    chosen = replace(CHOSEN, floor=0.2)
    photos = [found("p0", 4, 0.4, 0.01), found("p1", 8, 0.3, 0.01), found("p2", 8, 0.1, 0.01)]
    cell = cells.score(model, ENLARGED, fakes(photos=photos), chosen)
    assert cell.key.floor == 0.2 and "iou_decided" in cell.key.metrics
    assert cell.scores["iou"].tolist() == [0, 0, 0]
    assert cell.scores["iou_decided"] == pytest.approx([50, 100, 0])


def test_reals_say_what_is_marked_of_them(cells, model):
    photos = [found("r0", 4, 0.9, 0.01, 0), found("r1", 2, 0.3, 0.01, 0), found("r2", 0, fake=0)]
    real = replace(reals(), data=Photos(photos, is_fake=False))
    cell = cells.score(model, ENLARGED, real, replace(CHOSEN, floor=0.2))
    assert cell.scores["untouched_area"] == pytest.approx([25, 0, 0])
    assert cell.scores["untouched_marked"].tolist() == [100, 0, 0]
    assert cell.scores["untouched_area_decided"] == pytest.approx([25, 12.5, 0])
    assert cell.scores["untouched_marked_decided"].tolist() == [100, 100, 0]


def test_without_a_threshold_there_are_no_tuned_metrics(cells, model):
    cell = cells.score(model, ENLARGED, fakes(), Thresholds(None, {}))
    names = tuple(metric.name for metric in map_metrics(tuned=False))
    assert tuple(cell.scores) == names == cell.key.metrics
    assert cell.key.pixel is None


def test_many_photos_are_scored_in_their_order(cells, model):
    photos = [found(f"p{index}", index % 9) for index in range(35)]  # more than one batch
    cell = cells.score(model, ENLARGED, fakes(photos=photos), CHOSEN)
    assert cell.photos == [photo.name for photo in photos]
    assert cell.scores["iou"] == pytest.approx([100 * (index % 9) / 8 for index in range(35)])


def test_a_finished_cell_is_not_scored_again(cells, model):
    first = cells.score(model, ENLARGED, fakes(), CHOSEN)
    assert cells.score(model, BROKEN, fakes(), CHOSEN).about == first.about


@pytest.mark.parametrize("what", ["test", "perturbation", "threshold", "floor", "weights"])
def test_a_cell_of_something_else_is_scored_again(cells, model, what):
    cells.score(model, ENLARGED, fakes(), CHOSEN)
    test, chosen = fakes(), CHOSEN
    if what == "test":
        test = fakes(sha256="other")
    elif what == "perturbation":
        test = fakes(perturbation="jpeg")
    elif what == "threshold":
        chosen = replace(CHOSEN, pixel=0.31)
    elif what == "floor":
        chosen = replace(CHOSEN, floor=0.31)
    else:
        model.checkpoint.path.write_bytes(b"others")
        model = replace(model, checkpoint=replace(model.checkpoint))
    with pytest.raises(AssertionError, match="scored again"):
        cells.score(model, BROKEN, test, chosen)
    assert cells.finished(model, [], [test]) is None


def test_a_damaged_cell_or_panel_is_named_and_made_anew(cells, model, capsys):
    first = cells.score(model, ENLARGED, fakes(), CHOSEN)
    path = cell_path(cells.folder, model.name, "lama")
    drawn = cells.folder / first.panels["worst"].file
    for file, damage in ((path, b"x"), (drawn, b"x"), (drawn, None)):
        file.write_bytes(damage) if damage else file.unlink()
        with pytest.raises(AssertionError, match="scored again"):
            cells.score(model, BROKEN, fakes(), CHOSEN)
        assert not path.exists()
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"{file} is ") and "damaged" in line and "made anew" in line
        assert cells.score(model, ENLARGED, fakes(), CHOSEN).panels == first.panels


# Thresholds


def test_thresholds_are_those_of_the_mean_over_all_photos(cells, model):
    """Not over generators: one with more photos weighs more."""
    many = [found(f"p{i}", 8, 0.8, 0.5) for i in range(3)]  # best from 0.5 to 0.8
    few = [found("q0", 8, 0.4, 0.2)]  # best from 0.2 to 0.4; below 0.5 the others have half
    sets = [fakes("a", few), fakes("b", many)]
    # Over photos: (3 * 50 + 100) / 4 below 0.4, 3 * 100 / 4 above 0.5. Over sets: 75 and 50.
    chosen = cells.thresholds(model, ENLARGED, sets)
    assert 0.5 < chosen.pixel < 0.8


def on_validation(scores):
    """Validation photos, 4 fakes and 3 reals, all pixels of one score."""
    photos = [found(f"p{index}", 16, score) for index, score in enumerate(scores)]
    return [
        reals((0.1, 0.35, 0.33)),
        fakes("a", photos[:3]),
        fakes("b", photos[3:], perturbation="x"),
    ]


def test_image_thresholds_and_auroc_are_of_all_validation_photos(cells, model):
    chosen = cells.thresholds(model, ENLARGED, on_validation([0.8, 0.7, 0.3, 0.6]))
    assert chosen.image.keys() == set(POOLINGS)
    for threshold in chosen.image.values():
        assert 0.35 - 1e-3 <= threshold < 0.6
    (file,) = (cells.folder / "thresholds").iterdir()
    kept = read_thresholds(file)
    assert kept.thresholds == chosen and kept.model == model.name
    assert kept.key.format == FORMAT and kept.key.checkpoint == model.checkpoint.sha256
    assert kept.key.valid == ("hash of real", "hash of a", "hash of b")
    assert kept.key.perturbations == ("none", "none", "x")
    assert 0 <= kept.seconds < 100
    assert kept.image_auroc == pytest.approx(dict.fromkeys(POOLINGS, 100 * 10 / 12))


def test_one_fake_and_one_real_photo_are_enough(cells, model):
    valid = [reals((0.1,)), fakes(photos=[found("p0", 16, 0.8)])]
    chosen = cells.thresholds(model, ENLARGED, valid)
    assert all(0.1 - 1e-3 <= threshold < 0.8 for threshold in chosen.image.values())
    assert read_thresholds(cells.folder / f"thresholds/{model.name}.json").image_auroc == (
        pytest.approx(dict.fromkeys(POOLINGS, 100))
    )


def test_the_floor_lies_above_what_untouched_photos_reach(cells, model):
    """Untouched photos reach 0.3, manipulated ones 0.6: from 0.31 on to 0.6 all is right."""
    fake, real = found("p0", 8, 0.6, 0.01), found("r0", 8, 0.3, 0.01, fake=0)
    valid = [fakes(photos=[fake]), replace(reals(), data=Photos([real], is_fake=False))]
    assert cells.thresholds(model, ENLARGED, valid).floor == 0.31


def test_the_floor_depends_on_untouched_photos_alone(cells, model):
    """Fakes that never reach it do not lower it: a floor of 0.31 spares the one real photo."""
    fake = [found(f"p{index}", 8, 0.2, 0.01) for index in range(3)]
    real = [found("r0", 8, 0.3, 0.01, fake=0)]
    valid = [fakes(photos=fake), replace(reals(), data=Photos(real, is_fake=False))]
    assert cells.thresholds(model, ENLARGED, valid).floor == 0.31


@pytest.mark.parametrize("valid", [[reals()], [fakes()], []], ids=["reals", "fakes", "none"])
def test_with_one_class_there_are_no_image_thresholds(cells, model, valid):
    chosen = cells.thresholds(model, ENLARGED, valid)
    assert (chosen.floor is None) == (not valid or valid[0].name != "real")
    assert chosen.image == dict.fromkeys(POOLINGS)
    assert (chosen.pixel is None) == (not valid or valid[0].name == "real")
    (file,) = (cells.folder / "thresholds").iterdir()
    assert read_thresholds(file).image_auroc == dict.fromkeys(POOLINGS)


def test_thresholds_are_chosen_once(cells, model, capsys):
    valid = on_validation([0.8, 0.7, 0.3, 0.6])
    chosen = cells.thresholds(model, ENLARGED, valid)
    assert cells.thresholds(model, BROKEN, valid) == chosen
    for other in (valid[:2], [replace(valid[0], perturbation="x"), *valid[1:]]):
        with pytest.raises(AssertionError, match="scored again"):
            cells.thresholds(model, BROKEN, other)
    (file,) = Path(cells.folder / "thresholds").iterdir()
    file.write_text("{")
    with pytest.raises(AssertionError, match="scored again"):
        cells.thresholds(model, BROKEN, valid)
    assert f"{file} is damaged" in capsys.readouterr().out and not file.exists()


def test_thresholds_of_the_checkpoint_hold(cells, model):
    model = replace(model, checkpoint=replace(model.checkpoint, thresholds=CHOSEN))
    assert cells.thresholds(model, BROKEN, [fakes()]) == CHOSEN
    assert not cells.folder.exists()


def test_what_is_finished_is_known_without_a_decoder(cells, model):
    valid, tests = on_validation([0.8, 0.7, 0.3, 0.6]), [fakes(), reals()]
    assert cells.finished(model, valid, tests) is None
    chosen = cells.thresholds(model, ENLARGED, valid)
    assert cells.finished(model, valid, []) == (chosen, {})
    first = cells.score(model, ENLARGED, tests[0], chosen)
    assert cells.finished(model, valid, tests) is None
    second = cells.score(model, ENLARGED, tests[1], chosen)
    found_thresholds, found_cells = cells.finished(model, valid, tests)
    assert found_thresholds == chosen
    assert {test: cell.about for test, cell in found_cells.items()} == {
        "lama": first.about, "real": second.about
    }  # fmt: skip
