"""A trained localizer in one Python line: a photo in, a heat map, a mask, a score, regions out."""

import hashlib
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from declip_pl.data.file_kinds import Picture, read_picture
from declip_pl.data.images import Photo
from declip_pl.data.transforms import build_transform
from declip_pl.errors import UserError
from declip_pl.inference import saved_folder
from declip_pl.inference.about import About, about
from declip_pl.inference.evidence import weigh
from declip_pl.inference.localization import (
    Decision,
    Heatmap,
    Localization,
    Pixels,
    Region,
    localization,
)
from declip_pl.inference.recorded_scores import recorded_scores
from declip_pl.inference.tiles import Blend, windows
from declip_pl.metrics import THRESHOLD, photo_thresholds, resize_to
from declip_pl.model.checkpoint import Checkpoint, load_network, read_checkpoint
from declip_pl.model.devices import find_device
from declip_pl.model.network import DeCLIP, image_score
from declip_pl.model.weights import upload
from declip_pl.parts import Spec, read_spec

TOGETHER = 8
"""Photos or tiles that pass the network at once."""

__all__ = ["TOGETHER", "Localization", "Localizer", "Region"]

_PATIENCE = 2  # seconds before a progress bar appears


class _Found(NamedTuple):
    """What the network says of a photo.

    Attributes:
        heatmap: At the photo's own size.
        score: In [0, 1].
        distance: Of its features from those of the training's photos; None where that is not to be
            had.
    """

    heatmap: Heatmap
    score: float
    distance: float | None = None


Steps = Generator[tuple[int, int], None, Localization]
"""Yields how many tiles of how many were looked at, and returns what was found."""

_T = TypeVar("_T")


class Localizer:
    """A frozen encoder and a trained decoder, for photos as they come.

    Args:
        name: What it is called: its run, its folder or its hub id.
        checkpoint: What was read of it.
        network: The two, on their device.
    """

    def __init__(self, name: str, checkpoint: Checkpoint, network: DeCLIP) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self.network = network.eval()
        self.device = next(network.decoder.parameters()).device
        self._transform = build_transform(network.encoder.preprocessing)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, device: str | None = None, encoder: Spec | None = None
    ) -> "Localizer":
        """Load a trained localizer.

        Args:
            model: A run's folder, a checkpoint (``.ckpt``), a saved folder, an id on the Hugging
                Face hub, or ``starter``, the one that comes with declip-pl.
            device: Where it runs; a GPU where there is one.
            encoder: Its frozen encoder's folder or hub id, in place of the one on record; the
                weights have to be the same. What is saved or pushed then names this hub id.

        Raises:
            UserError: If it can't be found, is damaged, or its encoder is not to be had here.
        """
        checkpoint = read_checkpoint(model)
        network = load_network(checkpoint, encoder)
        if encoder and not _is_local(encoder):  # a folder of this machine helps nobody else
            identity = replace(checkpoint.identity, source=network.encoder.source)
            checkpoint = replace(checkpoint, encoder=encoder, identity=identity)
        return cls(checkpoint.name, checkpoint, network.to(find_device(device)))

    def __repr__(self) -> str:
        """Say what it is: its name, what it was trained on, where it runs, its notice."""
        said = self.about
        notice = f"; {said.notice}" if said.notice else ""
        return f"<Localizer {said.model}, trained on {said.trained_on}, on {self.device}{notice}>"

    @property
    def about(self) -> About:
        """What it was trained on and tested on, and what has to be known of it, in words."""
        return about(self.checkpoint)._replace(model=self.name)

    @property
    def sha256(self) -> str:
        """A SHA-256 of the weights of encoder and decoder."""
        state = self.network.decoder.state_dict()
        weights = save({name: tensor.cpu().contiguous() for name, tensor in state.items()})
        return hashlib.sha256(self.checkpoint.identity.sha256.encode() + weights).hexdigest()

    @property
    def floor(self) -> float | None:
        """Peak in [0, 1] below which a photo stays unmarked; None where the checkpoint has none.

        It was chosen on the validation photos of the training.
        """
        return self.checkpoint.thresholds.floor if self.checkpoint.thresholds else None

    @property
    def image_threshold(self) -> float | None:
        """Score in [0, 1] above which a photo counts as manipulated; None where there is none.

        It was chosen on the validation photos of the training, which were looked at as a whole.
        """
        chosen = self.checkpoint.thresholds
        return chosen.image.get(self.checkpoint.pooling) if chosen else None

    @overload
    def __call__(
        self, photos: Photo | Picture, *, tiles: bool = False, threshold: float | None = None
    ) -> Localization: ...

    @overload
    def __call__(
        self, photos: list[Any], *, tiles: bool = False, threshold: float | None = None
    ) -> list[Localization]: ...

    def __call__(
        self,
        photos: Photo | Picture | list[Any],
        *,
        tiles: bool = False,
        threshold: float | None = None,
    ) -> Localization | list[Localization]:
        """Localize.

        Args:
            photos: A photo, or a list of photos of any sizes; see
                :func:`declip_pl.data.images.read_photo` for what a photo may be.
            tiles: Look at overlapping tiles at the photo's own resolution, in place of the whole
                photo resized to the network's input (the paper's way). It finds what is small in a
                large photo, and takes a pass of the network for every 192 x 192 px. The score is
                the highest tile's: pooled over a large map, what is small would not count. The more
                tiles, the higher it is for untouched photos as well.
            threshold: Probability above which a pixel belongs to the mask. None takes each photo's
                own, the one with the highest expected IoU, and leaves photos unmarked whose heat
                map's peak is below the checkpoint's :attr:`floor`; where it has no floor, 0.5.

        Returns:
            What was found in the photo; a list for a list.

        Raises:
            UserError: If one of the photos can't be used; it is named. If the threshold is no
                probability.
        """
        _check(threshold)
        if not isinstance(photos, list):
            return self._localize([photos], tiles, threshold)[0]
        step = 1 if tiles else TOGETHER
        batches = (photos[start : start + step] for start in range(0, len(photos), step))
        return [found for batch in batches for found in self._localize(batch, tiles, threshold)]

    @torch.inference_mode()
    def steps(
        self, photo: Photo | Picture, *, tiles: bool = False, threshold: float | None = None
    ) -> Steps:
        """Localize in one photo, step by step: for those who show how far it is, or may stop.

        Args:
            photo: As in a call of the localizer, like the other arguments.
            tiles: See there.
            threshold: See there.

        Yields:
            After each batch of tiles, how many were looked at, and how many there are; nothing
            where the photo is looked at as a whole.

        Returns:
            What was found, the same as by a call.

        Raises:
            UserError: As a call does.
        """
        _check(threshold)
        picture = read_picture(photo)
        if tiles:
            found = yield from self._tiled(picture.pixels)
        else:
            found = next(self._whole([picture.pixels]))
        return self._found(picture, found, tiles, threshold)

    @torch.inference_mode()
    def _localize(
        self, sources: list[Any], tiles: bool, threshold: float | None
    ) -> list[Localization]:
        pictures = [read_picture(source) for source in sources]
        photos = [picture.pixels for picture in pictures]
        found = map(self._tiled_with_bar, photos) if tiles else self._whole(photos)
        return [
            self._found(picture, one, tiles, threshold)
            for picture, one in zip(pictures, found, strict=True)
        ]

    def _found(
        self, picture: Picture, found: _Found, tiles: bool, threshold: float | None
    ) -> Localization:
        """Cut a photo's heat map, and hold its score against what is on record."""
        heatmap, score, distance = found
        decided = self._decide(heatmap, threshold)
        tiled = tiles and _cut(picture.pixels)
        evidence = weigh(self.checkpoint, score, picture, tiled, distance)
        return localization(picture.pixels, heatmap, score, *decided, evidence)

    def _decide(self, heatmap: Heatmap, threshold: float | None) -> tuple[float, Decision]:
        """Return the threshold of a heat map and how it came about."""
        if threshold is None and self.floor is not None:
            own = photo_thresholds(torch.from_numpy(heatmap)[None], self.floor)
            return own.item(), "expected-iou"
        return THRESHOLD if threshold is None else threshold, "fixed"

    def _whole(self, photos: list[Pixels]) -> Iterator[_Found]:
        for photo, one, score, distance in zip(photos, *self._look(photos), strict=True):
            heatmap = resize_to(one[None], torch.Size(photo.shape[:2]))[0, 0].cpu().numpy()
            yield _Found(heatmap, score, distance)

    def _tiled(self, photo: Pixels) -> Generator[tuple[int, int], None, _Found]:
        height, width = photo.shape[:2]
        if not _cut(photo):
            return next(self._whole([photo]))
        cuts = windows(height, width)
        blend, best = Blend(height, width), 0.0
        for start in range(0, len(cuts), TOGETHER):
            batch = cuts[start : start + TOGETHER]
            tiles = [photo[window] for window in batch]
            for window, found in zip(batch, self._whole(tiles), strict=True):
                blend.add(window, found.heatmap)
                best = max(best, found.score)
            yield start + len(batch), len(cuts)
        return _Found(blend.heatmap(), best)

    def _tiled_with_bar(self, photo: Pixels) -> _Found:
        with tqdm(desc="tiles", delay=_PATIENCE, leave=False, disable=None) as bar:
            return _result(self._tiled(photo), bar)

    def _look(self, photos: list[Pixels]) -> tuple[Tensor, list[float], Sequence[float | None]]:
        """Return ``[B, 1, 256, 256]`` probabilities, and of each photo its score and distance."""
        pixels = torch.stack([self._transform(image=photo)["image"] for photo in photos])
        features = self.network.encode(pixels.to(self.device))
        logits = self.network(features).float()
        if logits.isnan().any():
            raise UserError(
                f"{self.name} answers with NaN, which is no probability: its weights, or those of "
                "its encoder, are not what was trained"
            )
        measure = self.checkpoint.likeness
        distances = measure.distances(features) if measure else [None] * len(photos)
        return logits.sigmoid(), image_score(logits, self.checkpoint.pooling).tolist(), distances

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the decoder's weights, ``config.json`` and a model card into a folder.

        The card has the scores of the run's test and its row of the latest cross-evaluation.

        Raises:
            UserError: If a model stands there already, or its scores are damaged.
        """
        scores = recorded_scores(self.checkpoint)
        saved_folder.save(self.checkpoint, Path(folder).expanduser(), scores)

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Publish what :meth:`save_pretrained` writes on the Hugging Face hub.

        Args:
            repository: ``ORGANISATION/NAME``; it is made if need be, and what it holds stays in
                its history.
            private: Whether a new repository is seen by its owner alone.

        Returns:
            The address of the repository.

        Raises:
            UserError: If nobody is logged in, the hub refuses, or the encoder is a local folder,
                so that nobody else could load the localizer.
        """
        encoder = self.checkpoint.encoder
        if _is_local(encoder):
            raise UserError(
                f"others can't load a localizer whose encoder is {encoder}, on this machine: load "
                "it with from_pretrained(..., encoder=HUB_ID), the hub id of the same weights, and "
                "push that"
            )
        with tempfile.TemporaryDirectory() as folder:
            scores = recorded_scores(self.checkpoint)
            saved_folder.save(self.checkpoint, Path(folder), scores, repository)
            return upload(Path(folder), repository, private)


def _check(threshold: float | None) -> None:
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"the threshold {threshold} is not between 0 and 1")


def _result(steps: Generator[tuple[int, int], None, _T], bar: Any) -> _T:
    """Run through steps, draw a bar of them, and return what they return."""
    while True:
        try:
            done, bar.total = next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
        bar.update(done - bar.n)


def _cut(photo: Pixels) -> bool:
    """Whether a photo is larger than a tile."""
    return len(windows(*photo.shape[:2])) > 1


def _is_local(encoder: Spec) -> bool:
    """Whether an encoder's weights are a folder or file of this machine."""
    name, init_args = read_spec(encoder)
    if isinstance(encoder, dict):
        name = str(init_args.get("name", ""))
    vit, _, resnet = name.partition("+RN50")
    found = (Path(path).expanduser().exists() for path in (name, vit) if path)
    return any(found) or ":" in (resnet or vit)
