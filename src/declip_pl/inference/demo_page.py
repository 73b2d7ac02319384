"""The page of ``declip-pl demo``, put together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio

from declip_pl.data.layout import Sample
from declip_pl.inference.demo_api import place_api
from declip_pl.inference.demo_choices import Choice
from declip_pl.inference.demo_events import Events, Models
from declip_pl.inference.demo_parts import Inputs, Results, place
from declip_pl.inference.demo_style import INTO_VIEW, ON_LOAD, WIPE, ZOOM

KEPT = (60, 600)
"""Every so many seconds, files older than so many are deleted; until then they can be saved."""

OPEN_PAGES = 4
"""Pages whose photos are held in memory: 8 bytes for each pixel, 1.4 GB at most for each page."""

WAITING = 16
"""Photos, thresholds and other wishes that wait at a time; the rest is told to come later."""

NOT_UPLOADED = "a file has to be uploaded; its path or address is not enough"

_OWN: dict[str, Any] = {"api_visibility": "private"}


class _Page(gradio.Blocks):  # type: ignore[misc]  # an extra's class is none to mypy
    """A page that takes no file but those that were uploaded to it.

    Where a page is mounted, Gradio would read any file of this machine whose path somebody sends,
    and fetch what lies at an address.
    """

    uploads = Path()

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *others: Any) -> Any:
        if not _are_below(self.uploads, inputs):
            raise gradio.Error(NOT_UPLOADED, print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *others)


def build_page(
    models: Mapping[str, Choice],
    photos: Sequence[Sample],
    folder: str,
    encoder: str | None = None,
    device: str | None = None,
) -> gradio.Blocks:
    """Return the page.

    Args:
        models: To choose from, by name; the first one is loaded.
        photos: To try the page with.
        folder: Below which files to download are written.
        encoder: Where the user says that the frozen encoder is.
        device: Where models run.

    Raises:
        UserError: If the first model can't be loaded.
    """
    offered, first = Models(models, encoder, device), next(iter(models))
    offered.load(first)  # what is wrong with it should not wait for a photo
    # One event at a time passes the network.
    network = {"concurrency_id": "network", "concurrency_limit": 1}
    with _Page(analytics_enabled=False, title="declip-pl", delete_cache=KEPT) as page:
        page.state_session_capacity = OPEN_PAGES
        inputs, results = place(models, offered.about(first), photos)
        events = Events(offered, photos, inputs, results, folder)
        _connect(events, inputs, results, network | _OWN)
        place_api(offered, first, folder, network)
        page.load(js=ON_LOAD)
    page.uploads = Path(folder).resolve()
    page.queue(max_size=WAITING)
    return page


def _connect(events: Events, inputs: Inputs, results: Results, network: dict[str, Any]) -> None:
    options = [inputs.model, inputs.tiles]
    still = (results.wipe, results.zoom, results.make, results.files)
    changed = [part for part in vars(results).values() if part not in still] + results.files
    looks: dict[str, Any] = network | {"show_progress_on": results.status}
    uploaded = inputs.file.upload(
        events.upload, [inputs.file, *options], [inputs.file, *changed], **looks
    )
    selected = inputs.samples.select(events.sample, options, changed, **looks)
    again = gradio.on(
        [inputs.model.change, inputs.tiles.change],
        events.again,
        [results.shown, *options],
        changed,
        **looks,
    )
    inputs.model.change(events.about, inputs.model, inputs.about, **_OWN)
    idle = [inputs.file, results.status, results.progress, results.cancel]
    for looking in (uploaded, selected, again):
        looking.success(js=INTO_VIEW)
    results.cancel.click(
        events.cancelled, inputs.file, idle, cancels=[uploaded, selected, again], **_OWN
    )
    results.looks.select(events.choose, results.shown, changed, show_progress="hidden", **_OWN)
    results.threshold.input(
        events.cut,
        [results.shown, results.threshold],
        [results.shown, results.score, results.stage, results.table, *results.files],
        show_progress="hidden",
        trigger_mode="always_last",  # of a movement; what lies between need not be drawn
        **_OWN,
    )
    results.make.click(events.make, results.shown, [results.problem, *results.files], **_OWN)
    results.wipe.change(js=WIPE, inputs=results.wipe)
    results.zoom.change(js=ZOOM, inputs=results.zoom)


def _are_below(folder: Path, value: Any) -> bool:
    """Whether all files that are named in what was sent lie below a folder."""
    if isinstance(value, list):
        return all(_are_below(folder, entry) for entry in value)
    if not isinstance(value, dict):
        return True
    path = value.get("path", folder)
    return (
        isinstance(path, (str, Path))
        and "://" not in str(path)
        and Path(path).resolve().is_relative_to(folder)
        and all(_are_below(folder, entry) for entry in value.values())
    )
