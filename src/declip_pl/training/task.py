"""The LightningModule: what is optimised, what is measured, what a checkpoint holds."""

from dataclasses import replace
from typing import Annotated, Any

import lightning as L
import torch
from annotated_types import Interval
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from declip_pl.data.datamodule import Seed
from declip_pl.data.dataset import Batch
from declip_pl.data.layout import REAL
from declip_pl.errors import UserError
from declip_pl.metrics.accumulate import DetectionMetrics, LocalizationMetrics
from declip_pl.model.checkpoint import ENCODER_PREFIX, KEY, Checkpoint, describe_lightning
from declip_pl.model.description import Description, Supervision, TrainedOn
from declip_pl.model.features import Features
from declip_pl.model.find_encoder import find_encoder
from declip_pl.model.network import DeCLIP, Pooling, image_logit, image_score
from declip_pl.parts import Spec
from declip_pl.training.checkpoint_io import write_whole_checkpoints
from declip_pl.training.encoding import EncodePhotos
from declip_pl.training.loss import build_loss

REAL_TEST = f"test/{REAL}"


class LocalizationTask(L.LightningModule):
    """Train and evaluate a localizer with the paper's objective and optimiser.

    Binary cross-entropy on every pixel (``full``) or on the mean logit of every image
    (``weak``); AdamW without weight decay. The learning rate's schedule and the stopping rule are
    a :class:`declip_pl.training.schedules.Schedule`.

    Args:
        encoder: Frozen encoder: a hub id, a local folder, ``RN50``, ``RN50:FILE``, a ViT and an
            RN50 joined by ``+``, ``pixels``, or a class.
        layer: The paper's name of the feature layer, counted from 0 for ViTs.
        decoder: ``linear``, ``light``, ``attention``, ``conv-4``, ``conv-12``, ``conv-20``, or a
            class.
        image_size: Side of the input in pixels, by default the encoder's own.
        supervision: ``full`` (masks) or ``weak`` (image labels).
        learning_rate: Initial learning rate.
        loss: ``bce``, ``dice``, ``focal``, ``balanced``, several joined by ``+``, or a class.
        pooling: How an image's score is pooled from its map.
        seed: Decides how the decoder starts.

    Raises:
        UserError: If the encoder's weights, its layer or the decoder can't be found.
    """

    def __init__(
        self,
        encoder: Spec = "openai/clip-vit-large-patch14",
        layer: str = "layer20",
        decoder: Spec = "conv-20",
        image_size: Annotated[int, Interval(ge=1, le=4096)] | None = None,
        supervision: Supervision = "full",
        learning_rate: Annotated[float, Interval(gt=0, le=100)] = 1e-3,
        loss: Spec = "bce",
        pooling: Pooling = "top",
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        # Not to the logger, whose `encoder` is the short name (lightning_cli.py).
        self.save_hyperparameters(logger=False)
        # The decoder's start depends on the seed alone, not on what was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = DeCLIP.build(encoder, layer, decoder, image_size)
            self.criterion = build_loss(loss)
        identity = self.network.encoder.identity
        size = self.network.encoder.preprocessing.image_size
        self.description = Description(
            encoder, layer, decoder, size, identity, pooling, supervision, seed, learning_rate, loss
        )
        """What checkpoints say of this localizer."""
        self.supervision = supervision
        self.learning_rate = learning_rate
        self.pooling = pooling
        self.localization: list[LocalizationMetrics] = []
        self.detection: list[DetectionMetrics] = []
        self.results: dict[str, dict[str, float]] = {}
        """Scores of the last test, by generator."""
        self.set_names: list[str] = []
        """Names of the sets that are being evaluated, in the order of their loaders."""

    def forward(self, image: Tensor | Features) -> Tensor:
        """Localize: ``[B, 3, S, S]`` pixels or their features to ``[B, 1, 256, 256]`` logits."""
        logits: Tensor = self.network(image)
        return logits

    def configure_callbacks(self) -> list[Callback]:
        """Have every photo encoded once, whatever trainer this is used with."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        there = any(isinstance(callback, EncodePhotos) for callback in callbacks)
        return [] if there else [EncodePhotos()]

    def setup(self, stage: str) -> None:
        """Have every checkpoint written whole, whatever trainer this is used with."""
        write_whole_checkpoints(self.trainer)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the paper's optimiser over the decoder."""
        rate = self.learning_rate
        parameters = {"params": self.network.decoder.parameters(), "initial_lr": rate}
        # Lightning can't clip gradients of a fused optimiser in mixed precision.
        fused = not (self._trainer and self.trainer.gradient_clip_val)
        return torch.optim.AdamW([parameters], lr=rate, weight_decay=0.0, fused=fused)

    def training_step(self, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        loss = self.loss(self(batch["image"]), batch)
        size = len(batch["path"])
        self.log("train/loss", loss, prog_bar=True, on_epoch=True, sync_dist=True, batch_size=size)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("learning_rate", rate, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of ``[B, 1, 256, 256]`` logits against masks or labels.

        Raises:
            UserError: If it is not finite; the photos of the batch are named.
        """
        if self.supervision == "weak":
            loss = self.criterion(*_as_maps(image_logit(logits), batch["label"]))
        else:
            target = torch.stack(batch["mask"]).unsqueeze(1).to(logits.dtype)
            loss = self.criterion(logits, target)
        if not loss.isfinite():
            raise UserError(f"the loss is {loss.item()} on the batch {', '.join(batch['path'])}")
        return loss  # type: ignore[no-any-return]

    def on_validation_start(self) -> None:
        """Prepare one metric object for each validation set."""
        self._prepare(self.trainer.val_dataloaders)

    def on_test_start(self) -> None:
        """Prepare one metric object for each test set."""
        self._prepare(self.trainer.test_dataloaders)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Score a batch and return its ``[B, 1, 256, 256]`` probabilities."""
        return self._score(batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Score a batch and return its ``[B, 1, 256, 256]`` probabilities."""
        return self._score(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation photos.

        ``val/score`` is the one that decides on schedule, stopping and the best checkpoint: the
        IoU, or the image-level AP under weak supervision.
        """
        scores = self._scores(0)
        self.log_dict({f"val/{k}": v for k, v in scores.items() if not k.endswith("_n")})
        decisive = "image_ap" if self.supervision == "weak" else "iou"
        self.log("val/score", scores[decisive], prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Collect the scores of every test set in :attr:`results` and log them."""
        self.results = {}
        valid = [i for i, name in enumerate(self.set_names) if name.startswith("valid/")]
        threshold = self._scores(valid[0]).get("image_best_threshold") if valid else None
        for index, name in enumerate(self.set_names):
            if name.startswith("test/") and name != REAL_TEST:
                self.detection[index].threshold = threshold
                scores = self._scores(index)
                # The best threshold of test data is nobody's business; validation chose one.
                scores.pop("image_best_threshold", None)
                scores |= {} if threshold is None else {"image_threshold": threshold}
                self.results[name.removeprefix("test/")] = scores
                self.log_dict({f"{name}/{key}": value for key, value in scores.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the frozen encoder out of checkpoints and describe the localizer instead."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not _is_encoder(k)}
        checkpoint[KEY] = replace(self.description, trained_on=self._data()).as_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the encoder back, so that loading stays strict.

        Raises:
            UserError: If the checkpoint was trained on another encoder or layer, has another
                decoder or input size, or is being resumed on other data.
        """
        theirs = describe_lightning(checkpoint, "the checkpoint")
        self._check(theirs)
        if self._trainer and self.trainer.state.fn == TrainerFn.FITTING:
            _check_data(theirs.trained_on, self._data())
        frozen = {k: v for k, v in self.state_dict().items() if _is_encoder(k)}
        checkpoint["state_dict"] = checkpoint["state_dict"] | frozen

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Take a trained decoder's weights.

        Raises:
            UserError: If they are of another encoder, layer, decoder or input size, or damaged.
        """
        self.take_encoder(checkpoint)
        self._check(checkpoint)
        try:
            self.network.decoder.load_state_dict(dict(checkpoint.weights))
        except RuntimeError as error:
            raise UserError(f"{checkpoint.path}: {' '.join(str(error).split())}") from error

    def take_encoder(self, theirs: Description) -> None:
        """Take the encoder that a checkpoint was trained on, from wherever its weights are found.

        Raises:
            UserError: If it is nowhere.
        """
        ours, size = self.description, self.description.image_size
        if (theirs.layer, theirs.image_size) != (ours.layer, size):
            return  # said by the check of the description
        if theirs.identity.difference(ours.identity) is not None:
            found = find_encoder(ours.encoder, ours.layer, size, theirs.identity)
            self.network.encoder = found.to(self.device)
            self.description = replace(ours, identity=found.identity)

    def _check(self, theirs: Description) -> None:
        theirs.identity.check(self.description.identity)
        for option in ("decoder", "image_size"):
            there, here = getattr(theirs, option), getattr(self.description, option)
            if there != here:
                raise UserError(f"the checkpoint's {option} is {there}, not {here}")

    def _data(self) -> TrainedOn | None:
        """Return what this is trained on; None for loaders of a user's own."""
        data = getattr(self.trainer, "datamodule", None)
        return getattr(data, "trained_on", None)

    def _prepare(self, loaders: list[Any] | None) -> None:
        assert loaders is not None
        self.set_names = [loader.dataset.name for loader in loaders]
        self.localization = [LocalizationMetrics().to(self.device) for _ in loaders]
        self.detection = [DetectionMetrics().to(self.device) for _ in loaders]

    def _score(self, batch: Batch, index: int) -> Tensor:
        logits: Tensor = self(batch["image"]).float()
        probabilities = logits.sigmoid()
        split, name = self.set_names[index].split("/", 1)
        if name == REAL:
            # Real photos stand against the fakes of every generator of their split.
            pools = [i for i, n in enumerate(self.set_names) if n.startswith(f"{split}/")]
        else:
            pools = [index]
            self.localization[index].update(probabilities, batch["mask"])
        scores = image_score(logits, self.pooling)
        for i in pools:
            self.detection[i].update(scores, batch["label"])
        return probabilities

    def _scores(self, index: int) -> dict[str, float]:
        """Return the localization means and, as ``image_*``, the detection scores of a set."""
        detection = self.detection[index].compute()
        scores = self.localization[index].compute()
        scores |= {f"image_{key}": value for key, value in detection.items()}
        return {key: float(value) for key, value in scores.items()}


def _is_encoder(key: str) -> bool:
    return key.startswith(ENCODER_PREFIX)


def _as_maps(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``[B]`` numbers as maps of one pixel, which every loss takes."""
    return logits[:, None, None, None], labels[:, None, None, None].to(logits.dtype)


def _check_data(theirs: TrainedOn | None, ours: TrainedOn | None) -> None:
    """Refuse to resume a run on other data."""
    if theirs is None or ours is None:
        return
    for name in ("generators", "supervision", "files_sha256"):
        there, here = getattr(theirs, name), getattr(ours, name)
        if there != here:
            raise UserError(
                f"this run was trained on other data: its {name} are {_words(there)}, here they "
                f"are {_words(here)}; give the new run a name of its own (RUN=..., --run.name)"
            )


def _words(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
