"""The network of the paper's figure: a frozen encoder, then a learned decoder."""

from torch import Tensor, nn

from declip_pl.decoder import build_decoder
from declip_pl.encoder import Encoder, Features, build_encoder


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
    def build(cls, encoder: str, layer: str, decoder: str, image_size: int = 224) -> "DeCLIP":
        """Assemble a network from the names of its parts.

        Raises:
            UserError: If a part of that name does not exist or its weights can't be found.
        """
        frozen = build_encoder(encoder, layer, image_size)
        return cls(frozen, build_decoder(decoder, frozen))

    def forward(self, image: Tensor | Features) -> Tensor:
        """Localize.

        Args:
            image: ``[B, 3, S, S]`` pixels, normalised with CLIP's mean and standard deviation, or
                what the encoder made of them before.

        Returns:
            ``[B, 1, 256, 256]`` logits; positive means fake.
        """
        features = image.float() if isinstance(image, Features) else self.encoder(image)
        logits: Tensor = self.decoder(features)
        return logits


def image_logit(logits: Tensor) -> Tensor:
    """Pool ``[B, 1, H, W]`` logits into ``[B]`` image logits: their mean (weak supervision)."""
    return logits.mean(dim=(1, 2, 3))


def image_score(logits: Tensor) -> Tensor:
    """Pool ``[B, 1, H, W]`` logits into ``[B]`` scores in [0, 1]: the mean probability.

    This is the score of the paper's image-level evaluation: the share of the photo that the
    localizer believes to be fake.
    """
    return logits.sigmoid().mean(dim=(1, 2, 3))
