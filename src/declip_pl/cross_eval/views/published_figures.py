"""What others published on Dolos, shown beside a cross-evaluation's figures."""

MATRIX: dict[str, dict[str, float]] = {
    "ldm": {"ldm": 51.1, "repaint-p2-9k": 44.7, "lama": 43.5, "pluralistic": 56.4},
    "repaint-p2-9k": {"ldm": 27.4, "repaint-p2-9k": 74.0, "lama": 42.4, "pluralistic": 54.2},
    "lama": {"ldm": 21.6, "repaint-p2-9k": 29.5, "lama": 86.5, "pluralistic": 32.0},
    "pluralistic": {"ldm": 4.9, "repaint-p2-9k": 8.1, "lama": 51.9, "pluralistic": 83.7},
}
"""The public repository's IoU on Dolos, trained on (outer) and tested on (inner), percent."""

MEANS = (
    ("DeCLIP", 73.8, 34.7),
    ("PSCC-Net", 81.0, 21.6),
    ("Patch Forensics", 69.3, 20.4),
    ("CLIP, linear", 36.2, 18.5),
)
"""Methods and their mean in-domain and out-of-domain IoU on Dolos (a secondary source)."""

NETWORK = ("clip-vit-large-patch14+rn50", "layer20", "conv-20")
"""Encoder, layer and decoder that :data:`MATRIX` is of."""
