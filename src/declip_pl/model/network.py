"""The network of the paper's figure: a frozen encoder, then a learned decoder."""

from typing import Literal, get_args

from torch import Tensor, nn

from declip_pl.errors import UserError
from declip_pl.model.decoder import build_decoder
from declip_pl.model.encoder import Encoder, build_encoder
from declip_pl.model.features import OUTPUT_SIZE, Features
from declip_pl.parts import Spec

Pooling = Literal["mean", "mean-logit", "max", "top"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""Ways from a logit map to one score for the image. ``top`` is the default: on validation photos it
told fakes from reals better than the paper's ``mean`` (docs/metrics.md, the score of a photo)."""

TOP = 0.03
"""Share of the pixels that ``top`` averages: the smallest masks of the data sets in use."""

EPSILON = 1e-6
"""Lowest probability whose logit is taken where a map holds no logits."""


class DeCLIP(nn.Module):
    """A localizer: photo -> frozen encoder -> feature map -> decoder -> one logit per pixel.

    Args:
        encoder: Frozen encoder.
        decoder: Decoder made for that encoder's features.
    """

    def __init__(self, encoder: Encoder, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @classmethod
    def build(
        cls, encoder: Spec, layer: str, decoder: Spec, image_size: int | None = None
    ) -> "DeCLIP":
        """Assemble a network from the names of its parts.

        Raises:
            UserError: If a part of that name does not exist or its weights can't be found.
        """
        frozen = build_encoder(encoder, layer, image_size)
        return cls(frozen, build_decoder(decoder, frozen.shape))

    def encode(self, image: Tensor | Features) -> Features:
        """Return what the encoder makes of ``[B, 3, S, S]`` pixels, in fp32 if it did so before."""
        if isinstance(image, Features):
            return image.float()
        features: Features = self.encoder(image)
        return features

    def forward(self, image: Tensor | Features) -> Tensor:
        """Localize.

        Args:
            image: ``[B, 3, S, S]`` pixels, normalised as the encoder's preprocessing says, or what
                the encoder made of them before.

        Returns:
            ``[B, 1, 256, 256]`` logits; positive means fake.

        Raises:
            UserError: If the decoder (of a user's own) returns anything else.
        """
        logits: Tensor = self.decoder(self.encode(image))
        if tuple(logits.shape[1:]) != (1, OUTPUT_SIZE, OUTPUT_SIZE):
            raise UserError(
                f"a decoder returns [B, 1, {OUTPUT_SIZE}, {OUTPUT_SIZE}] logits; "
                f"{type(self.decoder).__name__} returned {list(logits.shape)}"
            )
        return logits


def image_logit(logits: Tensor) -> Tensor:
    """Pool ``[B, 1, H, W]`` logits into ``[B]`` image logits: their mean (weak supervision)."""
    return logits.mean(dim=(1, 2, 3))


def image_score(logits: Tensor, pooling: Pooling) -> Tensor:
    """Pool ``[B, 1, H, W]`` logits into ``[B]`` image scores in [0, 1].

    Args:
        logits: Logit maps.
        pooling: One of :data:`POOLINGS`: the ``mean`` probability (the paper's evaluation: the
            share of the photo that the localizer believes to be fake), the probability of the
            mean logit (what weak supervision trains), the highest probability, or the mean of the
            :data:`TOP` highest.
    """
    if pooling == "mean-logit":
        return image_logit(logits).sigmoid()
    return map_score(logits.sigmoid(), pooling)


def map_score(probabilities: Tensor, pooling: Pooling) -> Tensor:
    """Pool ``[B, 1, H, W]`` probabilities into ``[B]`` image scores in [0, 1].

    Args:
        probabilities: Heat maps in [0, 1].
        pooling: As of :func:`image_score`; for ``mean-logit`` probabilities of 0 and 1, which have
            no logit, count as :data:`EPSILON` and 1 - EPSILON.
    """
    if pooling == "mean-logit":
        return image_logit(probabilities.logit(EPSILON)).sigmoid()
    flat = probabilities.flatten(1)
    if pooling == "mean":
        return flat.mean(1)
    if pooling == "max":
        return flat.amax(1)
    return flat.topk(max(1, round(TOP * flat.shape[1])), dim=1).values.mean(1)
