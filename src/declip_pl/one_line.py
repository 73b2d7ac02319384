"""What goes wrong and the user can fix, in one line: of the parser, the system and libraries."""

import errno
import os
import re
from argparse import ArgumentError

ADVICE = {
    errno.ENOSPC: "make room or write elsewhere",
    errno.EDQUOT: "make room or write elsewhere",
    errno.EFBIG: "write to a file system or with a limit that allows larger files",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "change its permissions or name another place",
    errno.EPERM: "change its permissions or name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""What to do next, by the system's error number."""

LIGHTNING = ("MisconfigurationException", "ProcessRaisedException")
"""Exceptions by which Lightning refuses options; by name, as it is imported by few commands."""

MEMORY = ("OutOfMemoryError", "MemoryError")


def of_any(error: Exception) -> str | None:
    """Return what the user can do about an exception of another's; None of a fault of ours."""
    if isinstance(error, OSError) and error.errno is not None:
        return of_system(error)
    return of_library(error)


def of_parser(error: ArgumentError) -> str:
    """Return the parser's refusal: the option, what was given, what was expected.

    Args:
        error: What jsonargparse raises, several lines for values of the wrong type.
    """
    message = re.sub(r"\b(?:fit|validate|test)\.", "", str(error))  # Lightning's sub-parsers
    option = ".".join(re.findall(r'Parser key "([^"]+)":', message))
    value = re.search(r"Got value: (.*)|Given value: (?!NestedArg)(.*)", message)
    expected = dict.fromkeys(filter(None, map(_word, re.findall(_EXPECTED, message))))
    if not option:
        return joined(message)
    if not (value and expected):
        return f"--{option}: {joined(message.partition(':')[2])}"
    return f"--{option} is {value[1] or value[2]}; expected {' or '.join(expected)}"


def of_system(error: OSError) -> str:
    """Return what the system refused: the file, why, and what to do next.

    Args:
        error: With an ``errno``.
    """
    assert error.errno is not None
    file = error.filename2 or error.filename
    name = os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else None
    why = os.strerror(error.errno)
    advice = ADVICE.get(error.errno)
    return f"{name + ': ' if name else ''}{why}{'; ' + advice if advice else ''}"


def of_library(error: Exception) -> str | None:
    """Return the refusal of Lightning or W&B, or that memory is short; None of all others."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = joined(error)
    if "Error" in kinds and type(error).__module__.startswith("wandb."):
        return f"W&B: {text}; WANDB_MODE=offline logs without it"
    if re.match(r"DataLoader worker .* (exited unexpectedly|is killed)", text):
        return (
            "a process that reads photos ended: there may be too little memory; take fewer or none "
            f"(--data.num_workers 0) ({text[:200]})"
        )
    if kinds & set(MEMORY) or "can't allocate memory" in text:
        return f"not enough memory: take smaller batches (--data.batch_size) ({text[:200]})"
    return text if kinds & set(LIGHTNING) else None


_EXPECTED = r"Expected an? (.*?)(?:\. Got value|$|\n)|Input should be (.*?)(?: \[|\n|$)"
"""What jsonargparse and pydantic say of the type, and of the bounds of a number."""

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
    "NoneType": "",
}


def _word(found: tuple[str, str]) -> str:
    """Return what was expected, in words of people; nothing where they say nothing."""
    text, bounds = found
    if bounds.startswith(("greater", "less", "finite")):
        return f"a number {bounds}"
    if bounds:  # of another type than a number
        return "a whole number" if "integer" in bounds else "a number"
    if text.startswith("path but"):  # a file with the value, which every option may have
        return ""
    if text.startswith("dot import path"):
        return "a class"
    if literal := re.search(r"typing\.Literal\[(.*)\]", text):
        return literal[1].replace("'", "").replace(", ", " or ")
    name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    return _WORDS.get(name, name)


def joined(text: object) -> str:
    """Return a text, or what an exception says, as one line."""
    return " ".join(str(text).split())
