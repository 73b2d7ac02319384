"""The files that the page of ``declip-pl demo`` offers of a photo."""

import json
import shutil
import tempfile
from pathlib import Path

from declip_pl.errors import UserError
from declip_pl.files import file_name, write_text
from declip_pl.inference.demo_look import Look
from declip_pl.inference.localization import write_png
from declip_pl.inference.photo_report import report_html


def write_files(look: Look, folder: str) -> list[str]:
    """Write a report, the pictures at the photo's own size, and all figures as JSON.

    Args:
        look: What was found in the photo.
        folder: Below which a new folder is made for them.

    Returns:
        The files, the report first.

    Raises:
        UserError: If they can't be written; nothing is then left.
    """
    stem, place = Path(look.photo.name).stem, Path(tempfile.mkdtemp(dir=folder))
    try:
        files = [place / file_name(stem, "-report.html")]
        write_text(files[0], report_html(look))
        for kind, pixels in look.found.pictures().items():
            files.append(place / file_name(stem, f"-{kind}.png"))
            write_png(files[-1], pixels)
        files.append(place / file_name(stem, "-localization.json"))
        write_text(files[-1], json.dumps(look.record(), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        raise UserError(f"the files can't be written ({error.strerror or error})") from error
    return list(map(str, files))
