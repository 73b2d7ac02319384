"""What is passed on names no folder of this machine, and with it no user."""

import os
import re
from pathlib import Path
from typing import Any

_BEGINS = r"(?<![\w/.~-])"  # not inside a relative path or a web address

_FOLDERS = re.compile(
    rf"{_BEGINS}(?:file://)?(?:(?:~[\w.-]*)?/(?!/)|(?:\.\./)+)(?:[^/\n'\":;,]+/)*"
)
"""The folders of a path that is absolute, in a home, or above the current folder; names of folders
may have blanks."""


def without_folders(text: str) -> str:
    """Return text with each path cut to its last part, but for paths below the current folder.

    ``no photo in /home/ann/my photos/a.png`` becomes ``no photo in a.png``. Web addresses stay.
    Of a text with two paths, words between them may be lost; folders never stay.
    """
    home = _home()
    if home != "/":  # its last part is a user's name
        text = re.sub(rf"{_BEGINS}{re.escape(home)}(?![\w.-])", "~", text)
    text = re.sub(rf"{_BEGINS}{re.escape(str(Path.cwd()))}/", "", text)
    return _FOLDERS.sub("", text)


def all_without_folders(value: Any) -> Any:
    """Return nested dictionaries and lists with :func:`without_folders` of every text in them."""
    if isinstance(value, dict):
        return {name: all_without_folders(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [all_without_folders(entry) for entry in value]
    if not isinstance(value, (str, Path)):
        return value
    text = str(value)
    if text.startswith("/") and text != _home():
        return Path(text).name  # in a path alone, any character may be part of a folder's name
    return without_folders(text)


def _home() -> str:
    return os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
