"""The LightningModule: what is optimised, what is measured, what a checkpoint holds."""

import pickle
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pl.data.dataset import Batch
from declip_pl.data.layout import REAL
from declip_pl.errors import UserError
from declip_pl.metrics.accumulate import DetectionMetrics, LocalizationMetrics
from declip_pl.model.decoder import build_decoder
from declip_pl.model.encoder import Encoder, Features, identity
from declip_pl.model.network import DeCLIP, Pooling, image_logit, image_score

Supervision = Literal["full", "weak"]

REAL_TEST = f"test/{REAL}"
BUILT_FROM = ("decoder", "image_size")
"""Options beside the encoder that a checkpoint's decoder fits exactly."""
ENCODER_PREFIX, DECODER_PREFIX = "network.encoder.", "network.decoder."


class LocalizationTask(L.LightningModule):
    """Train and evaluate a localizer with the paper's objective and optimiser.

    Binary cross-entropy on every pixel (``full``) or on the mean logit of every image
    (``weak``); AdamW without weight decay. The learning rate's schedule and the stopping rule are
    a :class:`declip_pl.training.callbacks.Schedule`.

    Args:
        encoder: Frozen encoder: a hub id, a local folder, ``RN50``, ``RN50:FILE``, or a ViT and
            an RN50 joined by ``+``.
        layer: The paper's name of the feature layer, counted from 0 for ViTs.
        decoder: ``linear``, ``light``, ``attention``, ``conv-4``, ``conv-12`` or ``conv-20``.
        image_size: Side of the input in pixels.
        supervision: ``full`` (masks) or ``weak`` (image labels).
        learning_rate: Initial learning rate.
        pooling: How an image's score is pooled from its map.
        seed: Decides how the decoder starts.

    Raises:
        UserError: If the encoder's weights, its layer or the decoder can't be found.
    """

    def __init__(
        self,
        encoder: str = "openai/clip-vit-large-patch14",
        layer: str = "layer20",
        decoder: str = "conv-20",
        image_size: int = 224,
        supervision: Supervision = "full",
        learning_rate: float = 1e-3,
        pooling: Pooling = "top",
        seed: int = 0,
    ) -> None:
        super().__init__()
        # Not to the logger, whose `encoder` is the short name (lightning_cli.py).
        self.save_hyperparameters(logger=False)
        # The decoder's start depends on the seed alone, not on what was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = DeCLIP.build(encoder, layer, decoder, image_size)
        self.encoder_identity = identity(self.network.encoder)
        """Name, layer and source of the frozen encoder, and a hash of its weights."""
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
        """Return the binary cross-entropy of ``[B, 1, 256, 256]`` logits.

        Raises:
            UserError: If it is not finite; the photos of the batch are named.
        """
        if self.supervision == "weak":
            loss = F.binary_cross_entropy_with_logits(image_logit(logits), batch["label"])
        else:
            target = torch.stack(batch["mask"]).unsqueeze(1).to(logits.dtype)
            loss = F.binary_cross_entropy_with_logits(logits, target)
        if not loss.isfinite():
            raise UserError(f"the loss is {loss.item()} on the batch {', '.join(batch['path'])}")
        return loss

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
        """Keep the frozen encoder out of checkpoints and leave its identity there instead."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not _is_encoder(k)}
        checkpoint["encoder"] = self.encoder_identity
        checkpoint |= {option: self.hparams[option] for option in BUILT_FROM}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the encoder back, so that loading stays strict.

        Raises:
            UserError: If the checkpoint was trained on another encoder or layer, or has another
                decoder or input size.
        """
        theirs, ours = checkpoint.get("encoder"), self.encoder_identity
        if not isinstance(theirs, dict):
            raise UserError("no checkpoint of declip-pl: it does not name its encoder")
        _check_encoder(theirs, ours)
        # Not from its hyperparameters: load_from_checkpoint has put the caller's in their place.
        for option in BUILT_FROM:
            there, here = checkpoint[option], self.hparams[option]
            if there != here:
                raise UserError(f"the checkpoint's {option} is {there}, not {here}")
        frozen = {k: v for k, v in self.state_dict().items() if _is_encoder(k)}
        checkpoint["state_dict"] = checkpoint["state_dict"] | frozen

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
            rivals = [i for i, n in enumerate(self.set_names) if n.startswith(f"{split}/")]
        else:
            rivals = [index]
            self.localization[index].update(probabilities, batch["mask"])
        scores = image_score(logits, self.pooling)
        for i in rivals:
            self.detection[i].update(scores, batch["label"])
        return probabilities

    def _scores(self, index: int) -> dict[str, float]:
        """Return the localization means and, as ``image_*``, the detection scores of a set."""
        detection = self.detection[index].compute()
        scores = self.localization[index].compute()
        scores |= {f"image_{key}": value for key, value in detection.items()}
        return {key: float(value) for key, value in scores.items()}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint of this package holds, without running anything in it.

    Raises:
        UserError: If the file is missing, damaged, or something else; it is named.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(
            f"{path}: no checkpoint, or a damaged one ({_first_line(error)})"
        ) from error
    if not isinstance(found, dict) or "encoder" not in found:
        raise UserError(f"{path}: no checkpoint of declip-pl: it does not name its encoder")
    return found


def load_decoder(checkpoint: dict[str, Any], encoder: Encoder) -> nn.Module:
    """Return a checkpoint's trained decoder in eval mode, for an encoder that is there already.

    Raises:
        UserError: If it was trained on another encoder or layer, or a weight is missing, left over
            or of another shape.
    """
    _check_encoder(checkpoint["encoder"], identity(encoder))
    decoder = build_decoder(checkpoint["decoder"], encoder)
    state = checkpoint["state_dict"]
    try:
        decoder.load_state_dict({k.removeprefix(DECODER_PREFIX): v for k, v in state.items()})
    except RuntimeError as error:
        reasons = " ".join(str(error).split())
        raise UserError(f"the decoder's weights do not fit: {reasons}") from error
    return decoder.requires_grad_(False).eval()


def _check_encoder(theirs: dict[str, str], ours: dict[str, str]) -> None:
    if theirs["sha256"] != ours["sha256"]:
        raise UserError(
            f"the checkpoint's decoder belongs to another encoder: it was trained on "
            f"{_describe(theirs)}, here is {_describe(ours)}"
        )


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _is_encoder(key: str) -> bool:
    return key.startswith(ENCODER_PREFIX)


def _describe(encoder: dict[str, str]) -> str:
    return f"{encoder['name']} {encoder['layer']} ({encoder['source']}, {encoder['sha256'][:12]})"
