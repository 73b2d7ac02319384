"""`declip-pl ablate`: questions from files, what is trained and scored, and what is compared."""

import csv
import json
from dataclasses import replace
from math import isclose
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import GENERATORS, make_clip, make_tree
from crosseval_example import plain_cell, plain_matrix, plain_model
from crosseval_example import score as plain_score
from matplotlib.backends.backend_agg import FigureCanvasAgg

from declip_pl import cli
from declip_pl.ablation import picture
from declip_pl.ablation.ablation import Ablation, Change, Line, Variant, read_ablation
from declip_pl.ablation.changes import changes
from declip_pl.ablation.encoding import encode_together
from declip_pl.ablation.gains import gains, gains_table
from declip_pl.ablation.question import number_in, read_question, shipped
from declip_pl.ablation.report import write_report
from declip_pl.ablation.table import ablation_text
from declip_pl.cross_eval.cell import cell_path, write_cell
from declip_pl.cross_eval.compare import comparison
from declip_pl.cross_eval.evaluation import Evaluation
from declip_pl.cross_eval.matrix import Made, Score, read_matrix
from declip_pl.cross_eval.statistics import holm
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.errors import UserError
from declip_pl.model.encoder import build_encoder
from declip_pl.model.transformers_encoder import TransformersEncoder
from declip_pl.training.lightning_cli import DeclipCLI
from declip_pl.training.recipe import Options, Recipe

RECIPE = {"model": {"encoder": "x", "layer": "layer1", "decoder": "linear"}}


def ask(folder, recipe=RECIPE, **content):
    """Write a question and read it."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    content = {"question": "Why?", "recipe": "recipe.yaml", **content}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return read_question(str(folder / "mine.yaml"), ["a", "b", "c"])


def test_a_grid_is_every_combination(tmp_path):
    asked = ask(tmp_path, grid={"model.layer": ["layer1", "layer2"], "model.loss": ["bce", "dice"]})
    assert list(asked.variants) == ["layer1, bce", "layer1, dice", "layer2, bce", "layer2, dice"]
    assert asked.variants["layer2, dice"] == {"model.layer": "layer2", "model.loss": "dice"}
    assert asked.against == "layer1, bce" and asked.metric == "iou" and asked.axis is None


def test_generators_by_words(tmp_path):
    words = ["each", "pairs", "leave-one-out", "all"]
    asked = ask(tmp_path, grid={"data.generator": words})
    each, pairs = ["a", "b", "c"], ["a+b", "a+c", "b+c"]
    apart = ["all-but-a", "all-but-b", "all-but-c"]
    assert list(asked.variants) == [*each, *pairs, *apart, "all"]
    assert asked.sections("a+b") == RECIPE  # which generators is not the recipe's to say


def test_a_variant_is_the_recipe_with_its_entries_changed(tmp_path):
    decoder = {"class_path": "light", "init_args": {"width": 8, "depth": 2}}
    recipe = {"model": {"layer": "layer1", "decoder": decoder}, "trainer": {"max_epochs": 9}}
    asked = ask(
        tmp_path, recipe, fixed={"data.train_photos": 3},
        variants={"plain": {}, "wide": {"model.decoder.init_args.width": 16}},
    )  # fmt: skip
    assert asked.sections("plain") == recipe | {"data": {"train_photos": 3}}
    wide = asked.sections("wide")
    assert wide["model"]["decoder"]["init_args"] == {"width": 16, "depth": 2}
    assert wide["model"]["layer"] == "layer1" and wide["trainer"] == {"max_epochs": 9}


VARIANTS = {"a": {}, "b": {"model.layer": "layer2"}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "two variants or more"),
        ({"variants": {"a": {}}}, "two variants or more"),
        ({"variants": ["a", "b"]}, "variants is ['a', 'b']"),
        ({"variants": {"a": {}, "b": ["model.layer"]}}, "b is ['model.layer']"),
        ({"variants": {"a/b": {}, "c": {}}}, "can't be a variant's name"),
        ({"variants": {"a": {}, "b": {"layer": 3}}}, "b changes 'layer'"),
        ({"variants": {"a": {}, "b": {"run.name": "x"}}}, "b changes 'run.name'"),
        ({"grid": {"model.layer": "layer1"}}, "expected a list"),
        ({"grid": {"model.layer": []}}, "expected a list"),
        ({"variants": VARIANTS, "against": "c"}, "against is 'c'"),
        ({"variants": VARIANTS, "metric": "image_auroc"}, "metric is 'image_auroc'"),
        ({"variants": VARIANTS, "fixed": {"epochs": 1}}, "fixed changes 'epochs'"),
        ({"variants": VARIANTS, "axis": "layer"}, "no number in 'a'"),
        ({"variants": VARIANTS, "seeds": 3}, "seeds is not known"),
        ({"variants": VARIANTS, "question": 3}, "expected question as text"),
    ],
)
def test_a_wrong_question_is_one_line_that_names_the_file(tmp_path, content, said):
    with pytest.raises(UserError) as error:
        ask(tmp_path, **content)
    assert "mine.yaml" in str(error.value) and said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_change_below_what_has_no_entries(tmp_path):
    asked = ask(tmp_path, variants={"a": {}, "b": {"model.decoder.init_args.width": 3}})
    with pytest.raises(UserError, match=r"mine.yaml: model.decoder.init_args.width.*'linear'"):
        asked.sections("b")


def test_no_such_question(tmp_path):
    with pytest.raises(UserError, match=r"no question 'why'.*clip.*layer"):
        read_question("why", [])


def test_numbers_in_names():
    names = {"layer5": 5, "25": 25, "JPEG 0.5": 0.5, "plain": None, "5 photos": None}
    assert {name: number_in(name) for name in names} == names


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", [*shipped(), *map(str, sorted(BENCHMARKS.glob("*.yaml")))])
def test_every_shipped_question_is_read_and_every_variant_is_a_configuration(
    name, tmp_path, monkeypatch
):
    monkeypatch.setenv("DECLIP_PARTS", str(BENCHMARKS / "levers.py"))
    parsed = []

    def stop(self):
        parsed.append(self.config.fit.as_dict())
        raise SystemExit(0)

    monkeypatch.setattr(DeclipCLI, "before_instantiate_classes", stop)
    asked = read_question(name, ["a", "b", "c"])
    for variant in asked.variants:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(asked.sections(variant)))
        with pytest.raises(SystemExit):
            cli.main(["fit", f"--config={tmp_path}/recipe.yaml"])
    assert len(parsed) == len(asked.variants) >= 2
    if asked.variants.keys() - {"a", "b", "c"} and not any("+" in v for v in asked.variants):
        told = [str(found) for found in parsed]
        assert len(set(told)) == len(told)  # no two variants are the same


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A folder with a question that was answered by tiny models."""
    folder = tmp_path_factory.mktemp("asked")
    make_tree(folder / "dolos")
    make_clip(folder / "tiny-clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DECLIP_FEATURES", str(folder / "features"))
        (folder / "recipe.yaml").write_text(
            f"model: {{encoder: {folder}/tiny-clip, layer: layer1, decoder: linear, "
            "image_size: 64}\n"
            "data: {root: x, generator: x, batch_size: 4, num_workers: 0}\n"
            "trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, logger: false}"
        )
        (folder / "mine.yaml").write_text(
            "question: Does more training help?\nrecipe: recipe.yaml\n"
            "grid: {trainer.max_epochs: [1, 3]}\naxis: epochs\n"
        )
        cli.main(["ablate", "mine.yaml", "--data=dolos"])
        yield folder


@pytest.mark.slow  # trains four models
def test_what_an_ablation_leaves(answered):
    folder = answered / "outputs/ablate/dolos-mine"
    found = read_ablation(folder)
    assert list(found.variants) == ["1", "3"] and found.against == "1"
    assert [variant.number for variant in found.variants.values()] == [1, 3]
    assert found.axis == "epochs" and found.recipe == "recipe.yaml"
    assert found.question == "Does more training help?" and found.failed == ()
    assert (folder / "ablation.png").stat().st_size > 5000
    for variant in found.variants:
        matrix = read_matrix(folder / variant)
        means = matrix.summary["iou"]
        assert found.find(variant, "iou", "in-domain").score == means.in_domain
        assert found.find(variant, "iou", "out-of-domain").score == means.out_of_domain
        assert found.find(variant, "iou", "worst out-of-domain").score.value == (
            means.worst_out_of_domain.value
        )
        assert found.find(variant, "iou", "test ldm").score == means.by_test["ldm"]
        assert {model.name for model in matrix.models} == set(found.variants[variant].models)
        assert (folder / variant / "report.html").is_file()
    with (folder / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.lines)
    changed = [row for row in rows if row["change"]]
    assert {(row["variant"], row["metric"], row["part"]) for row in changed} == {
        ("3", "iou", "in-domain"), ("3", "iou", "out-of-domain"),
    }  # fmt: skip
    assert all(row["against"] == "1" for row in changed)


@pytest.mark.slow  # trains four models
def test_changes_are_those_of_compare_and_corrected_together(answered):
    folder = answered / "outputs/ablate/dolos-mine"
    known = {name: Evaluation(folder / name, read_matrix(folder / name)) for name in ("1", "3")}
    found = changes(known, "1", "iou")
    means = comparison(known["1"], known["3"], "iou").means
    assert [change.value for change in found.values()] == [mean.change.value for mean in means]
    expected = holm([mean.p_value for mean in means])
    assert [change.corrected for change in found.values()] == list(expected)
    ours = {key[2]: change for key, change in found.items()}
    for part in ("in-domain", "out-of-domain"):  # the same photos on both sides: means differ so
        scores = [
            getattr(side.matrix.summary["iou"], part.replace("-", "_")).value
            for side in known.values()
        ]
        assert isclose(ours[part].value, scores[1] - scores[0], abs_tol=1e-9)


@pytest.mark.slow  # trains four models
def test_the_same_command_again_trains_and_encodes_nothing(answered, monkeypatch, capsys):
    def fail(*call):
        raise AssertionError("the encoder is not needed")

    monkeypatch.setattr(TransformersEncoder, "forward", fail)
    before = {path: path.stat().st_mtime_ns for path in (answered / "outputs/train").rglob("*")}
    cli.main(["ablate", "mine.yaml", "--data=dolos"])
    assert before == {p: p.stat().st_mtime_ns for p in (answered / "outputs/train").rglob("*")}
    printed = capsys.readouterr().out
    assert "Does more training help?" in printed
    assert not any(line.startswith(("training ", "scoring ")) for line in printed.splitlines())


@pytest.mark.slow  # trains four models
def test_variants_as_pieces_give_the_same(answered, capsys):
    command = ["ablate", "mine.yaml", "--data=dolos", "--name=pieces"]
    cli.main([*command, "--dry-run"])
    printed = capsys.readouterr().out
    assert "2 of 2 variants are left" in printed and "train: 0 pieces" in printed
    assert "score: 2 pieces" in printed and "variant 3:" in printed
    for part in ("encode:1/1", "score:1", "score:3"):
        cli.main([*command, f"--part={part}"])
    assert "encoded 0 photos" in capsys.readouterr().out
    cli.main([*command, "--dry-run"])
    assert "0 of 2 variants are left" in capsys.readouterr().out
    cli.main([*command, "--part=report"])
    outputs = answered / "outputs/ablate"
    assert read_ablation(outputs / "pieces").lines == read_ablation(outputs / "dolos-mine").lines
    with pytest.raises(SystemExit, match="there is no variant '2' to score; expected 1, 3"):
        cli.main([*command, "--part=score:2"])


@pytest.mark.slow  # trains
def test_another_question_finds_what_was_trained_in_the_same_way(answered, capsys):
    (answered / "other.yaml").write_text(
        "question: And two?\nrecipe: recipe.yaml\nvariants:\n"
        "  three: {trainer.max_epochs: 3}\n  more photos: {data.train_photos: 8}\n"
    )
    cli.main(["ablate", "other.yaml", "--data=dolos", "--name=again"])
    found = read_ablation(answered / "outputs/ablate/again")
    first = read_ablation(answered / "outputs/ablate/dolos-mine")
    assert found.variants["three"].models == first.variants["3"].models
    assert not set(found.variants["more photos"].models) & set(first.variants["1"].models)


@pytest.mark.slow  # trains
def test_training_sets_are_one_model_each(answered):
    (answered / "sets.yaml").write_text(
        "question: Which?\nrecipe: recipe.yaml\ngrid: {data.generator: [each, all]}\n"
    )
    cli.main(["ablate", "sets.yaml", "--data=dolos"])
    found = read_ablation(answered / "outputs/ablate/dolos-sets")
    assert list(found.variants) == [*GENERATORS, "all"]
    assert all(len(variant.models) == 1 for variant in found.variants.values())
    # Each was trained on another generator, and all on both: no cell is in domain, or out, in two.
    assert found.find("lama", "iou", "out-of-domain").change is None
    assert found.find("all", "iou", "in-domain").change is not None


@pytest.mark.slow  # trains
def test_a_variant_that_fails_is_named_and_the_rest_is_written(answered, capfd):
    (answered / "fails.yaml").write_text(
        "question: Which?\nrecipe: recipe.yaml\nvariants:\n"
        "  good: {trainer.max_epochs: 3}\n  bad: {model.layer: layer99}\n"
    )
    with pytest.raises(SystemExit) as stop:
        cli.main(["ablate", "fails.yaml", "--data=dolos"])
    assert "bad" in str(stop.value) and "failed" in str(stop.value)
    found = read_ablation(answered / "outputs/ablate/dolos-fails")
    assert list(found.variants) == ["good"] and found.failed
    assert "bad: left out" in capfd.readouterr().out


LAYERS = ["layer1", "layer3", "layer2+layer1"]


@pytest.fixture
def passed(monkeypatch):
    """The layers of the photos that pass an encoder; it looks at a blank when built."""
    found = []
    forward = TransformersEncoder.forward

    def count(self, pixels):
        found.extend([self.layer] * len(pixels) * (len(pixels) > 1))
        return forward(self, pixels)

    monkeypatch.setattr(TransformersEncoder, "forward", count)
    return found


def encode_layers(folder, clip, **data):
    """Encode what a generator's models are trained and scored on, at some layers."""
    make_tree(folder / "dolos")
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"data": {"num_workers": 0, **data}}))
    recipes = {
        layer: Recipe(
            folder / "dolos", recipe, Options(encoder=str(clip), layer=layer, decoder="linear")
        )
        for layer in LAYERS
    }
    choices = {layer: ["ldm"] for layer in LAYERS}
    tested = LocalizationDataModule(str(folder / "dolos"), "lama+ldm")
    for _ in range(2):  # the second time everything is there
        encode_together(recipes, choices, tested, torch.device("cpu"))


def photos_in(folder, *parts):
    """Return the photos whose path has one of some parts."""
    found = (path for path in (folder / "dolos").rglob("*") if path.is_file())
    return [p for p in found if "masks" not in p.parts and any(part in str(p) for part in parts)]


def test_layers_of_one_encoder_are_encoded_by_one_pass(clip, tmp_path, monkeypatch, passed):
    """Of each photo: the joined features are, channel by channel, those of the single layers."""
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    encode_layers(tmp_path, clip)
    # Of other generators, which models are scored on, the test photos.
    photos = photos_in(tmp_path, "/test/", "ldm/images/", "real/valid/")
    assert set(passed) == {"layer1+layer3+layer2"} and len(passed) == len(photos)
    for layer in LAYERS:
        encoder = build_encoder(str(clip), layer)
        cached = FeatureCache(encoder).fetch(photos, torch.device("cpu"))
        monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "apart"))
        apart = FeatureCache(encoder).fetch(photos, torch.device("cpu"))
        monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
        for photo in photos:
            assert torch.equal(cached[photo].grid, apart[photo].grid)
            assert torch.equal(cached[photo].cls, apart[photo].cls)
    assert len(passed) == 4 * len(photos)  # the last three times one by one


def test_photos_that_are_changed_before_are_not_encoded_as_they_are(
    clip, tmp_path, monkeypatch, passed
):
    """Models are scored on photos as they are, whatever they are trained and validated on."""
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    encode_layers(tmp_path, clip, augmentation="jpeg", views=2, perturbation="blur")
    assert len(passed) == len(photos_in(tmp_path, "/test/"))


def made_up(scores, against="a", **more):
    """Return an ablation of the means out of domain, with a change of the second variant."""
    change = Change(5.0, 1.5, 8.5, 0.01, 0.02)
    lines = tuple(
        Line(name, "iou", "out-of-domain", Score(value, value - 2, value + 2, 9),
             None if name == against else change)
        for name, value in scores.items()
    )  # fmt: skip
    variants = {name: Variant({}, (name,), number_in(name)) for name in scores}
    made = Made("declip-pl ablate", 1.0, "Linux", "cpu", None, "2026-01-01", {})
    content = {
        "name": "x", "question": "Why?", "recipe": "r.yaml", "axis": None, "fixed": {},
        "data": "dolos", "notice": None, "seeds": 1, "against": against, "metric": "iou",
        "variants": variants, "lines": lines, "gains": (), "failed": (), "made": made,
    }  # fmt: skip
    return Ablation(**(content | more))


def evaluated(folder, trained_on, scores):
    """Write an evaluation of one model; every photo of a test set has the same score."""
    row, photos = "+".join(trained_on), [f"photo{index}" for index in range(9)]
    model = plain_model(row, name=row, trained_on=list(trained_on))
    matrix = plain_matrix([model], list(scores), name=row)
    matrix["matrix"]["iou"] = {row: {test: plain_score(50.0) for test in scores}}
    for test in scores:
        matrix["data"]["tests"][test]["sha256"] = "same"
        values = {"iou": np.full(len(photos), scores[test])}
        path = cell_path(folder / row, row, test)
        write_cell(path, plain_cell(model, test, photos, values, test="same"))
    (folder / row / "matrix.json").write_text(json.dumps(matrix))
    return Evaluation(folder / row, read_matrix(folder / row))


def test_a_gain_is_of_one_generator_more_on_those_that_neither_has(tmp_path):
    evaluations = {
        "x": evaluated(tmp_path, "a", {"a": 70.0, "b": 10.0, "c": 20.0, "d": 30.0}),
        "y": evaluated(tmp_path, "ab", {"a": 60.0, "b": 80.0, "c": 27.0, "d": 33.0}),
        "z": evaluated(tmp_path, "abc", {"a": 50.0, "b": 60.0, "c": 90.0, "d": 31.0}),
        "all": evaluated(tmp_path, "abcd", dict.fromkeys("abcd", 50.0)),
    }
    found = gains(evaluations, "iou")
    # c and d are new to both x and y, d to y and z; no generator is new to both z and all.
    assert [(gain.variant, gain.added) for gain in found] == [("x", "b"), ("y", "c")]
    assert [gain.change.value for gain in found] == pytest.approx([5.0, -2.0])
    table = gains_table(made_up({"a": 40.0, "b": 45.0}, gains=found))
    assert table.head == ["trained on", "and b", "and c"]
    assert [line[:1] for line in table.lines] == [["x"], ["y"]]
    (first, second) = table.lines
    assert first[1].startswith("+5.0") and first[2] == "" == second[1]
    assert gains_table(made_up({"a": 40.0})) is None


def test_the_table_by_hand():
    lines = ablation_text(made_up({"a": 40.0, "b": 45.04}, notice="a stand-in")).split("\n")
    (head,) = (line for line in lines if line.startswith("variant"))
    assert head.split()[:4] == ["variant", "in-domain", "out-of-domain", "worst"]
    a, b = (next(line for line in lines if line.startswith(f"{name} ")) for name in "ab")
    assert a.split() == ["a", "undefined", "40.0", "undefined", "undefined"]
    assert b.split()[2:3] == ["45.0"]
    assert b.split()[5:] == ["+5.0", "[+1.5,", "+8.5]", "0.020", "*"]
    assert lines[-1] == "a stand-in"


@pytest.mark.parametrize("axis", [None, "layer"])
def test_pictures_of_names_and_of_numbers(tmp_path, monkeypatch, axis):
    class Watched(picture.Figure):
        def savefig(self, *args, **options):
            super().savefig(*args, **options)
            FigureCanvasAgg(self).draw()
            labels = self.axes[0].get_yticklabels()
            assert axis or "layer1 (compared with)" in [label.get_text() for label in labels]
            assert all(label.get_window_extent().x0 >= 0 for label in labels)

    monkeypatch.setattr(picture, "Figure", Watched)
    found = made_up({"layer1": 40.0, "layer10": 45.0}, "layer1", axis=axis)
    picture.ablation_png(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_the_report_in_a_browser(tmp_path, chromium):
    found = made_up({"a": 40.0, "b": 45.0})
    by_test = [Line("b", "iou", f"test {name}", Score(9.0, 8.0, 10.0, 9)) for name in "zx"]
    found = replace(found, lines=(*found.lines, *by_test))
    picture.ablation_png(found, tmp_path / picture.PICTURE)
    page = chromium.new_page()
    heard = []
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(write_report(tmp_path, found).as_uri())
    assert page.eval_on_selector_all("table", "all => all.map(t => t.rows[0].innerText)")[1] == (
        "variant\tx\tz"
    )
    page.click("summary")
    page.click("button:visible >> nth=0")
    assert page.inner_text("button:visible >> nth=0") in ("Copied", "Selected")
    page.close()
    assert heard == []


def test_as_many_photos_of_each_generator_and_fewer_are_part_of_more(tmp_path):
    make_tree(tmp_path / "dolos")

    def used(generator, count):
        data = LocalizationDataModule(str(tmp_path / "dolos"), generator, train_photos=count)
        return {(s.generator, s.name) for s in data.training_photos()}

    four, six, everything = (used("lama+ldm", count) for count in (4, 6, None))
    assert four < six < everything and len(everything) == 16
    assert sorted(generator for generator, _ in four) == ["lama"] * 2 + ["ldm"] * 2
    assert {name for _, name in used("lama", 3)} != {name for _, name in used("ldm", 3)}
    assert used("lama", 3) == used("lama", 3)
    with pytest.raises(UserError, match=r"train_photos is 9, but .* has 8 training photos of lama"):
        used("lama", 9)
