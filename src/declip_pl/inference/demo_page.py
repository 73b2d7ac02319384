"""The page of ``declip-pl demo``: where everything stands, and what happens when it is used."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import gradio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from declip_pl.data.images import Photo, read_photo
from declip_pl.data.layout import Sample
from declip_pl.errors import UserError
from declip_pl.inference.demo_text import (
    CAUTION,
    FILE_TITLE,
    INTO_VIEW,
    INTRODUCTION,
    LEGEND,
    SAMPLES_TITLE,
    STARTS,
    WAYS,
    error_html,
    model_text,
    regions_html,
    score_html,
)
from declip_pl.inference.localizer import Localization, Localizer
from declip_pl.inference.recorded_scores import recorded_scores
from declip_pl.metrics import THRESHOLD
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.names import markdown
from declip_pl.panels import heat_map, overlay
from declip_pl.privacy import without_folders

SHOWN_SIDE = 1280
"""Pictures on the page are shrunk to this many pixels a side; what is measured is not."""

SAMPLE_SIDE = 192
"""Of the small pictures of sample photos, in pixels."""

KEPT = (60, 600)
"""Every so many seconds, pictures older than so many are deleted; until then they can be saved."""

OPEN_PAGES = 4
"""Pages whose last photo is held in memory: 200 MB for 24 megapixels."""

BUTTONS = ["fullscreen", "download"]
"""Above each picture; Gradio's others share it."""


class _Events:
    """What happens when something is dropped, chosen or moved on the page.

    Each method returns new values for the components that :func:`_connect` names as outputs.
    """

    def __init__(
        self,
        models: dict[str, Path],
        photos: Sequence[Sample],
        encoder: str | None,
        device: str | None,
    ) -> None:
        self.models = models
        self.photos = photos
        load = partial(Localizer.from_pretrained, device=device, encoder=encoder)
        self.load = lru_cache(maxsize=1)(load)  # an encoder is large

    def about(self, name: str) -> str:
        try:
            checkpoint = read_checkpoint(self.models[name])
            return model_text(checkpoint, recorded_scores(checkpoint))
        except UserError as error:
            return markdown(without_folders(str(error)))

    def upload(self, file: str, *options: Any) -> list[Any]:
        try:
            return [None, *self._look(Path(file), *options)]
        finally:
            # Gradio makes a folder for each content; the same photo may have come twice.
            shutil.rmtree(Path(file).parent, ignore_errors=True)

    def sample(self, event: gradio.SelectData, *options: Any) -> list[Any]:
        return self._look(self.photos[event.index].image, *options)

    def again(self, found: Localization | None, *options: Any) -> list[Any]:
        return self._look(found.photo, *options) if found else _unchanged(7)

    def cut(self, found: Localization | None, threshold: float) -> list[Any]:
        return _cut_parts(found.at_threshold(threshold)) if found else _unchanged(3)

    def _look(self, photo: Photo, name: str, tiles: bool) -> list[Any]:
        try:
            found = self.load(self.models[name])(photo, tiles=tiles)
        except UserError as error:
            hidden, problem = _visible(False), error_html(error, photo)
            return [None, hidden, *_unchanged(1), problem, None, None, *_unchanged(1)]
        heat = heat_map(_shrunk(found.heatmap))
        return [found, _visible(True), heat, *_cut_parts(found), round(found.threshold, 2)]


def _cut_parts(found: Localization) -> list[Any]:
    """Return what a threshold changes: the score's text, the overlay and the table."""
    heat = _shrunk(found.heatmap)
    picture = overlay(_shrunk(found.photo), heat, heat > found.threshold)
    return [score_html(found), picture, regions_html(found.regions, found.mask.size)]


def _shrunk(picture: NDArray[Any]) -> NDArray[Any]:
    scale = min(1, SHOWN_SIDE / max(picture.shape))
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


@dataclass(frozen=True)
class _Inputs:
    """What a visitor drops, chooses and moves; ``about`` says what the chosen model is."""

    file: Any
    samples: Any
    model: Any
    about: Any
    tiles: Any


@dataclass(frozen=True)
class _Results:
    """What is shown of a photo; ``found`` keeps it for the next threshold or model.

    ``threshold`` is a slider: it goes to where each photo was cut, and cuts where it is moved to.
    """

    found: Any
    column: Any
    heat: Any
    score: Any
    drawn: Any
    table: Any
    threshold: Any


def build_page(
    models: dict[str, Path],
    photos: Sequence[Sample],
    encoder: str | None = None,
    device: str | None = None,
) -> gradio.Blocks:
    """Return the page.

    Args:
        models: To choose from, by name; the first one is loaded.
        photos: To try the page with.
        encoder: Where the user says that the frozen encoder is.
        device: Where models run.

    Raises:
        UserError: If the first model can't be loaded.
    """
    events, first = _Events(models, photos, encoder, device), next(iter(models))
    events.load(models[first])  # what is wrong with it should not wait for a photo
    with gradio.Blocks(analytics_enabled=False, title="declip-pl", delete_cache=KEPT) as page:
        page.state_session_capacity = OPEN_PAGES
        gradio.Markdown(INTRODUCTION)
        with gradio.Row():
            with gradio.Column():
                inputs = _place_inputs(list(models), events.about(first), photos)
            with gradio.Column():
                results = _place_results()
        _connect(events, inputs, results)
    return page


def _place_inputs(models: list[str], about: str, photos: Sequence[Sample]) -> _Inputs:
    file = gradio.File(label=FILE_TITLE, height=160)
    gradio.Markdown(SAMPLES_TITLE, visible=bool(photos))
    samples = gradio.Gallery(
        [(_thumbnail(sample.image), sample.generator) for sample in photos],
        show_label=False,
        visible=bool(photos),
        height="auto",
        elem_classes="samples",
        allow_preview=False,
        interactive=False,
        buttons=[],
    )
    model = gradio.Dropdown(models, value=models[0], label="Model", elem_classes="model")
    told = gradio.Markdown(about)
    tiles = gradio.Radio(WAYS, value=False, label="How to look")
    return _Inputs(file, samples, model, told, tiles)


def _place_results() -> _Results:
    found, score = gradio.State(), gradio.HTML(elem_id="score")
    with gradio.Column(visible=False) as column:
        drawn = gradio.Image(label="Overlay", interactive=False, buttons=BUTTONS)
        threshold = gradio.Slider(
            0, 1, THRESHOLD, step=0.01, label="Threshold of the red line", info=STARTS, buttons=[]
        )
        heat = gradio.Image(label="Heat map", interactive=False, buttons=BUTTONS)
        gradio.Markdown(LEGEND)
        table = gradio.HTML()
    gradio.Markdown(CAUTION)
    return _Results(found, column, heat, score, drawn, table, threshold)


def _connect(events: _Events, inputs: _Inputs, results: _Results) -> None:
    options = [inputs.model, inputs.tiles]
    cut = [results.score, results.drawn, results.table]
    shown = [results.found, results.column, results.heat, *cut, results.threshold]
    # One event at a time passes the network.
    network: dict[str, Any] = {"concurrency_id": "network", "api_visibility": "private"}
    file, model = inputs.file, inputs.model
    uploaded = file.upload(events.upload, [file, *options], [file, *shown], **network)
    selected = inputs.samples.select(events.sample, options, shown, **network)
    uploaded.then(js=INTO_VIEW)
    selected.then(js=INTO_VIEW)
    model.input(events.about, model, inputs.about, api_visibility="private")
    changed = [model.input, inputs.tiles.input]
    gradio.on(changed, events.again, [results.found, *options], shown, **network)
    results.threshold.input(
        events.cut,
        [results.found, results.threshold],
        cut,
        show_progress="hidden",
        trigger_mode="always_last",  # of a movement; what lies between need not be drawn
        api_visibility="private",
    )


def _thumbnail(photo: Path) -> Image.Image:
    image = Image.fromarray(read_photo(photo))  # upright, and without the file's metadata
    image.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE))
    return image


def _visible(visible: bool) -> dict[str, Any]:
    return dict(gradio.update(visible=visible))


def _unchanged(components: int) -> list[Any]:
    return [gradio.skip()] * components
