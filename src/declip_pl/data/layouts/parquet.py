"""Tables in parquet files, a few rows at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from declip_pl.errors import UserError

ROWS = 64
"""How many rows are in memory at once; with pictures in them a row has about a megabyte."""


def read_rows(path: Path, known: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file as dictionaries of those of the known columns that it has.

    Raises:
        UserError: If pyarrow is not installed, or the file can't be read.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(
            f"reading {path} needs pyarrow ({error}): pip install 'declip-pl[parquet]', in a "
            "checkout pip install --editable '.[parquet]'"
        ) from error
    try:
        with ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in known]
            for batch in file.iter_batches(batch_size=ROWS, columns=columns):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read as parquet ({error})") from error
