"""What a user can fix ends in one line that names it, whatever command, option or file it is.

Options come from the parsers themselves, so that one without a bound makes a test fail.
"""

import itertools
import typing

import pytest
import wandb
from hypothesis import example, given
from hypothesis import strategies as st
from lightning import Trainer

from declip_pl import cli, one_line
from declip_pl.cross_eval.views.wandb_run import panels_key
from declip_pl.errors import UserError
from declip_pl.training import bounds
from declip_pl.training.lightning_cli import DeclipCLI

COMMANDS = [name for name in cli.COMMANDS if name not in ("fit", "validate")]

UNCHECKED = ("best.", "last.", "trainer.devices", "trainer.max_time", "trainer.precision")
"""Lightning's options whose numbers its own classes check, which tests below go through."""


def kinds(hint) -> set:
    """Return the types that a hint consists of."""
    inner = typing.get_args(hint)
    return set().union(*map(kinds, inner)) if inner else {hint}


def numeric(parser) -> list[str]:
    """Return the options of a parser that take numbers, without their dashes."""
    hints = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}
    return [name for name, hint in hints.items() if kinds(hint) & {int, float}]


def needed(parser) -> list[str]:
    """Return the words that a command can't do without."""
    words = [action for action in parser._actions if not action.option_strings]
    return [action.dest for action in words if action.nargs != "*"]


NUMBERS = [(name, option) for name in COMMANDS for option in numeric(cli.parser_of(name))]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refusal(capsys):
    """Run a command that must fail and return its status and its only line."""

    def run(*args: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(arg) for arg in args])
        said = capsys.readouterr().err
        code = exit_.value.code
        if isinstance(code, str):  # what Python prints when the program ends
            code, said = 1, code
        (line,) = [
            line for line in said.splitlines() if "it/s]" not in line and "Seed set" not in line
        ]
        assert line.startswith("error: ") and cli.REPORT not in said and "Traceback" not in said
        return code, line

    return run


@pytest.fixture(scope="module")
def fit_parser():
    """Return the parser of ``fit``, which knows Lightning's options and ours."""
    taken = []

    class Stopped(DeclipCLI):
        def parse_arguments(self, parser, args) -> None:
            taken.extend(a for a in parser._actions if a.dest == "subcommand")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Stopped(["fit"])
    return taken[0].choices["fit"]


def test_commands_have_numbers_to_check():
    assert {"predict", "demo", "cross-eval", "train"} <= {name for name, _ in NUMBERS}


@pytest.mark.parametrize("value", ["-7", "1e30", "nan", "x"])
@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_every_number_of_every_command_has_bounds(refusal, name, option, value):
    words = needed(cli.parser_of(name))
    status, line = refusal(*name.split(), *words, f"--{option}={value}")
    assert status == 2 and f"{name} --help" in line
    assert f"--{option} is " in line and "; expected a" in line


def test_a_negative_number_may_stand_in_a_word_of_its_own(refusal):
    assert "--seed is -1; expected" in refusal("train", "--seed", "-1")[1]


def refused(parser, option: str, value: str) -> str:
    """Return why ``fit`` refuses a value, in a parser that need not be built for each."""
    from argparse import ArgumentError

    words = ["--data.root=x", "--data.generator=x", f"--{option}={value}"]
    try:
        config = parser.parse_args(words)
        bounds.check_lightning(config.seed_everything, config.trainer.as_dict())
    except ArgumentError as error:
        return one_line.of_parser(error)
    except UserError as error:
        return str(error)
    return f"--{option} takes {value}"


def test_every_number_of_fit_has_bounds(fit_parser):
    options = [o for o in numeric(fit_parser) if not o.startswith(UNCHECKED) and "help" not in o]
    options += ["schedule.patience", "schedule.minimum"]
    assert len(options) > 25 and {"data.batch_size", "model.learning_rate"} <= set(options)
    for option, value in itertools.product(options, ("-7", "10000000000000", "nan")):
        named = "model.seed" if option == "seed_everything" and value != "nan" else option
        if option in ("model.seed", "data.seed"):  # given by seed_everything
            named = f'"{option}"'
        if option == "trainer.val_check_interval" and value == "nan":  # which may be text
            continue
        found = refused(fit_parser, option, value)
        assert f"{named} is {value}; expected" in found or f"Linked {named}" in found, found
        assert "\n" not in found


def test_lightnings_bounds_name_options_that_there_are():
    known = typing.get_type_hints(Trainer.__init__)
    assert bounds.TRAINER.keys() <= known.keys()


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("trainer.devices", "x", "should be an int > 0"),
        ("trainer.devices", "0", "is not a valid input"),
        ("trainer.devices", "-7", "--trainer.devices is -7; expected -1 to 4096"),
        ("trainer.devices", "10000000000000", "expected -1 to 4096"),
        ("trainer.devices", "1.5", "should be an int > 0"),
        ("trainer.devices", "[0,0]", "should be an int > 0"),
        ("trainer.devices", "4096", "on a CPU each is a process"),
        ("trainer.strategy", "ddp_spawn", "choose ddp"),
        ("trainer.num_nodes", "2", "nothing says where the others are"),
        ("trainer.accelerator", "gpu", "No supported gpu backend"),
        ("trainer.accelerator", "abacus", "invalid accelerator name"),
        ("trainer.strategy", "none", "invalid strategy name"),
        ("trainer.precision", "foo", "expected a whole number or"),
        ("trainer.profiler", "foo", "profiler"),
        ("trainer.max_time", "soon", "not a valid duration"),
        ("trainer.gradient_clip_algorithm", "foo", "gradient_clip_algorithm"),
        ("trainer.barebones", "true", "barebones"),
        ("trainer.limit_train_batches", "1.5", "limit_train_batches"),
        ("trainer.callbacks", "foo", "expected a list or a class"),
        ("best.mode", "sideways", "leave --best.mode at max"),
        ("best.save_top_k", "-7", "save_top_k"),
        ("last.every_n_epochs", "-7", "every_n_epochs"),
        ("schedule", "foo", "--schedule is foo; expected a class"),
        ("schedule.monitor", "foo", "choose one of"),
        ("seed_everything", "-1", "--model.seed is -1; expected"),
        ("nonsense", "3", "--nonsense"),
    ],
)
def test_what_lightning_refuses(refusal, fit_arguments, option, value, reason):
    _, line = refusal(*fit_arguments(**{option: value}))
    assert reason in line


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_of_another_command_is_named(refusal, name):
    if cli.COMMANDS[name].further:
        return
    words = needed(cli.parser_of(name))
    status, line = refusal(*name.split(), *words, "--nonsense", "3")
    assert status == 2 and "--nonsense" in line


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_word_is_named(refusal, name):
    if words := needed(cli.parser_of(name)):
        status, line = refusal(*name.split())
        assert status == 2 and words[0] in line


@given(st.text(st.characters(exclude_categories=()), max_size=300))
@example("x" * 300)
def test_shortened_names_fit_and_differ(text):
    from declip_pl.files import shortened

    name = text.replace("/", "").replace("\0", "")
    try:
        encoded = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return  # no file is called so
    short = shortened(name, 60)
    assert len(short.encode("utf-8", "surrogateescape")) <= 60
    assert (short == name) == (len(encoded) <= 60)
    assert shortened(name + "x" * 60, 60) != shortened(name + "y" * 60, 60)


RECIPES = {
    "broken": b"model: {encoder: [",
    "empty": b"",
    "a list": b"- model\n- data\n",
    "a word": b"model",
    "not UTF-8": b"model: {layer: caf\xe9}\n",
    "a tab": b"model:\n\tlayer: 3\n",
    "binary": bytes(range(256)),
    "a list for a section": b"model: [1, 2]\n",
    "a number for a section": b"data: 3\n",
    "a word for a section": b"trainer: fast\n",
    "a list for a schedule": b"schedule: [1]\n",
    "a number for a schedule": b"schedule: 5\n",
    "a number for an encoder": b"model: {encoder: 5}\n",
    "a mapping for a layer": b"model: {layer: {a: b}}\n",
    "a section that is none": b"modell: {layer: layer1}\n",
    "an option that is none": b"model: {layers: layer1}\n",
    "numbers for names": b"1: 2\n",
    "a class that is none": b"schedule: {class_path: nowhere.Schedule}\n",
    "an alias to nothing": b"model: *nothing\n",
    "a key twice and a tag": b"model: !!python/object:os.system {}\n",
}


OF_THE_PARSER = (
    *("a number for an", "a mapping for a", "a section that", "an option"),
    *("numbers for", "a class"),
)
"""What a cross-evaluation learns from the trainings that it starts."""


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("command", ["train", "cross-eval", "fit"])
def test_damaged_recipes(refusal, tree, tmp_path, command, name):
    if command == "cross-eval" and name.startswith(OF_THE_PARSER):
        return
    file = tmp_path / "my recipe.yaml"
    file.write_bytes(RECIPES[name])
    options = {
        "fit": [f"--data.root={tree}", "--data.generator=ldm"],
        "train": [f"--data={tree}", "--generator=ldm"],
        "cross-eval": [f"--data={tree}"],
    }
    refusal(command, f"--config={file}", *options[command])
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.fixture(scope="module")
def run(tree, clip, tmp_path_factory):
    """A finished run of the tiny model."""
    root = tmp_path_factory.mktemp("one line")
    options = {
        "run.root": root, "run.name": "my run", "data.root": tree, "data.generator": "ldm",
        "data.num_workers": 0, "model.encoder": clip, "model.layer": "layer1",
        "model.decoder": "linear", "model.image_size": 64, "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu", "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
    }  # fmt: skip
    cli.main(["fit", *(f"--{key}={value}" for key, value in options.items())])
    return root / "my run"


def writers(run, tree, fit_arguments, place) -> dict[str, list[str]]:
    """Return every command that writes, with a place to write to."""
    photo = tree / "real/test/0.png"
    return {
        "predict": ["predict", f"{photo}", f"--model={run}", f"--output={place}"],
        "export": ["export", f"{run}", f"--output={place}/model.onnx"],
        "data mini": ["data", "mini", f"--root={place}/mini"],
        "fit": fit_arguments(**{"run.root": place}),
    }


@pytest.mark.parametrize("command", ["predict", "data mini", "fit"])
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere", "x" * 300])
def test_places_that_can_not_be_written(
    refusal, run, tree, fit_arguments, tmp_path, command, place
):
    (tmp_path / "file").write_text("a file")
    _, line = refusal(*writers(run, tree, fit_arguments, place)[command])
    assert place[:40].split("/")[0] in line
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.parametrize("command", ["predict", "data mini", "fit", "cross-eval", "test"])
def test_full_disks(refusal, run, tree, fit_arguments, tmp_path, monkeypatch, command):
    """No file may grow beyond a few bytes, which is the same to a program."""
    import resource

    arguments = writers(run, tree, fit_arguments, tmp_path / "out")
    arguments["cross-eval"] = ["evaluate", f"{run}", f"--data={tree}"]
    arguments["test"] = ["test", f"{run}", "--generator=lama", "--trainer.logger=false"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments[command])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in str(exit_.value.code)


@pytest.mark.parametrize("how", ["exited unexpectedly", "is killed by signal: Killed. "])
def test_a_worker_that_was_ended_is_told(how):
    """As the kernel ends one where memory is short; the words are torch's."""
    said = one_line.of_any(RuntimeError(f"DataLoader worker (pid(s) 31152) {how}"))
    assert "too little memory" in said and "--data.num_workers" in said and "31152" in said
    assert one_line.of_any(RuntimeError("a worker exited unexpectedly")) is None


@pytest.mark.parametrize("library", ["a hole", "os error", "system"])
def test_a_library_that_hides_a_full_disk_is_seen_through(tmp_path, monkeypatch, library):
    import errno

    from declip_pl.files import atomic_path

    target = tmp_path / "file.bin"
    errors = {
        "a hole": RuntimeError("unexpected pos 64 vs 0"),
        "os error": RuntimeError("I/O error: No space left on device (os error 28)"),
        "system": OSError(errno.ENOSPC, "No space left on device"),
    }
    expected = pytest.raises(RuntimeError if library == "a hole" else OSError)
    with expected as caught, atomic_path(target):
        raise errors[library]
    if library != "a hole":  # that disk has room, so it is no full disk
        assert caught.value.filename == str(target) and caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_the_home_folder_stands_for_a_tilde_in_every_command(
    refusal, run, tmp_path, monkeypatch, tree, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    (tmp_path / "my home").mkdir()
    (tmp_path / "my home/data").symlink_to(tree)
    (tmp_path / "my home/run").symlink_to(run)
    cli.main(["data", "check", "~/data"])
    cli.main(["predict", "~/data/real/test", "--model=~/run", "--output=~/found"])
    assert (tmp_path / "my home/found/predictions.csv").is_file()
    for words in (
        ["weights", "--encoder=~/nothing"],
        ["train", "--data=~/nothing"],
        ["train", f"--data={tree}", "--config=~/nothing"],
        ["fit", "--data.root=~/nothing", "--data.generator=ldm"],
        ["export", "~/nothing"],
        ["import", "~/nothing"],
        ["demo", "--model=~/nothing"],
        ["dashboard", "--folder=~/nothing"],
        ["compare", "~/nothing", "~/nothing"],
    ):
        assert "my home/nothing" in refusal(*words)[1]
    assert not (tmp_path / "~").exists()


def test_a_tilde_in_a_recipe(refusal, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "r.yaml").write_text("data: {root: ~/nothing, generator: ldm}\n")
    assert "home/nothing" in refusal("fit", "--config=r.yaml")[1]


def test_a_user_without_a_home(refusal, monkeypatch):
    import pwd

    def nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "DECLIP_CACHE", "DECLIP_FEATURES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert "DECLIP_CACHE" in refusal("cache", "ls")[1]
    assert "no home folder" in refusal("predict", "~/photo.jpg")[1]


@given(name=st.text(min_size=1, max_size=200), tags=st.lists(st.text(max_size=200), max_size=9))
def test_whatever_names_there_are_weights_and_biases_takes_them(name, tags):
    from declip_pl.training.wandb_runs import wandb_options

    options = wandb_options(name, name, "fit", ["", "x" * 300, name, *tags])
    assert wandb.Settings(run_tags=tuple(options["tags"])).run_tags == tuple(options["tags"])
    assert all(len(tag) <= 64 for tag in options["tags"]) and "" not in options["tags"]
    assert all(len(options[key]) <= 128 for key in ("name", "group", "project"))


def test_variables_of_weights_and_biases_have_the_last_word(monkeypatch, tmp_path):
    from declip_pl.training.wandb_runs import wandb_options, wandb_place

    said = {"PROJECT": "p", "NAME": "n", "RUN_GROUP": "g", "JOB_TYPE": "j", "TAGS": "a,b"}
    for key, value in said.items():
        monkeypatch.setenv(f"WANDB_{key}", value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert wandb_options("x", "x", "x", ["x"]) == {
        "project": "p", "name": "n", "group": "g", "job_type": "j", "tags": ["a", "b"]
    }  # fmt: skip
    assert wandb_place(tmp_path / "run") == tmp_path


@pytest.mark.parametrize("mode", ["online", "sideways"])
def test_weights_and_biases_without_a_key(refusal, fit_arguments, monkeypatch, tmp_path, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr(wandb, "login", lambda **_: False)  # it remembers the mode for good
    _, line = refusal(*(word for word in fit_arguments() if "logger" not in word))
    assert f"WANDB_MODE is {mode}" in line
    assert not (tmp_path / "outputs").exists()


LONG, ODD = "g" * 250, "a b'\"#%=x"


@pytest.mark.parametrize("name", ["two\nlines", "caf\udce9", "a+b"])
def test_names_that_can_not_be_printed_are_no_generators(refusal, tmp_path, name):
    (tmp_path / "data/fake" / name / "images/test").mkdir(parents=True)
    assert repr(name) in refusal("data", "check", "data")[1]


def test_pictures_are_logged_under_names_that_make_folders():
    for part in panels_key("x" * 255, "\u00e9" * 127).split("/"):
        assert len(part.encode()) < 240  # W&B adds a number and a hash


def test_names_of_generators_and_photos_may_be_anything(tmp_path, clip, capsys):
    from conftest import make_tree

    counts = {"train": 2, "valid": 2, "test": 2}
    tree = make_tree(tmp_path / "data set", (LONG, ODD), counts)
    for photo in list(tree.rglob("0.png")):
        photo.rename(photo.with_name("caf\udce9 0.png"))
    for name in (LONG, ODD):
        options = {
            "data.root": tree, "data.generator": name, "data.num_workers": 0,
            "model.encoder": clip, "model.layer": "layer1", "model.decoder": "linear",
            "model.image_size": 64, "trainer.max_epochs": 1, "trainer.accelerator": "cpu",
            "trainer.enable_progress_bar": "false",
        }  # fmt: skip
        cli.main(["fit", *(f"--{key}={value}" for key, value in options.items())])
    runs = sorted(str(folder) for folder in (tmp_path / "outputs/train").iterdir())
    assert len(runs) == 2
    cli.main(["test", runs[0], f"--generator={LONG}"])
    cli.main(["evaluate", *runs, f"--data={tree}", "--name=mine"])
    cli.main(["compare", "outputs/cross_eval/mine", "outputs/cross_eval/mine"])
    cli.main(["predict", str(tree), f"--model={runs[0]}"])
    printed = capsys.readouterr().out
    assert "0 failed" in printed
    for table in (
        tmp_path / "outputs/cross_eval/mine/matrix.csv",
        tmp_path / "outputs/predict/predictions.csv",
    ):
        assert table.stat().st_size
