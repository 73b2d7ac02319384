"""Names that come from elsewhere: which may be a folder's, and how Markdown shows them.

Names of runs, models and generators are typed, are names of folders, or stand in files of others.
"""

import re

from declip_pl.errors import UserError

_HARMLESS = " ,;()+%/'-"
"""Characters beside letters and digits that mean nothing to Markdown inside a line."""

_CODE = re.compile(r"[\w .,:;/+()=@%#-]+")
"""What may stand between backticks, also in a table."""


def check_name(name: str, what: str) -> str:
    """Return a name that can be that of one file or folder, inside whatever holds it.

    Args:
        name: Typed, or read from a file.
        what: What it names, for the error: ``a run's name``.

    Raises:
        UserError: If it is empty, ``.`` or ``..``, has a slash or backslash, or a character that
            can't be seen (control characters, marks that turn the direction of writing).
    """
    if name in ("", ".", "..") or not name.isprintable() or {"/", "\\"} & set(name):
        raise UserError(
            f"{name!a} can't be {what}: expected the name of one folder, without slashes and "
            "without characters that can't be seen; rename it"
        )
    return name


def markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line, wherever it stands."""
    return "".join(_shown(character) for character in text)


def markdown_code(text: str) -> str:
    """Return text as code in Markdown that is shown as it is, also in a table's cell."""
    return f"`{text}`" if _CODE.fullmatch(text) else f"<code>{markdown(text)}</code>"


def _shown(character: str) -> str:
    if character.isalnum() or character in _HARMLESS:
        return character
    return f"&#{ord(character)};" if character.isprintable() else "&#65533;"
