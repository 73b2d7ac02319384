"""The command line: Lightning's ``fit``, ``validate`` and ``test``, and a few more."""

import inspect
import sys
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
from jsonargparse import ArgumentParser, auto_cli
from lightning.pytorch.utilities.exceptions import SIGTERMException

from declip_pl.cross_eval.command import cross_eval
from declip_pl.cross_eval.compare import compare
from declip_pl.cross_eval.views.wandb_dashboard import dashboard
from declip_pl.data import feature_cache as features
from declip_pl.data.check import check_data
from declip_pl.data.layout import FAKE_VALUE, REAL, Convention, select_generators, source_root
from declip_pl.data.mini import build_mini
from declip_pl.errors import UserError
from declip_pl.inference.demo import demo
from declip_pl.inference.export import export
from declip_pl.inference.import_published import import_published
from declip_pl.inference.predict import predict
from declip_pl.model.weights import resolve
from declip_pl.training.lightning_cli import DeclipCLI
from declip_pl.training.train import MINI, train_arguments

SWITCHES = ("tiles", "resume", "json")
"""Options of ``declip-pl predict`` that are there or not."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; what the user can fix ends in one line and exit status 1.

    Args:
        args: Arguments in place of ``sys.argv[1:]``.
    """
    args = sys.argv[1:] if args is None else args
    try:
        _dispatch(args)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        _interrupted(130, args)
    except SystemExit as stop:
        # Lightning turns both signals into an exit of its own, status 1 and 0.
        if isinstance(stop.__context__, KeyboardInterrupt):
            _interrupted(130, args)
        if isinstance(stop, SIGTERMException):
            _interrupted(143, args)
        raise


def _interrupted(status: int, args: list[str]) -> NoReturn:
    kept = "a training run keeps its finished epochs: RESUME=1 continues it"
    if args[:1] == ["cross-eval"]:
        kept = "finished models and cells are kept: the same command goes on from there"
    elif args[:1] == ["predict"]:
        kept = "finished photos are kept: the same command with --resume goes on from there"
    print(f"interrupted; {kept}", file=sys.stderr)
    sys.exit(status)


def _dispatch(args: list[str]) -> None:
    name = args[0] if args else ""
    if name == "train":
        # Not auto_cli, whose own --config would hide the recipe's.
        parser = ArgumentParser(prog="declip-pl train")
        parser.add_function_arguments(train_arguments)
        DeclipCLI(train_arguments(**parser.parse_args(args[1:]).as_dict()))
    elif name == "cross-eval":
        cross_eval(**_cross_eval_options(args[1:]))
    elif name == "predict":
        predict(**_predict_options(args[1:]))
    elif name in COMMANDS:
        auto_cli(COMMANDS, args=args, prog="declip-pl")
    else:
        DeclipCLI(args)


def _cross_eval_options(args: list[str]) -> dict[str, Any]:
    # Nor here, and models are plain words: `declip-pl cross-eval RUN RUN`.
    parser = ArgumentParser(prog="declip-pl cross-eval", description=inspect.getdoc(cross_eval))
    parser.add_argument("models", nargs="*", type=Path, help="runs' folders or checkpoints")
    parser.add_function_arguments(cross_eval, skip={"models"})
    return parser.parse_args(args).as_dict()


def _predict_options(args: list[str]) -> dict[str, Any]:
    # Photos are plain words as well, and a switch takes no value, so that they can stand behind it.
    about = docstring_parser.parse(inspect.getdoc(predict) or "")
    help_of = {parameter.arg_name: parameter.description for parameter in about.params}
    parser = ArgumentParser(prog="declip-pl predict", description=about.description)
    parser.add_argument("paths", nargs="*", metavar="PATH", help=help_of["paths"])
    parser.add_function_arguments(predict, skip={"paths", *SWITCHES})
    for switch in SWITCHES:
        parser.add_argument(f"--{switch}", action="store_true", help=help_of[switch])
    return parser.parse_args(args).as_dict()


def check(
    root: Path, source: str | None = None, convention: Convention = "dolos", generator: str = "all"
) -> None:
    """Decode every file of a data set in Dolos' layout and list all that is wrong with it.

    Args:
        root: The data set.
        source: Part of Dolos, where ``root`` holds several.
        convention: Whose mask polarity the data follow.
        generator: Which generators, as in ``declip-pl train``.

    Raises:
        UserError: If anything would spoil training.
    """
    folder = source_root(root, source)
    names = select_generators(folder, generator)
    names += [REAL] if (folder / REAL).is_dir() else []
    report = check_data(folder, names, FAKE_VALUE[convention])
    report.raise_errors()
    print(report)


def mini(root: Path = MINI) -> None:
    """Build ``mini``, the stand-in for machines without Dolos.

    Args:
        root: Folder to build.
    """
    build_mini(root)


def weights(encoder: str = "openai/clip-vit-base-patch16") -> None:
    """Fetch an encoder's frozen weights once and say where they come from.

    Args:
        encoder: A hub id or a local folder.
    """
    print(f"weights of {encoder}: {resolve(encoder).source}")


def cache_ls() -> None:
    """List the cached features: photos, size on disk, and which encoder they come from."""
    print("\n".join(map(features.describe, features.caches())) or "no features are cached")
    print(f"folder: {features.features_folder()} (DECLIP_FEATURES names another)")


def cache_prune(name: str) -> None:
    """Delete cached features; what is needed again is encoded again.

    Args:
        name: A cache's name, as ``declip-pl cache ls`` shows it, or ``all``.

    Raises:
        UserError: If there is no such cache, or a process is writing it.
    """
    chosen = [folder for folder in features.caches() if name in (folder.name, "all")]
    if not chosen and name != "all":
        raise UserError(f"no features are cached under {name!r}; see declip-pl cache ls")
    for folder in chosen:
        print(f"deleting {features.describe(folder)}")
        features.delete(folder)


COMMANDS: Any = {
    "data": {"check": check, "mini": mini},
    "weights": weights,
    "import": import_published,
    "cache": {"ls": cache_ls, "prune": cache_prune},
    "compare": compare,
    "dashboard": dashboard,
    "export": export,
    "demo": demo,
}
