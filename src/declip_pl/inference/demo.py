"""``declip-pl demo``: a page in the browser that shows what a localizer finds in a photo.

Everything happens on this machine: the page is served on loopback alone, loads nothing from
elsewhere, and a photo's file is deleted as soon as it has been read.
"""

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from declip_pl.data.images import MAX_PIXELS, Photo
from declip_pl.data.layout import REAL, generators, samples, source_root
from declip_pl.errors import UserError
from declip_pl.inference import pretrained
from declip_pl.inference.localizer import Localization, Localizer, Region, find_regions
from declip_pl.metrics import THRESHOLD
from declip_pl.panels import heat_map, overlay
from declip_pl.training.run_folder import BEST, Run
from declip_pl.training.train import choose_data

HOST = "127.0.0.1"

MAX_UPLOAD = 100
"""Size of an uploaded file in MB (2^20 bytes): a large camera's photo, losslessly compressed."""

SHOWN_SIDE = 1280
"""Pictures on the page are shrunk to this many pixels a side; what is measured is not."""

SHOWN_REGIONS = 8

SAMPLES, SAMPLE_SIDE = 2, 192
"""Sample photos of each generator, and the side of their small pictures in px."""

KEPT = (60, 600)
"""Every so many seconds, pictures older than so many are deleted; until then they can be saved."""

OPEN_PAGES = 4
"""Pages whose last photo is held in memory: 200 MB for 24 megapixels."""

HEADERS = [
    # The browser itself sees to it that the page loads nothing from elsewhere, and keeps nothing.
    ("Content-Security-Policy", "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"),
    ("Cache-Control", "no-store"),
]

BUTTONS = ["fullscreen", "download"]
"""Above each picture; Gradio's others share it."""

FILE_TITLE = f"Your photo, up to {MAX_UPLOAD} MB and {MAX_PIXELS // 10**6} megapixels"

SAMPLES_TITLE = "Or take a test photo: a real one, or one that the generator named has changed."

WAYS = [("Whole photo", False), ("In tiles: small changes in large photos, slower", True)]

TITLE = "Was part of this photo painted by a generative model?"

INTRODUCTION = f"""# {TITLE}
Drop a photo and see which parts look generated to a trained model. It is looked at on this computer
and sent nowhere; its file is deleted as soon as it has been read."""

LEGEND = """**Heat map:** black looks untouched; purple, orange and yellow look more and more
generated. **Overlay:** the same colours over the photo, and a red line around every part above the
threshold."""

CAUTION = """**No proof.** A high score doesn't show that a photo was manipulated, and a low one
doesn't show that it wasn't. The model knows the traces that a few generators leave in photos like
those it was trained on. Other generators, strong compression, filters, screenshots and resizing can
mislead it either way. Accuse nobody on its word."""

STAND_IN = """**This model is for trying the page out.** It was trained on *mini*, a stand-in made
by simple inpainters from a few photos. What it finds in other photos means nothing."""

SCORE = (
    "How generated the photo looks as a whole, from 0 to 1. It is not the probability of a fake."
)

# On a phone it stands below everything that was chosen.
INTO_VIEW = """() => {
  const score = document.getElementById("score");
  if (score.getBoundingClientRect().bottom > innerHeight) score.scrollIntoView();
}"""

CSS = """
.score { font-size: 2rem; font-weight: 600; }
.problem { border-left: .3rem solid #dc2626; padding: .25rem .75rem; overflow-wrap: anywhere; }
.prose .regions { width: 100%; }
.prose .regions caption { text-align: left; }
.prose .regions, .prose .regions * { border: 0; }
.prose .regions :is(th, td) { padding: .25rem; text-align: right;
  border-bottom: 1px solid var(--border-color-primary); }
.samples .grid-container { grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); }
.samples, .samples .grid-wrap { height: auto !important; min-height: 0 !important; }
.model input { padding-right: 1.5rem; text-overflow: ellipsis; }
"""


class Sample(NamedTuple):
    """A test photo to try the page with, and what made it."""

    photo: Path
    generator: str


def demo(models: str = Run.root, port: int = 7860, data: str | None = None) -> None:
    """Show in the browser what a localizer finds in a photo (extra: demo).

    The page is served on this machine alone and loads nothing from elsewhere. Ctrl-C ends it.

    Args:
        models: A folder of runs and saved localizers to choose from, or one of them.
        port: Of the page's address; 0 takes any that is free.
        data: Data set in Dolos' layout whose test photos are offered to try the page with. By
            default the one that declip-pl train would take, if it is on this machine.

    Raises:
        UserError: If there is no model, the port is taken, or Gradio is not installed.
    """
    found, photos = find_models(models), find_samples(data)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then as well
    try:
        with (
            listen(port) as listener,
            tempfile.TemporaryDirectory(prefix="declip-demo-") as folder,
        ):
            server = build_server(found, photos, folder)
            print(f"open http://{HOST}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
            server.run(sockets=[listener])
    except KeyboardInterrupt:
        print("stopped; no photo is kept")


def find_models(models: str) -> dict[str, Path]:
    """Return the trained localizers to choose from, by name.

    Args:
        models: A folder of runs and saved localizers, or what
            :func:`declip_pl.inference.pretrained.find` takes.

    Raises:
        UserError: If there is none.
    """
    folder = Path(models).expanduser()
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in inside if (path / BEST).is_file() or _is_saved(path)]
    if found:
        return {path.name: path for path in found}
    try:
        return {pretrained.name(models): pretrained.find(models)}
    except UserError as error:
        raise UserError(
            f"there is no trained localizer in {models}: train one (make train GEN=ldm), import "
            f"one (declip-pl import), or name one (--models). {error}"
        ) from error


def find_samples(data: str | None) -> list[Sample]:
    """Return a few test photos of each generator, and real ones, of a data set.

    Args:
        data: A data set in Dolos' layout; by default the one that ``declip-pl train`` would take.
            There are no samples if it is not on this machine.

    Raises:
        UserError: If the data set was named and is not there.
    """
    root, _ = choose_data(data)
    try:
        folder = source_root(root)
        names = [*generators(folder), *([REAL] if (folder / REAL).is_dir() else [])]
        found = {name: samples(folder, name, "test")[:SAMPLES] for name in names}
    except UserError:
        if data:
            raise
        return []
    return [Sample(sample.image, name) for name in names for sample in found[name]]


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback.

    Raises:
        UserError: If another program has the port.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} can't be used ({error}); choose another by --port") from error


def build_server(models: dict[str, Path], photos: Sequence[Sample], folder: str) -> Any:
    """Return the ``uvicorn.Server`` of the page.

    Args:
        models: What :func:`find_models` returns; the first one is loaded.
        photos: To try the page with.
        folder: Where uploads and pictures are while the page shows them.

    Raises:
        UserError: If Gradio is not installed, or the model can't be loaded.
    """
    # Gradio reads the first when it is imported and the second when a page is made.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f"the page needs Gradio ({error}); install it with pip install 'declip-pl[demo]', in a "
            "checkout with pip install --editable '.[demo]'"
        ) from error
    import fastapi
    import uvicorn
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = fastapi.FastAPI(openapi_url=None)
    # A page from elsewhere whose name resolves to this machine is no page of ours.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    gradio.mount_gradio_app(
        app,
        _build_page(models, photos),
        path="/",
        max_file_size=f"{MAX_UPLOAD}mb",
        theme=gradio.themes.Base(font="system-ui", font_mono="monospace"),
        css=CSS,
        footer_links=[],
        run_history=False,  # would keep photos in the browser
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
    )
    config = uvicorn.Config(
        app,
        headers=HEADERS,
        log_level="critical",
        timeout_graceful_shutdown=1,  # an open page never lets go of its connection
    )
    return uvicorn.Server(config)


def score_html(found: Localization) -> str:
    """Return the image-level score in words."""
    height, width = found.mask.shape
    return (
        f'<p><span class="score">{found.score:.2f}</span><br>{SCORE}</p>'
        f"<p>{found.mask.mean():.1%} of the photo ({width} x {height} px) is above the "
        "threshold.</p>"
    )


def regions_html(regions: Sequence[Region], pixels: int) -> str:
    """Return the largest regions as a table.

    Args:
        regions: Largest first.
        pixels: Of the photo.
    """
    if not regions:
        return "<p>No part of the photo is above the threshold.</p>"
    titles = ("left, top", "width x height", "share of the photo", "mean heat")
    rows = [
        (
            f"{left}, {top}",
            f"{right - left} x {bottom - top}",
            f"{area / pixels:.1%}",
            f"{probability:.2f}",
        )
        for (left, top, right, bottom), area, probability in regions[:SHOWN_REGIONS]
    ]
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    more = len(regions) - len(rows)
    table = (
        '<table class="regions"><caption>Parts above the threshold, in pixels of the photo'
        f"</caption><tr>{head}</tr>{body}</table>"
    )
    return table + (f"<p>and {more} smaller ones</p>" if more else "")


def model_text(checkpoint: dict[str, Any]) -> str:
    """Return in Markdown what a model was trained on.

    Args:
        checkpoint: What :func:`declip_pl.inference.pretrained.read` returns.
    """
    data, results = checkpoint.get("DolosDataModule") or {}, checkpoint.get("results") or {}
    names = ", ".join(map(_plain, data.get("generators", ()))) or "not known"
    encoder = checkpoint["encoder"]
    lines = [
        f"Trained on photos changed by: **{names}**. Encoder {_plain(encoder['name'])}, "
        f"{_plain(encoder['layer'])}; decoder {_plain(checkpoint['decoder'])}."
    ]
    # The same for all test sets: it was chosen on validation photos.
    cuts = {scores.get("image_threshold") for scores in results.get("scores", {}).values()}
    lines += [f"Its test took scores over **{cut:.2f}** for manipulated." for cut in cuts if cut]
    lines += [STAND_IN] if results.get("notice") else []
    return "\n\n".join(lines)


def at_threshold(found: Localization, threshold: float) -> Localization:
    """Return the same heat map cut at another threshold."""
    mask = found.heatmap > threshold
    regions = find_regions(found.heatmap, mask)
    return replace(found, mask=mask, threshold=threshold, regions=regions)


class _Events:
    """What happens when something is dropped, chosen or moved on the page.

    Each method returns new values for the components that :func:`_build_page` names as outputs.
    """

    def __init__(self, models: dict[str, Path], photos: Sequence[Sample]) -> None:
        self.models = models
        self.photos = photos
        self.load = lru_cache(maxsize=1)(Localizer.from_pretrained)  # an encoder is large

    def about(self, name: str) -> str:
        try:
            return model_text(pretrained.read(self.models[name]))
        except UserError as error:
            return _plain(str(error))

    def upload(self, file: str, *options: Any) -> list[Any]:
        try:
            return [None, *self._look(Path(file), *options)]
        finally:
            shutil.rmtree(Path(file).parent)  # Gradio makes a folder for each upload

    def sample(self, index: int, *options: Any) -> list[Any]:
        return self._look(self.photos[index].photo, *options)

    def again(self, found: Localization | None, *options: Any) -> list[Any]:
        return self._look(found.photo, *options) if found else _unchanged(6)

    def cut(self, found: Localization | None, threshold: float) -> list[Any]:
        return _cut_parts(at_threshold(found, threshold)) if found else _unchanged(3)

    def _look(self, photo: Photo, name: str, tiles: bool, threshold: float) -> list[Any]:
        try:
            found = self.load(self.models[name])(photo, tiles=tiles, threshold=threshold)
        except UserError as error:
            return [None, _visible(False), *_unchanged(1), _error_html(error, photo), None, None]
        heat = _shrunk(found.heatmap)
        return [found, _visible(True), heat_map(heat), *_cut_parts(found)]


def _cut_parts(found: Localization) -> list[Any]:
    """Return what a threshold changes: the score's text, the overlay and the table."""
    heat = _shrunk(found.heatmap)
    picture = overlay(_shrunk(found.photo), heat, heat > found.threshold)
    return [score_html(found), picture, regions_html(found.regions, found.mask.size)]


def _shrunk(picture: NDArray[Any]) -> NDArray[Any]:
    scale = min(1, SHOWN_SIDE / max(picture.shape))
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _error_html(error: UserError, photo: object) -> str:
    """Return an error in words, without the name of the folder that an upload was in."""
    text = str(error).replace(str(photo), photo.name) if isinstance(photo, Path) else str(error)
    return (
        '<div class="problem" role="alert"><p><b>This photo could not be analysed.</b></p>'
        f"<p>{escape(text)}</p></div>"
    )


def _build_page(models: dict[str, Path], photos: Sequence[Sample]) -> Any:
    import gradio

    events, first = _Events(models, photos), next(iter(models))
    events.load(models[first])  # what is wrong with it should not wait for a photo
    with gradio.Blocks(analytics_enabled=False, title="declip-pl", delete_cache=KEPT) as page:
        page.state_session_capacity = OPEN_PAGES
        found = gradio.State()
        gradio.Markdown(INTRODUCTION)
        with gradio.Row():
            with gradio.Column():
                file = gradio.File(label=FILE_TITLE, height=160)
                gradio.Markdown(SAMPLES_TITLE, visible=bool(photos))
                samples = gradio.Gallery(
                    [(_thumbnail(photo), name) for photo, name in photos],
                    show_label=False,
                    visible=bool(photos),
                    height="auto",
                    elem_classes="samples",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                )
                model = gradio.Dropdown(
                    list(models), value=first, label="Model", elem_classes="model"
                )
                about = gradio.Markdown(events.about(first))
                tiles = gradio.Radio(WAYS, value=False, label="How to look")
            with gradio.Column():
                score = gradio.HTML(elem_id="score")
                with gradio.Column(visible=False) as result:
                    drawn = gradio.Image(label="Overlay", interactive=False, buttons=BUTTONS)
                    threshold = gradio.Slider(
                        0, 1, THRESHOLD, step=0.01, label="Threshold of the red line", buttons=[]
                    )
                    heat = gradio.Image(label="Heat map", interactive=False, buttons=BUTTONS)
                    gradio.Markdown(LEGEND)
                    table = gradio.HTML()
                gradio.Markdown(CAUTION)

        def sample(event: gradio.SelectData, *options: Any) -> list[Any]:
            return events.sample(event.index, *options)

        options = [model, tiles, threshold]
        shown = [found, result, heat, score, drawn, table]
        # One event at a time passes the network.
        network: dict[str, Any] = {"concurrency_id": "network", "api_visibility": "private"}
        uploaded = file.upload(events.upload, [file, *options], [file, *shown], **network)
        selected = samples.select(sample, options, shown, **network)
        uploaded.then(js=INTO_VIEW)
        selected.then(js=INTO_VIEW)
        model.input(events.about, model, about, api_visibility="private")
        gradio.on([model.input, tiles.input], events.again, [found, *options], shown, **network)
        threshold.input(
            events.cut,
            [found, threshold],
            [score, drawn, table],
            show_progress="hidden",
            trigger_mode="always_last",  # of a movement; what lies between need not be drawn
            api_visibility="private",
        )
    return page


def _thumbnail(photo: Path) -> Image.Image:
    with Image.open(photo) as image:
        image.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE))
        return image.convert("RGB")


def _visible(visible: bool) -> dict[str, Any]:
    import gradio

    return dict(gradio.update(visible=visible))


def _unchanged(components: int) -> list[Any]:
    import gradio

    return [gradio.skip()] * components


def _is_saved(folder: Path) -> bool:
    return (folder / pretrained.CONFIG_FILE).is_file()


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return "".join(f"&#{ord(c)};" if not c.isalnum() and not c.isspace() else c for c in text)
