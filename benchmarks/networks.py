"""The networks that are timed: real architectures with random weights, which cost the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, CLIPVisionModel


@dataclass(frozen=True)
class Network:
    """An encoder with a decoder.

    Attributes:
        name: What the tables call it; the first word is the encoder's.
        layer: Number of the feature layer.
        decoder: Name of the decoder.
        vision: Options of CLIP's vision tower.
        text: Options of its text tower, which the published code keeps in memory.
    """

    name: str
    layer: int
    decoder: str
    vision: dict[str, Any]
    text: dict[str, Any]

    @property
    def layer_name(self) -> str:
        """The paper's name of the feature layer."""
        return f"layer{self.layer}"

    @property
    def config(self) -> CLIPConfig:
        """The architecture of CLIP around this encoder."""
        text, vision = CLIPTextConfig(**self.text), CLIPVisionConfig(**self.vision)
        return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())

    def tower(self) -> Any:
        """Return the whole vision tower with random weights."""
        return CLIPVisionModel(CLIPVisionConfig(**self.vision))

    def save_tower(self, folder: Path) -> Path:
        """Save the vision tower below ``folder``, unless it is there, and return where."""
        path = folder / self.name.split()[0].replace("/", "-").lower()
        if not path.exists():
            self.tower().save_pretrained(path)
        return path


def _tower(width: int, blocks: int, **options: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": width // 64,
        **options,
    }


VIT_L = _tower(1024, 24, patch_size=14), _tower(768, 12)
VIT_B = _tower(768, 12, patch_size=16), _tower(512, 12)
NETWORKS = (
    Network("ViT-L/14 conv-20", 20, "conv-20", *VIT_L),
    Network("ViT-L/14 linear", 20, "linear", *VIT_L),
    Network("ViT-B/16 light", 5, "light", *VIT_B),
)
PUBLISHED_DECODERS = ("conv-20", "linear")
"""Those of :data:`NETWORKS` that the public implementation has, with the encoder it has."""
