"""The LightningModule: what is optimised, what is measured, what a checkpoint holds."""

from dataclasses import replace
from statistics import fmean
from typing import Annotated, Any, Literal, TypedDict

import lightning as L
import torch
from annotated_types import Interval
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import Batch
from declip_pl.data.layout import FORGERIES, REAL
from declip_pl.errors import UserError
from declip_pl.metrics import Thresholds
from declip_pl.model.checkpoint import KEY, LIKENESS, Checkpoint, describe_lightning
from declip_pl.model.description import Description, Seed, Supervision, TestedOn, TrainedOn
from declip_pl.model.features import MAX_SIDE, Features
from declip_pl.model.find_encoder import find_encoder
from declip_pl.model.likeness import Likeness, read_likeness
from declip_pl.model.network import DeCLIP, Pooling, image_logit, image_score
from declip_pl.parts import Spec
from declip_pl.training.checkpoint_io import keep_encoder_out, write_whole_checkpoints
from declip_pl.training.draws import drawing
from declip_pl.training.encoding import EncodePhotos
from declip_pl.training.loss import build_loss
from declip_pl.training.same_data import check_same_data
from declip_pl.training.scoring import NO_THRESHOLDS, Scoring
from declip_pl.training.validation_photos import ValidationPhotos
from declip_pl.training.wandb_runs import summarised

REAL_TEST, FORGED_VALID = f"test/{REAL}", f"valid/{FORGERIES}"

SCORE = "val/score"
"""The figure that decides on schedule, stopping and the best checkpoint: higher is better."""


class Prediction(TypedDict):
    """What ``trainer.predict`` returns for B photos.

    ``name`` and ``path`` are B strings as in :class:`declip_pl.data.dataset.Batch`,
    ``probabilities`` ``[B, 1, 256, 256]`` in [0, 1] that a pixel is fake, ``score`` ``[B]`` in
    [0, 1], each photo's map pooled.
    """

    name: list[str]
    path: list[str]
    probabilities: Tensor
    score: Tensor


class LocalizationTask(L.LightningModule):
    """Train and evaluate a localizer with the paper's objective and optimiser.

    Binary cross-entropy on every pixel (``full``) or on the mean logit of every image
    (``weak``); AdamW without weight decay. The learning rate's schedule and the stopping rule are
    a :class:`declip_pl.training.schedules.Schedule`.

    Args:
        encoder: Frozen encoder: a hub id, a local folder, ``RN50``, ``RN50:FILE``, a ViT and an
            RN50 joined by ``+``, ``pixels``, or a class.
        layer: The paper's name of the feature layer, counted from 0 for ViTs; several joined by
            ``+``.
        decoder: ``linear``, ``light``, ``attention``, ``conv-4``, ``conv-12``, ``conv-20``,
            or a class.
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
        image_size: Annotated[int, Interval(ge=1, le=MAX_SIDE)] | None = None,
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
        self.thresholds: Thresholds | None = None
        """Chosen by the last validation of training, or read from a checkpoint."""
        self.tested_on: TestedOn | None = None
        """What it was tested on last, or validated on in training, or read from a checkpoint."""
        self.likeness: Likeness | None = None
        """Fitted by the first validation of training, or read from a checkpoint."""
        self._photos: ValidationPhotos | None = None
        self.results: dict[str, dict[str, float]] = {}
        """Scores of the last test, by generator."""
        self.scoring: Scoring
        """Of the sets that are being evaluated."""
        keep_encoder_out(self)

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
        if stage == "fit":  # perhaps on other photos than before; a checkpoint is read after this
            self.likeness = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the paper's optimiser over the decoder."""
        rate = self.learning_rate
        parameters = {"params": self.network.decoder.parameters(), "initial_lr": rate}
        # Lightning can't clip gradients of a fused optimiser in mixed precision.
        fused = not (self._trainer and self.trainer.gradient_clip_val)
        return torch.optim.AdamW([parameters], lr=rate, weight_decay=0.0, fused=fused)

    def on_fit_start(self) -> None:
        """Have W&B's summary keep the best score, not the last."""
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.define_metric(SCORE, summary="max")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Forget thresholds and scores: they belong to the weights that are about to change."""
        self.thresholds = self.tested_on = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; what a decoder draws depends on seed and batch alone."""
        place = (self.description.seed, self.current_epoch, batch_idx, self.global_rank)
        with drawing(self.device, *place):
            logits = self(batch["image"])
        loss = self.loss(logits, batch)
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
            of_one_pixel = (-1, 1, 1, 1)  # every loss takes maps
            labels = batch["label"].view(of_one_pixel).to(logits.dtype)
            loss = self.criterion(image_logit(logits).view(of_one_pixel), labels)
        else:
            target = torch.stack(batch["mask"]).unsqueeze(1).to(logits.dtype)
            loss = self.criterion(logits, target)
        if not loss.isfinite():
            raise UserError(f"the loss is {loss.item()} on the batch {', '.join(batch['path'])}")
        return loss  # type: ignore[no-any-return]

    def on_validation_start(self) -> None:
        """Prepare the scoring of the validation sets, and what is chosen and measured by them."""
        # They are chosen in training alone, on photos as they are.
        perturbed = getattr(self._datamodule, "perturbation", "none") != "none"
        choose = self.trainer.state.fn == TrainerFn.FITTING and not perturbed
        self._prepare(self.trainer.val_dataloaders, choose=choose)
        # The encoder is frozen: once is enough.
        once = choose and self.likeness is None and not self.trainer.sanity_checking
        self._photos = ValidationPhotos() if once else None

    def on_test_start(self) -> None:
        """Prepare the scoring of the test sets."""
        self._prepare(self.trainer.test_dataloaders, self.thresholds or NO_THRESHOLDS)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Score a batch and return its ``[B, 1, 256, 256]`` probabilities."""
        features = self.network.encode(batch["image"])
        if self._photos:
            self._photos.add(features, batch)
        logits: Tensor = self(features).float()
        return self.scoring.add(dataloader_idx, logits, batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Score a batch and return its ``[B, 1, 256, 256]`` probabilities."""
        return self.scoring.add(dataloader_idx, self._exact(batch), batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Prediction:
        """Localize a batch of photos; masks and labels are not looked at."""
        logits = self._exact(batch)
        return Prediction(
            name=batch["name"],
            path=batch["path"],
            probabilities=logits.sigmoid(),
            score=image_score(logits, self.pooling),
        )

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation photos, and choose the thresholds.

        :data:`SCORE` is the IoU, or the image-level AP under weak supervision; the mean of both
        where generators' photos and forgeries are trained on.
        """
        self.thresholds = self.scoring.thresholds() or self.thresholds
        if self._photos:
            self.likeness, self._photos = self._photos.likeness(), None
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.tested_on = self._tested("valid")
        decisive = "image_ap" if self.supervision == "weak" else "iou"
        found = {"val/": self.scoring.scores(0)}
        if FORGED_VALID in self.scoring.names[1:]:
            index = self.scoring.names.index(FORGED_VALID)
            made = self.scoring.scores(index).items()
            # The untouched photos are the same for both.
            found[f"val/{FORGERIES}_"] = {k: v for k, v in made if not k.startswith("untouched_")}
        for start, scores in found.items():
            self.log_dict({f"{start}{k}": v for k, v in scores.items() if not k.endswith("_n")})
        self.log(SCORE, fmean(scores[decisive] for scores in found.values()), prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Collect the scores of every test set in :attr:`results` and log them."""
        self.results = {}
        self.tested_on = self._tested("test")
        chosen = self.thresholds or NO_THRESHOLDS
        known = {
            "pixel_threshold": chosen.pixel,
            "image_threshold": chosen.image.get(self.pooling),
            "decision_floor": chosen.floor,
        }
        for index, name in enumerate(self.scoring.names):
            if name.startswith("test/") and name != REAL_TEST:
                scores = self.scoring.scores(index)
                scores |= {key: value for key, value in known.items() if value is not None}
                self.results[name.removeprefix("test/")] = scores
                figures = {f"{name}/{key}": value for key, value in scores.items()}
                self.log_dict(figures, logger=False if summarised(self.logger, figures) else None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the localizer beside its weights."""
        said = replace(self.description, trained_on=self._data())
        said = replace(said, thresholds=self.thresholds, tested_on=self.tested_on)
        checkpoint[KEY] = said.as_dict()
        if self.likeness:
            checkpoint[LIKENESS] = self.likeness.as_tensors()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the thresholds and the likeness, and check that the checkpoint fits.

        Raises:
            UserError: If the checkpoint was trained on another encoder or layer, has another
                decoder or input size, or is being resumed on other data.
        """
        theirs = describe_lightning(checkpoint, "the checkpoint")
        self._check(theirs)
        if self._trainer and self.trainer.state.fn == TrainerFn.FITTING:
            check_same_data(theirs.trained_on, self._data())
        self.thresholds, self.tested_on = theirs.thresholds, theirs.tested_on
        self.likeness = read_likeness(checkpoint.get(LIKENESS), "the checkpoint")

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Take a trained decoder's weights and thresholds.

        Raises:
            UserError: If they are of another encoder, layer, decoder or input size, or damaged.
        """
        self.take_encoder(checkpoint)
        self._check(checkpoint)
        try:
            self.network.decoder.load_state_dict(dict(checkpoint.weights))
        except RuntimeError as error:
            raise UserError(f"{checkpoint.path}: {' '.join(str(error).split())}") from error
        self.thresholds, self.tested_on = checkpoint.thresholds, checkpoint.tested_on
        self.likeness = checkpoint.likeness

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
        return getattr(self._datamodule, "trained_on", None)

    def _tested(self, split: Literal["valid", "test"]) -> TestedOn | None:
        """Return what this was tested on just now; None for loaders of a user's own.

        Scores of photos that were changed before say nothing about others.
        """
        if not isinstance(self._datamodule, LocalizationDataModule):
            return None
        if self._datamodule.perturbation != "none":
            return None
        return self._datamodule.tested_on(split, self.scoring.untouched_scores())

    @property
    def _datamodule(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def _prepare(
        self, loaders: Any, thresholds: Thresholds = NO_THRESHOLDS, choose: bool = False
    ) -> None:
        loaders = loaders if isinstance(loaders, list) else [loaders]
        names = [loader.dataset.name for loader in loaders]
        self.scoring = Scoring(names, self.pooling, self.device, thresholds, choose)

    def _exact(self, batch: Batch) -> Tensor:
        """Return logits in 32 bits, as cross-evaluation and prediction do, whatever the trainer."""
        with torch.autocast(self.device.type, enabled=False):
            logits: Tensor = self(batch["image"]).float()
        return logits
