"""Photos whose pixels are intact and whose optional blocks (EXIF, profiles, notes) are damaged.

PIL takes such a file for no image at all: a PNG of which any block fails its checksum, and a JPEG
whose index of further pictures is wrong.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"

_PIXELS = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}
"""Blocks of a PNG that are optional by their names and still decide what is shown."""
_COMPRESSED = {b"iCCP", b"zTXt"}
"""Blocks that PIL may refuse though their checksums are right."""
_FURTHER_PICTURES, _PIXELS_FOLLOW = 0xE2, 0xDA


def without_damaged_blocks(path: Path) -> bytes | None:
    """Return a file's content without the optional blocks that keep PIL from reading it.

    The blocks that are whole stay, EXIF with its orientation among them.

    Args:
        path: File of a photo that can't be decoded as it is.

    Returns:
        None if it is neither PNG nor JPEG, or there is no such block.
    """
    with path.open("rb") as file:
        if not file.read(8).startswith((PNG, JPEG)):
            return None
    content = path.read_bytes()
    blocks = _png_blocks if content.startswith(PNG) else _jpeg_blocks
    kept = b"".join(blocks(content))
    return kept if len(kept) < len(content) else None


def _png_blocks(content: bytes) -> Iterator[bytes]:
    """Yield the signature, the blocks to keep, and what follows the last whole block."""
    yield PNG
    at = len(PNG)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        block = content[at : at + 12 + length]
        whole = block[-4:] == struct.pack(">I", zlib.crc32(block[4:-4]))
        optional = kind[:1].islower() and kind not in _PIXELS
        if not optional or (whole and kind not in _COMPRESSED):
            yield block
        at += len(block)
    yield content[at:]


def _jpeg_blocks(content: bytes) -> Iterator[bytes]:
    """Yield the signature, the blocks to keep, and everything from the pixels on."""
    yield JPEG
    at = len(JPEG)
    while at + 4 <= len(content):
        marker, kind, length = struct.unpack_from(">BBH", content, at)
        if marker != 0xFF or kind == _PIXELS_FOLLOW:  # noqa: PLR2004
            break
        if kind != _FURTHER_PICTURES:
            yield content[at : at + 2 + length]
        at += 2 + length
    yield content[at:]
