"""Parts by name: what the words of a recipe stand for, and parts from outside the package.

A recipe, an option and a checkpoint name a part in one of two ways: by a registered word
(``decoder: light``), or by a class and its arguments (``class_path`` and ``init_args``, as in
LightningCLI). Code outside declip_pl is used only where the user has named its file or module, in
``DECLIP_PARTS`` or by :func:`load`: what was downloaded can't choose what runs.
"""

import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from declip_pl.errors import UserError
from declip_pl.files import expanded

Spec = str | dict[str, Any]
"""A registered word, or ``{"class_path": ..., "init_args": {...}}``."""

VARIABLE = "DECLIP_PARTS"
"""Environment variable that names Python files or modules, separated by commas."""

T = TypeVar("T", bound=Callable[..., Any])

LOADED: dict[str, ModuleType] = {}
"""The modules that the user has named, by name."""

NAMED: set[str] = set()
"""What of ``DECLIP_PARTS`` was imported already."""


def load(source: str | Path) -> ModuleType:
    """Import a user's parts, so that recipes and checkpoints may name them.

    Args:
        source: A Python file, which becomes a module of its name, or an importable module.

    Raises:
        UserError: If there is no such file or module, or its name is another module's.
    """
    path = Path(expanded(source))
    if path.suffix != ".py":
        return _remember(_import(str(source)))
    name, known = path.stem, sys.modules.get(path.stem)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() != path.resolve():
            raise UserError(f"{path}: {name!r} is already the name of another module; rename it")
        return _remember(known)
    if not path.is_file():
        raise UserError(f"{VARIABLE}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return _remember(module)


def load_named() -> None:
    """Import what ``DECLIP_PARTS`` names; again without effect."""
    for source in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
        if source not in NAMED:
            load(source)
            NAMED.add(source)


class Registry(Generic[T]):
    """The parts of one kind.

    Args:
        kind: What they are, for messages: ``decoder``.
        trusted: Packages whose classes need not be named by the user.
        home: Package that registers the parts that ship, imported when one is first asked for.
    """

    def __init__(self, kind: str, trusted: tuple[str, ...] = (), home: str = "") -> None:
        self.kind = kind
        self.trusted = trusted
        self.home = home
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that gives a class or function a name for recipes."""

        def keep(part: T) -> T:
            if name in self._parts:
                raise UserError(f"there are two parts called {name!r} ({self.kind}); rename one")
            self._parts[name] = part
            return part

        return keep

    def names(self) -> list[str]:
        """Return the registered words."""
        if self.home:
            importlib.import_module(self.home)
        load_named()
        return list(self._parts)

    def knows(self, spec: Spec) -> bool:
        """Whether a spec names a registered part or a class, rather than anything else."""
        if isinstance(spec, dict) or spec in self.names():
            return True
        return _is_named(spec.rpartition(".")[0])

    def make(self, spec: Spec, *args: Any) -> Any:
        """Return the part that a spec names.

        Args:
            spec: See :data:`Spec`.
            args: What every part of this kind is built from; ``init_args`` follow by name.

        Raises:
            UserError: If there is none of that name, it may not be used, or it takes other
                arguments.
        """
        name, init_args = read_spec(spec)
        part = self.find(name)
        try:
            inspect.signature(part).bind(*args, **init_args)
        except TypeError as error:
            raise UserError(f"{self.kind} {name}: {error}; it takes {_arguments(part)}") from error
        return part(*args, **init_args)

    def find(self, name: str) -> Any:
        """Return the class or function of a registered word or a class path.

        Raises:
            UserError: If there is none of that name, or it may not be used.
        """
        if name in self.names():
            return self._parts[name]
        module, _, attribute = name.rpartition(".")
        if not module:
            raise UserError(
                f"there is no {self.kind} {name!r}; choose one of {', '.join(self.names())}, or a "
                "class of your own (class_path: FILE.CLASS)"
            )
        package = module.split(".")[0]
        if not (_is_named(module) or package in self.trusted):
            raise UserError(
                f"{self.kind} {name} is code outside declip-pl; if you trust it, name its file: "
                f"export {VARIABLE}={package}.py"
            )
        found = getattr(_import(module), attribute, None)
        if not isinstance(found, type):
            raise UserError(f"{self.kind} {name}: {module} has no class {attribute}")
        return found


def read_spec(spec: Any) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments in a spec.

    Raises:
        UserError: If it is neither a word nor a class path with arguments.
    """
    if isinstance(spec, str):
        return spec, {}
    known = {"class_path", "init_args"}
    if isinstance(spec, dict) and isinstance(spec.get("class_path"), str) and spec.keys() <= known:
        init_args = spec.get("init_args") or {}
        if isinstance(init_args, dict):
            return spec["class_path"], init_args
    raise UserError(f"expected a name, or class_path and init_args; found {spec!r}")


def short(spec: Spec) -> str:
    """Return what a spec is called in folder names and tables: a word, or the class's name."""
    name, _ = read_spec(spec)
    is_class = isinstance(spec, dict) or _is_named(name.rpartition(".")[0])
    return name.rpartition(".")[2].lower() if is_class else name


def as_text(spec: Any) -> str:
    """Return a spec, or a list of them, as one canonical line for keys and tables."""
    return spec if isinstance(spec, str) else json.dumps(spec, sort_keys=True)


def code_of(part: Any) -> str | None:
    """Return a hash of the source of a user's own class or function; None for declip-pl's parts.

    What was computed by other code is not taken for what this code computes.
    """
    if not _is_named(part.__module__):
        return None
    return hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:16]


def _is_named(module: str) -> bool:
    """Whether the user has named a module, or the package that it lies in."""
    return any(module == name or module.startswith(f"{name}.") for name in LOADED)


def _remember(module: ModuleType) -> ModuleType:
    LOADED[module.__name__] = module
    return module


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"there is no module {name!r} ({error})") from error


def _arguments(part: Any) -> str:
    return ", ".join(inspect.signature(part).parameters) or "none"
