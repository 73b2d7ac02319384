"""The command line end to end, and what it says when something is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.offline_run import records
from conftest import PATIENCE, make_clip, make_tree, wait_until
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from declip_pl import cli, parts
from declip_pl.model.checkpoint import read_checkpoint, save
from declip_pl.training import train
from declip_pl.training.lightning_cli import DeclipCLI
from declip_pl.training.recipe import Options
from declip_pl.training.run_folder import Run, run_name

ROOT = Path(__file__).parents[1]


def run_folder(tmp_path):
    (folder,) = (tmp_path / "outputs").iterdir()
    return folder


def files_of(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def finished(place, fit_arguments, tmp_path):
    """A copy of a finished run called x, which is trained once."""
    if not (place / "x").exists():
        cli.main(fit_arguments(**{"run.name": "x", "run.root": place}))
    return shutil.copytree(place / "x", tmp_path / "outputs/x")


def test_fit_leaves_everything_the_readme_promises(fit_arguments, tmp_path, tree, clip, capsys):
    cli.main(fit_arguments())
    folder = run_folder(tmp_path)
    assert folder.name == f"{clip.name}-layer1-linear-ldm"
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    panels = {f"panels/{i:02d}_{i}.png" for i in range(4)}
    expected = {".lock", "config.yaml", "metrics.csv", "test_metrics.json"}
    assert found == expected | panels | {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    results = json.loads((folder / "test_metrics.json").read_text())
    assert results["scores"]["ldm"]["iou_n"] == 4
    assert results["data"]["root"] == str(tree) and len(results["data"]["files_sha256"]) == 64
    assert results["encoder"]["source"] == f"folder {clip}"
    assert set(results["baselines"]["ldm"]) == {"all fake", "all real", "mean train mask"}
    assert "NaN" not in (folder / "test_metrics.json").read_text()
    assert Image.open(folder / "panels/00_0.png").size == (4 * 256, 256 + 16)
    printed = capsys.readouterr().out
    for text in ("this model", "all fake", f"encoder: folder {clip}", str(folder / "panels")):
        assert text in printed


def test_config_of_a_run_repeats_it(fit_arguments, tmp_path):
    cli.main(fit_arguments())
    folder = run_folder(tmp_path)
    cli.main(["fit", f"--config={folder / 'config.yaml'}", "--run.name=again"])
    first, again = (
        json.loads((f / "test_metrics.json").read_text())["scores"]
        for f in (folder, folder.parent / "again")
    )
    assert first == again


def test_config_of_a_run_does_not_repeat_its_overwrite(fit_arguments, tmp_path, error_of):
    cli.main(fit_arguments(**{"run.overwrite": "true"}))
    message = error_of("fit", f"--config={run_folder(tmp_path) / 'config.yaml'}")
    assert "a finished run stands in" in message


def test_test_scores_a_checkpoint_on_another_generator(fit_arguments, tmp_path):
    cli.main(fit_arguments())
    folder = run_folder(tmp_path)
    before = files_of(folder)
    arguments = ["test", f"--config={folder / 'config.yaml'}", "--data.generator=lama",
                 f"--ckpt_path={folder / 'checkpoints/best.ckpt'}"]  # fmt: skip
    cli.main(arguments)
    after = files_of(folder)
    assert set(after) - set(before) == {"test_metrics_lama.json"}
    assert all(after[name] == content for name, content in before.items())
    scores = json.loads(after["test_metrics_lama.json"])["scores"]
    assert list(scores) == ["lama"]
    with pytest.raises(SystemExit, match="exists; replace it"):
        cli.main(arguments)
    cli.main([*arguments, "--run.overwrite=true"])


def test_validate_leaves_the_run_as_it_is(fit_arguments, tmp_path):
    cli.main(fit_arguments())
    folder = run_folder(tmp_path)
    before = files_of(folder)
    cli.main(["validate", f"--config={folder / 'config.yaml'}",
              f"--ckpt_path={folder / 'checkpoints/best.ckpt'}"])  # fmt: skip
    assert files_of(folder) == before


def test_validating_elsewhere_leaves_the_runs_pictures(fit_arguments, tmp_path):
    cli.main(fit_arguments())
    folder = run_folder(tmp_path)
    before = files_of(folder)
    easier = make_tree(tmp_path / "easier", ("ldm",))
    for mask in (easier / "fake/ldm/masks/valid").iterdir():
        Image.new("L", (96, 96), 0).save(mask)  # all fake: a random decoder scores higher
    cli.main(["validate", f"--config={folder / 'config.yaml'}", f"--data.root={easier}",
              f"--ckpt_path={folder / 'checkpoints/best.ckpt'}"])  # fmt: skip
    assert files_of(folder) == before


def test_models_outside_runs_are_tested_as_well(fit_arguments, tmp_path, tree, monkeypatch):
    """A stray checkpoint and a saved folder: their results go to a folder of their own."""
    monkeypatch.chdir(tmp_path)
    cli.main(fit_arguments())
    folder = run_folder(tmp_path)
    trained = json.loads((folder / "test_metrics.json").read_text())["scores"]
    stray = tmp_path / "stray.ckpt"
    stray.write_bytes((folder / "checkpoints/best.ckpt").read_bytes())
    save(read_checkpoint(folder), tmp_path / "saved")
    before = files_of(folder)
    for model in ("stray.ckpt", "saved"):
        arguments = ["test", model, f"--data={tree}", "--data.num_workers=0"]
        cli.main([*arguments, "--trainer.logger=false", "--trainer.accelerator=cpu"])
        results = Path("outputs/test") / Path(model).stem / "test_metrics_ldm.json"
        assert json.loads(results.read_text())["scores"] == trained
    assert files_of(folder) == before


def test_a_finished_run_is_never_overwritten_unasked(finished, fit_arguments, error_of):
    before = files_of(finished)
    for resume in ("false", "true"):
        message = error_of(*fit_arguments(**{"run.name": "x", "run.resume": resume}))
        assert "a finished run stands in" in message and "OVERWRITE=1" in message
    assert files_of(finished) == before
    changes = {"run.name": "x", "run.overwrite": "true", "trainer.max_epochs": 1}
    cli.main(fit_arguments(**changes))
    assert len((finished / "metrics.csv").read_text().splitlines()) == 2


def test_a_finished_run_is_not_continued_from_a_checkpoint(finished, fit_arguments, error_of):
    before = files_of(finished)
    last = finished / "checkpoints/last.ckpt"
    assert "a finished run stands in" in error_of(
        *fit_arguments(**{"run.name": "x", "ckpt_path": last})
    )
    assert files_of(finished) == before


@pytest.mark.parametrize(
    "mistake",
    [{"model.encoder": "openai/clip-vit-large-patch14"}, {"model.layer": "layer9"},
     {"data.polarity": "grey"}],
)  # fmt: skip
def test_overwriting_begins_only_when_nothing_is_wrong(finished, fit_arguments, error_of, mistake):
    before = files_of(finished)
    error_of(*fit_arguments(**{"run.name": "x", "run.overwrite": "true"} | mistake))
    assert files_of(finished) == before


def test_two_trainings_in_one_folder_are_one_too_many(fit_arguments, tmp_path, error_of):
    with Run(str(tmp_path / "outputs"), "x").claimed():
        message = error_of(*fit_arguments(**{"run.name": "x"}))
    assert "another process is training in" in message
    cli.main(fit_arguments(**{"run.name": "x"}))


def test_overwriting_deletes_nothing_but_runs(fit_arguments, tmp_path):
    precious = tmp_path / "outputs/x/thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    cli.main(fit_arguments(**{"run.name": "x", "run.overwrite": "true"}))
    assert precious.read_text() == "years of work"


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64"])
def test_precisions_that_change_the_encoder_are_refused(
    fit_arguments, error_of, tmp_path, precision
):
    message = error_of(*fit_arguments(**{"trainer.precision": precision}))
    assert f"precision {precision} would change the frozen encoder's weights" in message
    assert not (tmp_path / "outputs").exists()


def test_resuming_on_other_data_is_an_error(finished, fit_arguments, error_of):
    (finished / "test_metrics.json").unlink()
    before = files_of(finished)
    changes = {"run.name": "x", "run.resume": "true", "data.generator": "lama"}
    message = error_of(*fit_arguments(**changes))
    assert "was begun with other settings: data.generator is ldm, here lama" in message
    assert files_of(finished) == before


def test_config_of_a_resumed_run_starts_from_the_beginning(fit_arguments, tmp_path):
    cli.main(fit_arguments(**{"run.name": "x"}))
    folder = tmp_path / "outputs/x"
    (folder / "test_metrics.json").unlink()
    cli.main(fit_arguments(**{"run.name": "x", "run.resume": "true", "trainer.max_epochs": 3}))
    cli.main(["fit", f"--config={folder / 'config.yaml'}", "--run.name=again"])
    rows = [(folder.parent / name / "metrics.csv").read_text() for name in ("x", "again")]
    assert rows[0] == rows[1] and len(rows[0].splitlines()) == 4


def test_an_unfinished_run_wants_to_be_resumed(finished, fit_arguments, error_of):
    (finished / "test_metrics.json").unlink()
    before = files_of(finished)
    assert "RESUME=1" in error_of(*fit_arguments(**{"run.name": "x"}))
    assert files_of(finished) == before


def test_a_run_without_checkpoint_may_start_again(tmp_path):
    for run in (Run(str(tmp_path), "x"), Run(str(tmp_path), "x", resume=True)):
        assert run.check() is None
        with run.claimed():
            run.begin()
        assert run.folder.is_dir()


def test_resuming_with_another_encoder_is_an_error(finished, fit_arguments, tmp_path, error_of):
    (finished / "test_metrics.json").unlink()
    other = make_clip(tmp_path / "other-clip", seed=1)
    message = error_of(
        *fit_arguments(**{"run.name": "x", "run.resume": "true", "model.encoder": other})
    )
    assert "belongs to another encoder" in message and "other-clip" in message


def test_testing_with_another_encoder_is_an_error(finished, tmp_path, error_of):
    other = make_clip(tmp_path / "other-clip", seed=1)
    message = error_of("test", f"--config={finished / 'config.yaml'}", f"--model.encoder={other}",
                       f"--ckpt_path={finished / 'checkpoints/best.ckpt'}")  # fmt: skip
    assert "belongs to another encoder" in message
    assert not list(finished.glob("test_metrics_*"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data.generator": "typo"}, "there is no generator 'typo'.*found: lama, ldm"),
        ({"data.root": "/nowhere"}, "there is no folder /nowhere; expected Dolos' layout"),
        ({"model.layer": "layer9"}, "has no 'layer9'; choose one of layer0 to layer3"),
        ({"model.decoder": "conv-5"}, "there is no decoder 'conv-5'; choose one of light, linear"),
        ({"model.encoder": "/nowhere/clip"}, "neither a folder on this machine nor an id"),
        ({"model.encoder": "openai/clip-vit-large-patch14"}, "cannot reach the Hugging Face hub"),
        ({"data.generator": "all-but-ldm+lama"}, "leaves no generator"),
        ({"data.batch_size": 0}, "--data.batch_size is 0; expected a number greater"),
        ({"run.name": ".."}, "can't be a run's name: expected the name of one folder"),
        ({"run.name": "/abs/olute"}, "can't be a run's name: expected the name of one folder"),
    ],
)
def test_wrong_names_give_one_clear_error(fit_arguments, tmp_path, error_of, changes, expected):
    message = error_of(*fit_arguments(**changes))
    assert re.search(expected, message) and "Traceback" not in message
    assert not list((tmp_path).rglob("*.ckpt"))


def test_damaged_data_give_one_error_that_names_every_file(own_tree, fit_arguments, error_of):
    truncated = own_tree / "fake/ldm/images/train/1.png"
    Image.open(truncated).save(truncated.with_suffix(".jpg"), quality=95)
    truncated.unlink()
    truncated = truncated.with_suffix(".jpg")
    truncated.write_bytes(truncated.read_bytes()[:800])
    (own_tree / "fake/ldm/masks/valid/0.png").unlink()
    message = error_of(*fit_arguments(**{"data.root": own_tree}))
    assert "2 errors" in message
    assert "train/1.jpg: can't be decoded" in message and "valid/0.png: no mask" in message
    assert error_of("data", "check", str(own_tree)).count("1.jpg") == 1


def test_masks_that_look_inverted_are_named_with_their_switch(fit_arguments, capsys):
    cli.main(fit_arguments(**{"data.polarity": "white", "trainer.max_epochs": 1}))
    printed = capsys.readouterr().out
    assert "of all pixels are fake if white means fake" in printed
    assert "--data.polarity black" in printed


def test_data_check_of_a_clean_set(tree, capsys):
    cli.main(["data", "check", str(tree)])
    # 16 photos and masks of each of two generators, 16 real photos
    assert "80 files decoded\nnothing wrong\n" in capsys.readouterr().out


def test_data_check_knows_the_generators(tree, error_of, capsys):
    assert "there is no generator 'typo'" in error_of(
        "data", "check", str(tree), "--generator=typo"
    )
    cli.main(["data", "check", str(tree), "--generator=ldm+lama"])
    assert "80 files decoded\nnothing wrong\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sent", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_an_interrupted_run_says_how_to_continue_and_does(fit_arguments, tmp_path, sent, status):
    arguments = fit_arguments(
        **{"run.name": "x", "trainer.max_epochs": 500, "schedule.patience": 500}
    )
    command = [sys.executable, "-m", "declip_pl", *arguments]
    run = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A shell's background jobs, which CI may be one of, pass on that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    table = tmp_path / "outputs/x/metrics.csv"
    wait_until(table.exists, run)
    run.send_signal(sent)
    _, message = run.communicate(timeout=PATIENCE)
    # Where the signal hits inside an eval(), CPython ends itself by it after all has been handled
    # (-2); to a shell both are 130.
    assert run.returncode in (status, -sent), message
    assert "finished epochs are kept" in message and "RESUME=1" in message
    done = len(table.read_text().splitlines()) - 1
    options = {"run.name": "x", "run.resume": "true", "trainer.max_epochs": done + 2}
    cli.main(fit_arguments(**options, **{"schedule.patience": 500}))
    epochs = [line.split(",")[0] for line in table.read_text().splitlines()[1:]]
    assert epochs == [str(n) for n in range(done + 2)]


@pytest.mark.parametrize(
    ("options", "expected", "absent"),
    [
        (["RESUME=1"], ["--resume"], ["--overwrite"]),
        (["RESUME=0", "OVERWRITE=0"], [], ["--resume", "--overwrite"]),
        (["GEN=a+b", "DATA=/with space", "RUN=mine"],
         ["--generator='a+b'", "--data='/with space'", "--name='mine'"], []),
    ],
)  # fmt: skip
def test_makefile_hands_options_on(options, expected, absent):
    command = ["make", "--dry-run", "--directory", str(ROOT), "train", *options]
    printed = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"NAME": "some-host"}
    ).stdout
    assert all(text in printed for text in expected)
    assert not any(text in printed for text in [*absent, "some-host"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_experiment_file_is_a_valid_configuration(path, monkeypatch):
    """Parsed by the real parser; nothing is built, as Dolos and the hub are elsewhere."""
    parsed = {}

    def stop(self):
        parsed.update(self.config.fit.as_dict())
        raise SystemExit(0)

    monkeypatch.setattr(DeclipCLI, "before_instantiate_classes", stop)
    with pytest.raises(SystemExit):
        cli.main(["fit", "--config", str(path)])
    assert parsed["model"]["encoder"] and parsed["data"]["root"]


def test_every_experiment_has_its_question():
    listed = set(re.findall(r"`(\w+\.yaml)`", (ROOT / "experiments/README.md").read_text()))
    assert listed == {p.name for p in (ROOT / "experiments").glob("*.yaml")}


def test_run_names():
    assert run_name("openai/clip-vit-large-patch14", "layer20", "conv-20", "ldm") == (
        "clip-vit-large-patch14-layer20-conv-20-ldm"
    )
    name = run_name(
        "openai/clip-vit-large-patch14+RN50:/a/b.pt",
        *("layer20", "conv-4", "all", "weak", "jpeg"),
        seed=3,
    )
    assert name == "clip-vit-large-patch14+rn50-layer20-conv-4-all-weak-augmented-jpeg-seed3"
    assert run_name("RN50:/a/b.pt", "layer3", "conv-4", "ldm") == "rn50-layer3-conv-4-ldm"


class TestTrain:
    """``declip-pl train`` chooses data and recipe."""

    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("DECLIP_DATA", raising=False)

    def test_dolos_gets_the_papers_recipe(self, capsys):
        make_tree(Path("data/dolos_data/celebahq"), counts={"train": 1})
        arguments = train.fit_arguments(Options())
        assert f"--config={ROOT / 'experiments/paper.yaml'}" in arguments
        assert "--data.root=data/dolos_data" in arguments
        assert "data/dolos_data exists" in capsys.readouterr().out

    def test_other_data_get_the_quick_recipe(self, tree, capsys):
        arguments = train.fit_arguments(Options(data=str(tree)), "lama")
        assert f"--config={ROOT / 'experiments/quickstart.yaml'}" in arguments
        assert f"--data.root={tree}" in arguments and "--data.generator=lama" in arguments
        assert len(capsys.readouterr().out.splitlines()) == 1

    def test_environment_names_data(self, tree, monkeypatch):
        monkeypatch.setenv("DECLIP_DATA", str(tree))
        assert f"--data.root={tree}" in train.fit_arguments(Options())

    def test_without_data_mini_is_built(self, monkeypatch, capsys):
        built = []
        monkeypatch.setattr(
            train,
            "build_mini",
            lambda root: built.append(make_tree(root, counts={"train": 1})),
        )
        arguments = train.fit_arguments(Options())
        assert built == [Path("data/mini")] and "--data.root=data/mini" in arguments
        assert "a stand-in, not Dolos" in capsys.readouterr().out

    def test_data_and_recipe_are_said_once(self, tree, monkeypatch, capsys):
        options = Options(data=str(tree))
        train.fit_arguments(options, brief=True)  # said by the command that it is a part of
        assert "recipe: " not in capsys.readouterr().out
        train.fit_arguments(options)
        assert capsys.readouterr().out.count("recipe: ") == 1
        monkeypatch.setattr(rank_zero_only, "rank", 1)  # said by the first of several processes
        train.fit_arguments(options)
        assert "recipe: " not in capsys.readouterr().out

    def test_overrides_reach_fit(self, tree):
        options = Options(data=str(tree), encoder="e", decoder="d", layer="l", supervision="weak")
        arguments = train.fit_arguments(options, seed=0, name="n", resume=True)
        for option in ("--model.encoder=e", "--model.decoder=d", "--model.layer=l", "--run.name=n",
                       "--model.supervision=weak", "--seed_everything=0", "--run.resume=true",
                       "--run.overwrite=false"):  # fmt: skip
            assert option in arguments

    def test_wrong_config(self, tree, error_of):
        assert "there is no file nope.yaml" in error_of(
            "train", f"--data={tree}", "--config=nope.yaml"
        )

    def test_end_to_end(self, tree, clip, tmp_path):
        config = tmp_path / "tiny.yaml"
        config.write_text(
            f"model: {{encoder: {clip}, layer: layer1, decoder: linear, image_size: 64}}\n"
            "data: {root: x, generator: x, batch_size: 4, num_workers: 0}\n"
            "trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false}\n"
        )
        cli.main(["train", "--generator=lama", f"--data={tree}", f"--config={config}", "--seed=2"])
        (folder,) = Path("outputs/train").iterdir()
        assert folder.name == f"{clip.name}-layer1-linear-lama-seed2"
        assert (folder / "test_metrics.json").exists()


def read_wandb(path):
    """Return the names of all logged figures and the config of an offline run's file."""
    from wandb.proto.wandb_internal_pb2 import Record

    keys, config = set(), {}
    for data in records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        keys |= {item.key or item.nested_key[0] for item in record.history.item}
        updates = [*record.run.config.update, *record.config.update]
        config |= {item.key: json.loads(item.value_json) for item in updates if item.key}
    return keys, config


def test_wrong_checkpoint_files(finished, error_of):
    config = f"--config={finished / 'config.yaml'}"
    missing = finished / "checkpoints/nope.ckpt"
    assert "there is no localizer at" in error_of("test", config, f"--ckpt_path={missing}")
    torch.save({"model": {}}, finished / "checkpoints/foreign.ckpt")
    (finished / "checkpoints/text.ckpt").write_text("not a checkpoint")
    for name in ("foreign", "text"):
        message = error_of("test", config, f"--ckpt_path={finished}/checkpoints/{name}.ckpt")
        assert f"{name}.ckpt" in message and "Traceback" not in message


COMMAND_NAMES = [name for name in cli.COMMANDS if name not in ("fit", "validate")]


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_help_is_complete(name):
    """Every option and word has a text, which comes from the docstrings."""
    parser = cli.parser_of(name)
    assert parser.description
    for action in parser._actions:
        assert action.help, f"{name}: {action.option_strings or action.dest}"


def test_train_and_cross_eval_share_their_options():
    train_options, cross_options = (
        {o for a in cli.parser_of(name)._actions for o in a.option_strings}
        for name in ("train", "cross-eval")
    )
    shared = {f"--{name}" for name in Options.__dataclass_fields__}
    assert shared <= train_options and shared <= cross_options


def test_switches_take_no_value():
    parser = cli.parser_of("train")
    assert parser.parse_args(["--resume", "--seed", "1"]).resume is True
    assert cli.parser_of("cross-eval").parse_args(["--loo"]).loo is True
    assert parser.parse_args([]).overwrite is False


def test_train_hands_on_what_it_does_not_know(monkeypatch, tree):
    handed = []
    monkeypatch.setattr(train, "DeclipCLI", handed.extend)
    cli.main(["train", f"--data={tree}", "--trainer.max_epochs", "3", "--seed", "1",
              "--data.batch_size=7"])  # fmt: skip
    assert handed[-3:] == ["--trainer.max_epochs", "3", "--data.batch_size=7"]
    assert "--seed_everything=1" in handed


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tain", "train"),
        ("predit", "predict"),
        ("cross_eval", "cross-eval"),
        ("cache", "cache ls"),
        ("evalute", "evaluate"),
    ],
)
def test_a_mistyped_command_is_told_what_was_meant(error_of, typed, meant):
    message = error_of(typed)
    assert f"there is no command {typed!r}; did you mean {meant}" in message


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("train", "finished epochs are kept"),
        ("fit", "finished epochs are kept"),
        ("cross-eval", "finished models and cells are kept"),
        ("evaluate", "finished models and cells are kept"),
        ("predict", "--resume goes on"),
        ("export", ""),
        ("compare", ""),
        ("demo", ""),
        ("data check", ""),
    ],
)
def test_ctrl_c_tells_what_is_kept_of_this_command(tmp_path, monkeypatch, capsys, name, kept):
    (tmp_path / "interrupted.py").write_text("raise KeyboardInterrupt")
    monkeypatch.setenv("DECLIP_PARTS", str(tmp_path / "interrupted.py"))
    with pytest.raises(SystemExit) as exit_:
        cli.main(name.split())
    printed = capsys.readouterr().err
    assert exit_.value.code == 130 and kept in printed
    assert kept or printed == "interrupted\n"


def test_a_lock_that_ctrl_c_broke_is_an_interruption(monkeypatch, capsys):
    """Python's own lock breaks where Ctrl-C meets a thread that is being started."""

    def fail():
        try:
            raise KeyboardInterrupt
        finally:
            try:
                raise ValueError
            finally:
                raise RuntimeError("release unlocked lock")

    monkeypatch.setattr(parts, "load_named", fail)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["export"])
    assert exit_.value.code == 130 and capsys.readouterr().err == "interrupted\n"


def test_faults_keep_their_traceback_and_say_where_to_report_them(monkeypatch, capsys):
    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr(parts, "load_named", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])
    assert "please report it" in capsys.readouterr().err
