"""The command line: one table of commands, their help from docstrings and signatures.

What a command does stands in its own module, which is imported when it is called, so that the list
of commands appears at once.
"""

import ast
import importlib
import inspect
import os
import re
import sys
from argparse import ArgumentError
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from shlex import join
from typing import Any, NamedTuple, NoReturn, get_type_hints

from declip_pl import __version__, one_line
from declip_pl.errors import UserError
from declip_pl.files import expanded
from declip_pl.processes import Terminated, raise_on_sigterm

KEPT_RUN = "finished epochs are kept: declip-pl train --resume (RESUME=1) continues the run"
REPORT = "this is a fault of declip-pl: please report it with the lines above"

_NEGATIVE = re.compile(r"-\.?\d")
"""How a negative number begins, which is no option."""


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
        group: Heading under which it is listed.
        place: Module and function, ``declip_pl.inference.predict:predict``.
        words: Parameters that are plain words: ``*`` behind the name takes any number.
        kept: What an interruption leaves behind, in words; empty where there is nothing.
        further: Whether options that it does not know are handed on.
        instead: What is told where it is given words, of which it takes none.
    """

    group: str
    place: str
    words: tuple[str, ...] = ()
    kept: str = ""
    further: bool = False
    instead: str = ""


_TRAIN, _USE, _DATA = "Train and evaluate", "Use a trained localizer", "Data and weights"
_LIGHTNING = "Lightning's own, every option in YAML or on the command line"
_CELLS = "finished models and cells are kept: the same command goes on from there"
_EVALUATE = "finished models are scored by: declip-pl evaluate"
_PHOTOS = "finished photos are kept: the same command with --resume goes on from there"
_PHOTOS_MADE = "finished photos are kept: the same command goes on from there"
_PACKAGE = "declip_pl"

COMMANDS: dict[str, Command] = {
    "train": Command(_TRAIN, "training.train:train", (), KEPT_RUN, further=True),
    "test": Command(_TRAIN, "training.train:test", ("model",), further=True),
    "evaluate": Command(_TRAIN, "cross_eval.command:evaluate", ("methods*",), _CELLS),
    "runs": Command(_TRAIN, "inference.runs:runs"),
    "cross-eval": Command(_TRAIN, "cross_eval.command:cross_eval", (), _CELLS, instead=_EVALUATE),
    "ablate": Command(_TRAIN, "ablation.command:ablate", ("question",), _CELLS),
    "robustness": Command(_TRAIN, "robustness.command:robustness", ("models*",), _CELLS),
    "compare": Command(_TRAIN, "cross_eval.compare:compare", ("a", "b")),
    "dashboard": Command(_TRAIN, "cross_eval.views.wandb_dashboard:dashboard"),
    "predict": Command(_USE, "inference.predict:predict", ("paths*",), _PHOTOS),
    "demo": Command(_USE, "inference.demo:demo"),
    "save": Command(_USE, "inference.save:save", ("model", "folder")),
    "export": Command(_USE, "inference.export:export", ("model",)),
    "import": Command(_USE, "inference.import_published:import_published", ("checkpoint",)),
    "forge": Command(_DATA, "data.inpainting.command:forge", ("photos",), _PHOTOS_MADE),
    "data check": Command(_DATA, "data.commands:check", ("root",)),
    "data info": Command(_DATA, "data.info:info", ("names*",)),
    "data convert": Command(_DATA, "data.convert:convert", ("name", "source", "dest")),
    "data forgeries": Command(_DATA, "data.commands:forgeries", ("root",)),
    "data mini": Command(_DATA, "data.commands:mini"),
    "cache ls": Command(_DATA, "data.commands:cache_ls"),
    "cache check": Command(_DATA, "data.commands:cache_check"),
    "cache prune": Command(_DATA, "data.commands:cache_prune", ("name",)),
    "weights": Command(_DATA, "data.commands:weights"),
    "fit": Command(_LIGHTNING, "training.lightning_cli:DeclipCLI.fit", kept=KEPT_RUN),
    "validate": Command(_LIGHTNING, "training.lightning_cli:DeclipCLI.validate"),
}

OTHER_WORDS = {"list": ["runs"]}
"""What people type who look for a command."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; what the user can fix ends in one line.

    The exit status is then 2 where the arguments are no command's, otherwise 1.

    Args:
        args: Arguments in place of ``sys.argv[1:]``.
    """
    args = sys.argv[1:] if args is None else args
    # Processes that lose each other would print stack traces in C++ beside our one line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names of files need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        _answer(args)
    except KeyboardInterrupt as stop:  # a second one, while the first was answered
        _interrupted(stop, args)


def _answer(args: list[str]) -> None:
    """Do what the arguments ask for, and end in one line where the user can help."""
    try:
        _dispatch(args)
    except UserError as error:
        sys.exit(f"error: {error}")
    except ArgumentError as error:
        print(f"error: {one_line.of_parser(error)} ({_help(args)})", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        _interrupted(stop, args)
    except SystemExit as stop:
        # Lightning turns both signals into an exit of its own, status 1 and 0.
        if signalled := _signalled(stop):
            _interrupted(signalled, args)
        if type(stop).__name__ == "SIGTERMException":
            _interrupted(Terminated(), args)
        raise
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if signalled := _signalled(error):
            _interrupted(signalled, args)
        reason = one_line.of_any(error)
        if reason is None:
            print(REPORT, file=sys.stderr)
            raise
        sys.exit(f"error: {reason}")


def parser_of(name: str) -> Any:
    """Return the parser of a command: its options and help are its function's.

    Args:
        name: One of :data:`COMMANDS`, but neither ``fit`` nor ``validate``, which are Lightning's.
    """
    import docstring_parser
    from jsonargparse import ArgumentParser

    command = COMMANDS[name]
    function = _function(command)
    about = docstring_parser.parse(inspect.getdoc(function) or "")
    help_of = {parameter.arg_name: parameter.description for parameter in about.params}
    text = "\n".join(filter(None, (about.short_description, about.long_description)))
    parser = ArgumentParser(prog=f"declip-pl {name}", description=text, exit_on_error=False)
    skipped: set[Any] = {"further"}
    for word in command.words:
        parameter = word.removesuffix("*")
        settings: dict[str, Any] = {"type": get_type_hints(function)[parameter]}
        if word.endswith("*"):
            settings = {"type": str, "nargs": "*"}
        parser.add_argument(parameter, help=help_of[parameter], **settings)
        skipped.add(parameter)
    for parameter, hint in get_type_hints(function).items():
        if is_dataclass(hint):
            _add_fields(parser, hint)
            skipped.add(parameter)
        elif hint is bool and parameter not in skipped:
            parser.add_argument(f"--{parameter}", action="store_true", help=help_of[parameter])
            skipped.add(parameter)
        elif parameter.endswith("_"):  # the option's name is a word of Python's own
            option = f"--{parameter.removesuffix('_')}"
            parser.add_argument(option, type=hint, required=True, help=help_of[parameter])
            skipped.add(parameter)
    parser.add_function_arguments(function, skip=skipped, as_group=False)
    return parser


def _add_fields(parser: Any, kind: Any) -> None:
    """Add the fields of a dataclass as options; those that are true or false are switches."""
    import docstring_parser

    switches = [name for name, hint in get_type_hints(kind).items() if hint is bool]
    parser.add_class_arguments(kind, as_group=False, skip=set(switches))
    for parameter in docstring_parser.parse(inspect.getdoc(kind) or "").params:
        if (name := parameter.arg_name) in switches:
            options = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
            parser.add_argument(*options, action="store_true", help=parameter.description)


def overview() -> str:
    """Return the list of commands in groups, each with its docstring's first line."""
    lines = ["usage: declip-pl COMMAND [OPTION ...]", "", "Which pixels of a photo were painted?"]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines += ["", f"{group}:"]
        for name, command in COMMANDS.items():
            if command.group == group:
                lines.append(f"  {name:<12} {_first_line(command)}")
    lines += ["", "declip-pl COMMAND --help tells a command's options; --version, the version."]
    return "\n".join(lines)


def _dispatch(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return
    if args[0] == "--version":
        print(f"declip-pl {__version__}")
        return
    name, rest = _command_name(args)
    from declip_pl import parts

    parts.load_named()
    if COMMANDS[name].group == _LIGHTNING or (name == "test" and "--ckpt_path" in str(rest)):
        from declip_pl.training.lightning_cli import DeclipCLI

        DeclipCLI(args)
        return
    _call(name, rest)


def _command_name(args: list[str]) -> tuple[str, list[str]]:
    for count in (2, 1):
        name = " ".join(args[:count])
        if name in COMMANDS:
            return name, args[count:]
    known = [name for name in COMMANDS if name.startswith(f"{args[0]} ")]
    near = known or OTHER_WORDS.get(args[0]) or get_close_matches(args[0], COMMANDS, n=1)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UserError(f"there is no command {' '.join(args[:2])!r}{meant} (declip-pl --help)")


def _call(name: str, args: list[str]) -> None:
    command = COMMANDS[name]
    if command.kept and command.kept != KEPT_RUN:  # to trainings Lightning listens
        raise_on_sigterm()
    if command.instead and args and not args[0].startswith("-"):
        raise UserError(f"{name} takes no {args[0]!r}; {command.instead} {join(args)}")
    parser = parser_of(name)
    further: list[str] = []
    if command.further:
        args, further = _split(parser, args)
    given = expanded(parser.parse_args(args).as_dict())
    function = _function(command)
    for parameter, hint in get_type_hints(function).items():
        if parameter.endswith("_"):
            given[parameter] = given.pop(parameter.removesuffix("_"))
        if is_dataclass(hint):
            made: Any = hint
            given[parameter] = made(**{field.name: given.pop(field.name) for field in fields(hint)})
    function(**given, **({"further": tuple(further)} if command.further else {}))


def _split(parser: Any, args: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments into those of a parser and the options that it does not know."""
    known = {option for action in parser._actions for option in action.option_strings}
    ours: list[str] = []
    others: list[str] = []
    target, option = ours, ""
    for word in args:
        if word.startswith("-") and not _NEGATIVE.match(word):
            option = word
            target = ours if word.partition("=")[0] in known else others
        target.append(word)
        if target is others and word != option:
            target = ours
    return ours, others


def _function(command: Command) -> Any:
    module, _, name = command.place.partition(":")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)


def _first_line(command: Command) -> str:
    """Return the first line of a command's docstring without importing its module."""
    module, _, name = command.place.partition(":")
    spec = find_spec(f"{_PACKAGE}.{module}")
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name.rpartition(".")[2]:
            return (ast.get_docstring(node) or "").split("\n", 1)[0]
    raise AssertionError(f"{command.place} is not defined")


def _help(args: list[str]) -> str:
    return f"declip-pl {_command_name(args)[0]} --help"


def _signalled(error: BaseException) -> KeyboardInterrupt | None:
    """Return the Ctrl-C or SIGTERM that an exception came of, as a broken lock of Python's may."""
    cause = error.__context__
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__context__
    return cause


def _interrupted(stop: KeyboardInterrupt, args: list[str]) -> NoReturn:
    why, status = "interrupted", 130
    if isinstance(stop, Terminated):
        why, status = "ended by SIGTERM", 143
    kept = ""
    if args and not args[0].startswith("-"):
        kept = COMMANDS[_command_name(args)[0]].kept
    print(f"{why}{'; ' if kept else ''}{kept}", file=sys.stderr)
    sys.exit(status)
