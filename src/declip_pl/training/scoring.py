"""What is measured of the sets that are evaluated, batch by batch, on every process."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import CatMetric

from declip_pl.data.dataset import Batch
from declip_pl.data.layout import REAL
from declip_pl.metrics import Thresholds
from declip_pl.metrics.accumulate import (
    DetectionMetrics,
    LocalizationMetrics,
    ThresholdChoice,
    UntouchedMetrics,
)
from declip_pl.model.description import MAX_SCORES
from declip_pl.model.network import POOLINGS, Pooling, image_score

NO_THRESHOLDS = Thresholds(None, {})


class Scoring:
    """Scores of several sets, and the thresholds that suit them best.

    Real photos (``valid/real``, ``test/real``) stand against the fakes of every set of their split.

    Args:
        names: Of the sets, such as ``test/ldm``, in the order of their loaders.
        pooling: How an image's score is pooled from its map.
        device: Where sums are kept.
        thresholds: Those of the model; tuned metrics are measured at them.
        choose: Whether to collect what thresholds are chosen by.
    """

    def __init__(
        self,
        names: Sequence[str],
        pooling: Pooling,
        device: torch.device,
        thresholds: Thresholds = NO_THRESHOLDS,
        choose: bool = False,
    ) -> None:
        self.names = list(names)
        self.pooling = pooling
        # Apple's GPUs have no 64 bits.
        device = torch.device("cpu") if device.type == "mps" else device
        pixel, image = thresholds.pixel, thresholds.image.get(pooling)
        floor = thresholds.floor
        self.localization = [LocalizationMetrics(pixel, floor).to(device) for _ in names]
        self.detection = [DetectionMetrics(image).to(device) for _ in names]
        self.untouched = {
            name.removesuffix(f"/{REAL}"): UntouchedMetrics(floor).to(device)
            for name in names
            if name.endswith(f"/{REAL}")
        }
        self.real_scores = {
            # NaN are refused where they are scored.
            split: CatMetric(nan_strategy="disable").to(device)
            for split in self.untouched
        }
        self.choice = ThresholdChoice(POOLINGS).to(device) if choose else None

    def add(self, index: int, logits: Tensor, batch: Batch) -> Tensor:
        """Add a batch of a set; return its ``[B, 1, 256, 256]`` probabilities.

        Args:
            index: Of the set.
            logits: ``[B, 1, 256, 256]``.
            batch: The photos.
        """
        probabilities = logits.sigmoid()
        split, name = self.names[index].split("/", 1)
        pools = [index]
        if name == REAL:
            pools = [i for i, other in enumerate(self.names) if other.startswith(f"{split}/")]
            self.untouched[split].update(probabilities, batch["mask"])
            self.real_scores[split].update(image_score(logits, self.pooling))
        else:
            self.localization[index].update(probabilities, batch["mask"])
        poolings = POOLINGS if self.choice else (self.pooling,)
        pooled: dict[str, Tensor] = {pooling: image_score(logits, pooling) for pooling in poolings}
        for pool in pools:
            self.detection[pool].update(pooled[self.pooling], batch["label"])
        if self.choice:
            self.choice.update(probabilities, batch["mask"], pooled, batch["label"])
        return probabilities

    def scores(self, index: int) -> dict[str, float]:
        """Return the scores of a set: localization means, ``image_*`` and ``untouched_*``.

        The last two are of its split's real photos as well, and left out where there are none.
        """
        detection = self.detection[index].compute()
        scores = self.localization[index].compute()
        scores |= {f"image_{key}": value for key, value in detection.items()}
        untouched = self.untouched.get(self.names[index].split("/")[0])
        scores |= untouched.compute() if untouched else {}
        return {key: float(value) for key, value in scores.items()}

    def untouched_scores(self) -> tuple[float, ...]:
        """Return the scores of the untouched photos, the lowest first: at most MAX_SCORES.

        Of more photos as many are taken, evenly spread over the sorted scores.
        """
        # Of a single score torchmetrics makes a tensor without dimensions.
        parts = (torch.as_tensor(m.compute()).flatten() for m in self.real_scores.values())
        found = sorted(score for part in parts for score in part.tolist())
        places = torch.linspace(0, max(0, len(found) - 1), min(len(found), MAX_SCORES))
        return tuple(round(found[int(place)], 6) for place in places)

    def thresholds(self) -> Thresholds | None:
        """Return the thresholds that suit the photos best; None if they were not to be chosen."""
        return self.choice.choose() if self.choice else None
