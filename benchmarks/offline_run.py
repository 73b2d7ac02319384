"""Read the file of an offline W&B run: a log of records, as LevelDB keeps them."""

import struct
from collections.abc import Iterator

BLOCK = 32 * 2**10
"""Bytes; a record that does not fit into one goes on in the next."""
HEADER, WANDB_HEADER = 7, 7
"""Bytes before a part of a record, and before all of them."""
WHOLE, LAST = 1, 4
"""Kinds of parts with which a record ends."""


def records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a run's file, each a serialised ``Record`` of W&B's.

    Args:
        content: Of the file.
    """
    position = WANDB_HEADER
    parts: list[bytes] = []
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:  # too little for a header: padding
            position += BLOCK - position % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        position += HEADER
        parts.append(content[position : position + length])
        position += length
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts = []
