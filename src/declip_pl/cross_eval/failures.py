"""Parts that go wrong while the rest goes on: noted, named by whose they are, said at the end."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from declip_pl.cross_eval.matrix import Failure
from declip_pl.errors import UserError
from declip_pl.privacy import without_folders

ERRORS = (UserError, RuntimeError, OSError, ValueError)
"""What one part of a cross-evaluation may fail with while the rest goes on."""

T = TypeVar("T")


def attempt(failures: list[Failure], what: str, work: Callable[[], T]) -> T | None:
    """Return what ``work`` returns, or note that it failed and return None."""
    try:
        return work()
    except ERRORS as error:
        failures.append(Failure(what, str(error).split("\n", 1)[0]))
        return None


def failures_of(whose: object, failures: Iterable[Failure]) -> list[Failure]:
    """Return failures with the name of what they are a part of before theirs."""
    return [Failure(f"{whose}: {failure.what}", failure.why) for failure in failures]


def on_record(failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Return failures that name no folder of this machine."""
    return tuple(Failure(without_folders(f.what), without_folders(f.why)) for f in failures)


def as_error(what: str, failures: Iterable[Failure]) -> UserError:
    """Return the error that names all failures.

    Args:
        what: What they are parts of.
        failures: What went wrong.
    """
    lines = [f"  {failure.what}: {failure.why}" for failure in failures]
    parts = [f"these parts of {what} failed:", *lines, "the same command tries them again"]
    return UserError("\n".join(parts))
