"""What programs may ask the page of ``declip-pl demo`` (``gradio_client``): one photo at a time."""

from pathlib import Path
from typing import Any

import gradio

from declip_pl.errors import UserError
from declip_pl.inference.demo_events import Models, delete, read_upload
from declip_pl.inference.demo_files import write_files
from declip_pl.inference.demo_look import Look
from declip_pl.inference.demo_text import error_text

NAME = "localize"
"""Of the endpoint."""


def place_api(models: Models, first: str, folder: str, limits: dict[str, Any]) -> None:
    """Place the endpoint on the page that is being built, where nobody sees it.

    Args:
        models: To choose from.
        first: The one that is used where none is named.
        folder: Below which files are written.
        limits: Options of the event: of what it shares the network with.
    """

    def localize(photo: str, model: str, tiles: bool) -> tuple[dict[str, Any], list[str]]:
        """Find the manipulated pixels of a photo.

        Returns the figures, and files: a report in HTML, overlay, heat map and mask as PNGs of the
        photo's own size, and the figures as JSON.
        """
        path = Path(photo)
        try:
            localizer = models.load(model)
            read = read_upload(path)
            found = localizer(read.picture, tiles=tiles)
            look = Look(read, found, localizer.about, localizer.sha256, tiles)
            return look.record(), write_files(look, folder)
        except UserError as error:
            raise gradio.Error(error_text(error), print_exception=False) from error
        finally:
            delete([path])

    with gradio.Column(visible=False):
        photo = gradio.File(label="photo")
        model = gradio.Textbox(first, label="model")
        tiles = gradio.Checkbox(label="tiles")
        figures = gradio.JSON(label="figures")
        files = gradio.File(label="files", file_count="multiple")
        gradio.Button().click(
            localize, [photo, model, tiles], [figures, files], api_name=NAME, **limits
        )
