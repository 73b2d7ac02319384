"""Where everything stands on the page of ``declip-pl demo``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio
from PIL import Image

from declip_pl.data.images import read_photo
from declip_pl.data.layout import Sample
from declip_pl.inference.demo_choices import Choice
from declip_pl.inference.demo_text import (
    CAUTION,
    FILE_LABELS,
    FILE_TITLE,
    FILES_TITLE,
    INTRODUCTION,
    LEGEND,
    SAMPLES_TITLE,
    STARTS,
    WAYS,
)
from declip_pl.metrics import THRESHOLD

THUMBNAIL_SIDE = 192
"""Of the small pictures to choose from, in pixels."""


@dataclass(frozen=True)
class Inputs:
    """What a visitor drops and chooses; ``about`` says what the chosen model is."""

    file: Any
    samples: Any
    model: Any
    about: Any
    tiles: Any


@dataclass(frozen=True)
class Results:
    """What is shown of photos.

    ``shown`` keeps what was found for the next threshold or model, ``column`` holds all that is
    there for a photo alone. ``status`` is read out, ``progress`` is not. ``threshold`` is a slider:
    it goes to where each photo was cut, and cuts where it is moved to.
    """

    shown: Any
    status: Any
    progress: Any
    cancel: Any
    problem: Any
    looks: Any
    score: Any
    column: Any
    stage: Any
    wipe: Any
    zoom: Any
    threshold: Any
    heat: Any
    table: Any
    make: Any
    files: list[Any]


def place(
    models: Mapping[str, Choice], about: str, photos: Sequence[Sample]
) -> tuple[Inputs, Results]:
    """Place everything on the page that is being built.

    Args:
        models: To choose from, by name; the first one is chosen.
        about: What the first one is.
        photos: To try the page with.
    """
    gradio.Markdown(INTRODUCTION)
    with gradio.Row():
        with gradio.Column():
            inputs = _place_inputs(models, about, photos)
        with gradio.Column():
            results = _place_results()
    return inputs, results


def _place_inputs(models: Mapping[str, Choice], about: str, photos: Sequence[Sample]) -> Inputs:
    file = gradio.File(label=FILE_TITLE, height=160, file_count="multiple")
    gradio.Markdown(SAMPLES_TITLE, visible=bool(photos))
    samples = _gallery(
        [(_thumbnail(sample.image), sample.generator) for sample in photos],
        label="Test photos",
        visible=bool(photos),
        elem_id="samples",
    )
    names = [(_label(name, choice), name) for name, choice in models.items()]
    first = names[0][1]
    model = gradio.Dropdown(names, value=first, label="Model", elem_classes="model")
    told = gradio.Markdown(about)
    tiles = gradio.Radio(WAYS, value=False, label="How to look")
    return Inputs(file, samples, model, told, tiles)


def _place_results() -> Results:
    shown, status, progress = (
        gradio.State(),
        gradio.HTML(elem_id="status"),
        gradio.HTML(elem_id="progress"),
    )
    cancel = gradio.Button("Cancel", visible=False)
    problem = gradio.HTML(elem_id="problem")
    looks = _gallery([], label="Photos looked at", visible=False, elem_id="looks")
    score = gradio.HTML(elem_id="score")
    with gradio.Column(visible=False) as column:
        stage = gradio.HTML()
        wipe = gradio.Slider(
            0,
            100,
            50,
            step=1,
            label="Wipe: photo without overlay, in %",
            buttons=[],
        )
        zoom = gradio.Slider(1, 8, 1, step=0.5, label="Zoom", buttons=[])
        threshold = gradio.Slider(
            0, 1, THRESHOLD, step=0.01, label="Threshold of the red line", info=STARTS, buttons=[]
        )
        heat = gradio.HTML()
        gradio.Markdown(LEGEND)
        table = gradio.HTML()
        gradio.Markdown(FILES_TITLE)
        make = gradio.Button("Make the files")
        with gradio.Row():
            files = [gradio.DownloadButton(label, visible=False) for label in FILE_LABELS]
    gradio.Markdown(CAUTION)
    return Results(
        shown,
        status,
        progress,
        cancel,
        problem,
        looks,
        score,
        column,
        stage,
        wipe,
        zoom,
        threshold,
        heat,
        table,
        make,
        files,
    )


def _gallery(pictures: list[tuple[Image.Image, str]], **options: Any) -> gradio.Gallery:
    """Place small pictures to choose from."""
    return gradio.Gallery(
        pictures,
        show_label=False,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_classes="pictures",
        **options,
    )


def _label(name: str, choice: Choice) -> str:
    return name if choice.finished else f"{name} (not finished)"


def _thumbnail(photo: Path) -> Image.Image:
    image = Image.fromarray(read_photo(photo))  # upright, and without the file's metadata
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return image
