"""What a user can fix ends in one line that names it, whatever command, option or file it is.

Options come from the parsers themselves, so that one without a bound makes a test fail.
"""

import itertools
import typing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lightning import Trainer

from declip_pl import cli, one_line
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
        ("best.mode", "sideways", "can be min, max"),
        ("best.save_top_k", "-7", "save_top_k"),
        ("last.every_n_epochs", "-7", "every_n_epochs"),
        ("schedule", "foo", "--schedule is foo; expected a class"),
        ("schedule.monitor", "foo", "expected one of"),
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
