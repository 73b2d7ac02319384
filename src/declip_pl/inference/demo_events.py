"""What happens when something is dropped, chosen or moved on the page of ``declip-pl demo``."""

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from html import escape
from pathlib import Path
from typing import Any

import gradio

from declip_pl.cross_eval.progress import duration
from declip_pl.data.file_kinds import read_picture
from declip_pl.data.images import MAX_PIXELS, size_of
from declip_pl.data.layout import Sample
from declip_pl.data.masks import read_mask
from declip_pl.errors import UserError
from declip_pl.files import sha256
from declip_pl.inference.demo_choices import Choice
from declip_pl.inference.demo_files import write_files
from declip_pl.inference.demo_html import (
    errors_html,
    heat_html,
    progress_html,
    regions_html,
    score_html,
    stage_html,
)
from declip_pl.inference.demo_look import Look, Photo
from declip_pl.inference.demo_parts import THUMBNAIL_SIDE, Inputs, Results
from declip_pl.inference.demo_text import (
    CANCELLED,
    FAILED,
    MAX_PHOTOS,
    NOT_FINISHED,
    TOO_MUCH,
    error_text,
    model_text,
)
from declip_pl.inference.localization import Localization
from declip_pl.inference.localizer import Localizer
from declip_pl.inference.recorded_scores import recorded_scores
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.names import markdown

Values = dict[Any, Any]
"""What changes on the page: components, and what is in them now."""

Reads = Sequence[tuple[str, Callable[[], Photo]]]
"""Photos to look at: their names, and what reads them."""


@dataclass(frozen=True)
class Shown:
    """What was found in photos, and which of them the page shows."""

    looks: tuple[Look, ...]
    index: int = 0

    @property
    def look(self) -> Look:
        """The photo that is shown."""
        return self.looks[self.index]


class Models:
    """The localizers to choose from; one at a time is in memory, as an encoder is large.

    Args:
        choices: By name.
        encoder: Where the user says that the frozen encoder is.
        device: Where they run.
    """

    def __init__(
        self, choices: Mapping[str, Choice], encoder: str | None, device: str | None
    ) -> None:
        self.choices = choices
        load = partial(Localizer.from_pretrained, device=device, encoder=encoder)
        self._load = lru_cache(maxsize=1)(load)

    def load(self, name: str) -> Localizer:
        """Return a localizer.

        Raises:
            UserError: If there is none of that name, or it can't be loaded.
        """
        if name not in self.choices:
            raise UserError(f"there is no model {name!r}; found: {', '.join(self.choices)}")
        return self._load(self.choices[name].path)

    def about(self, name: str) -> str:
        """Return in Markdown what a localizer is, or what is wrong with it."""
        choice = self.choices[name]
        try:
            checkpoint = read_checkpoint(choice.path)
            text = model_text(checkpoint, recorded_scores(checkpoint))
        except UserError as error:
            return markdown(error_text(error))
        return text if choice.finished else f"{NOT_FINISHED}\n\n{text}"


class Events:
    """What the page does; each method returns or yields what changes on it.

    Args:
        models: To choose from.
        samples: Photos to try the page with.
        inputs: What is dropped and chosen.
        results: Where the rest is shown.
        folder: Below which files to download are written.
    """

    def __init__(
        self,
        models: Models,
        samples: Sequence[Sample],
        inputs: Inputs,
        results: Results,
        folder: str,
    ) -> None:
        self.models = models
        self.samples = samples
        self.inputs = inputs
        self.results = results
        self.folder = folder

    def about(self, name: str) -> Values:
        """Say what the chosen model is."""
        return {self.inputs.about: self.models.about(name)}

    def upload(self, files: list[str], name: str, tiles: bool) -> Iterator[Values]:
        """Look at photos that were dropped, and delete them."""
        paths = [Path(file) for file in files]
        try:
            yield {self.inputs.file: None}
            if too_much(paths):
                yield {self.results.problem: errors_html([TOO_MUCH])}
            else:
                reads = [(path.name, partial(read_upload, path)) for path in paths]
                yield from self._look(reads, name, tiles)
        finally:
            delete(paths)

    def sample(self, event: gradio.SelectData, name: str, tiles: bool) -> Iterator[Values]:
        """Look at a test photo that was chosen."""
        sample = self.samples[event.index]
        yield from self._look([(sample.image.name, partial(read_sample, sample))], name, tiles)

    def again(self, shown: Shown | None, name: str, tiles: bool) -> Iterator[Values]:
        """Look at the same photos with another model, or in another way."""
        photos = [look.photo for look in shown.looks] if shown else []
        reads = [(photo.name, partial(_same, photo)) for photo in photos]
        yield from self._look(reads, name, tiles)

    def choose(self, event: gradio.SelectData, shown: Shown) -> Values:
        """Show another one of the photos that were looked at."""
        return self._show(replace(shown, index=event.index))

    def cut(self, shown: Shown | None, threshold: float) -> Values:
        """Cut the photo at another threshold."""
        if shown is None:
            return self._no_files()
        cut = replace(shown.look, found=shown.look.found.at_threshold(threshold))
        looks = (*shown.looks[: shown.index], cut, *shown.looks[shown.index + 1 :])
        return self._cut_parts(replace(shown, looks=looks))

    def make(self, shown: Shown) -> Values:
        """Write the files of the photo."""
        try:
            files = write_files(shown.look, self.folder)
        except UserError as error:
            return {self.results.problem: errors_html([error_text(error)])}
        made = zip(self.results.files, files, strict=True)
        return {button: gradio.update(value=file, visible=True) for button, file in made}

    def cancelled(self, waiting: list[str] | None) -> Values:
        """Say that it was cancelled, and delete photos that were still waiting."""
        delete([Path(file) for file in waiting or []])
        return {self.inputs.file: None} | self._idle(CANCELLED)

    def _look(self, reads: Reads, name: str, tiles: bool) -> Iterator[Values]:
        """Look at photos, and say so if something goes wrong that is no photo's fault."""
        try:
            yield from self._look_one_by_one(reads, name, tiles)
        except Exception:
            yield self._idle(FAILED)
            raise

    def _look_one_by_one(self, reads: Reads, name: str, tiles: bool) -> Iterator[Values]:
        """Look at photos one by one and show each as soon as it is there."""
        results = self.results
        if not reads:
            yield self._idle("")
            return
        yield self._begin()
        try:
            localizer = self.models.load(name)
        except UserError as error:
            yield self._idle("") | {results.problem: errors_html([error_text(error)])}
            return
        about, digest = localizer.about, localizer.sha256
        looks: list[Look] = []
        errors: list[str] = []
        for number, (photo_name, read) in enumerate(reads, 1):
            of = f" (photo {number} of {len(reads)})" if len(reads) > 1 else ""
            yield {results.status: f"Looking at {escape(photo_name)}{of} ..."}
            try:
                photo = read()
                found = yield from self._steps(localizer, photo, tiles)
            except UserError as error:
                errors.append(error_text(error))
                yield {results.problem: errors_html(errors)}
                continue
            looks.append(Look(photo, found, about, digest, tiles))
            shown = Shown(tuple(looks))
            yield self._show(shown) if len(looks) == 1 else self._listed(shown)
        yield self._idle(_done(looks, errors))

    def _steps(
        self, localizer: Localizer, photo: Photo, tiles: bool
    ) -> Generator[Values, None, Localization]:
        """Look at a photo and say meanwhile how far that is."""
        start = time.monotonic()
        steps = localizer.steps(photo.picture, tiles=tiles)
        while True:
            try:
                done, total = next(steps)
            except StopIteration as end:
                found: Localization = end.value
                return found
            left = (time.monotonic() - start) / done * (total - done)
            yield {
                self.results.progress: progress_html(done, total, f", about {duration(left)} left")
            }

    def _begin(self) -> Values:
        """Return what a page shows that begins to look: nothing of the photos before."""
        results = self.results
        empty = (results.progress, results.problem, results.score)
        return {
            **dict.fromkeys(empty, ""),
            results.shown: None,
            results.status: "Loading the model ...",
            results.cancel: gradio.update(visible=True),
            results.looks: _hidden(),
            results.column: _hidden(),
            **self._no_files(),
        }

    def _idle(self, status: str) -> Values:
        """Return what a page shows that does nothing any more."""
        results = self.results
        return {results.status: status, results.progress: "", results.cancel: _hidden()}

    def _no_files(self) -> Values:
        """Return what takes files away that are of another photo or threshold."""
        return {button: gradio.update(value=None, visible=False) for button in self.results.files}

    def _show(self, shown: Shown) -> Values:
        """Return all that is shown of a photo."""
        results, look = self.results, shown.look
        return {
            **self._cut_parts(shown),
            **self._listed(shown),
            results.column: gradio.update(visible=True),
            results.heat: heat_html(look),
            results.threshold: round(look.found.threshold, 2),
        }

    def _cut_parts(self, shown: Shown) -> Values:
        """Return what a threshold changes."""
        results, look = self.results, shown.look
        return {
            results.shown: shown,
            results.score: score_html(look.photo.name, look.found),
            results.stage: stage_html(look),
            results.table: regions_html(look.found.regions, look.found.mask.size),
            **self._no_files(),
        }

    def _listed(self, shown: Shown) -> Values:
        """Return the list of photos, where there are several."""
        several = len(shown.looks) > 1
        pictures = [
            (look.drawn(THUMBNAIL_SIDE), f"{look.found.score:.2f} {look.photo.name}")
            for look in shown.looks * several
        ]
        looks = gradio.update(value=pictures, selected_index=shown.index, visible=several)
        return {self.results.shown: shown, self.results.looks: looks}


def too_much(paths: Sequence[Path]) -> bool:
    """Whether photos are more than the page holds at once; they are not decoded for it."""
    pixels = 0
    for path in paths:
        try:
            width, height = size_of(path)
        except UserError:  # said where it is read
            continue
        pixels += width * height
    # One photo that is too large has an error of its own.
    return len(paths) > MAX_PHOTOS or (len(paths) > 1 and pixels > MAX_PIXELS)


def read_upload(path: Path) -> Photo:
    """Read a photo that was uploaded, and delete it.

    Raises:
        UserError: If it can't be read; it is named without its folder.
    """
    try:
        return Photo(path.name, sha256(path), read_picture(path))
    except UserError as error:
        raise UserError(error_text(error, path)) from error
    finally:
        path.unlink(missing_ok=True)


def read_sample(sample: Sample) -> Photo:
    """Read a test photo and its true mask.

    Raises:
        UserError: If one of them can't be read; it is named without its folder.
    """
    try:
        truth = None
        if sample.mask and sample.mask_rule:
            truth = read_mask(sample.mask, sample.mask_rule)
        picture = read_picture(sample.image)
        return Photo(sample.image.name, sha256(sample.image), picture, truth)
    except UserError as error:
        raise UserError(error_text(error, sample.image)) from error


def delete(paths: Sequence[Path]) -> None:
    """Delete files that were uploaded, with their folders: Gradio makes one for each content."""
    for path in paths:
        shutil.rmtree(path.parent, ignore_errors=True)  # the same photo may have come twice


def _same(photo: Photo) -> Photo:
    return photo


def _done(looks: Sequence[Look], errors: Sequence[str]) -> str:
    """Return in a sentence what was found, for those who hear it."""
    if not looks:
        return ""
    if len(looks) + len(errors) == 1:
        return f"Done: score {looks[0].found.score:.2f}."
    failed = f", {len(errors)} could not be analysed" if errors else ""
    return f"Done: {len(looks)} photos were looked at{failed}."


def _hidden() -> dict[str, Any]:
    return dict(gradio.update(visible=False))
