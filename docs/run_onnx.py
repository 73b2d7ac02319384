"""Where a photo is fake, with onnxruntime alone: python run_onnx.py MODEL.onnx PHOTO MASK.png."""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

REACHED = 0.02  # share of a photo's pixels that have to reach the floor


def own_threshold(heat: np.ndarray, floor: float) -> float:
    """Return the threshold of the highest expected IoU; 1 where the photo stays unmarked."""
    if np.mean(heat >= floor) < REACHED:
        return 1.0
    best, iou = -1.0, 0.0
    while iou > best:
        best, marked = iou, heat > iou / (1 + iou)
        found, missed = (heat[part].sum(dtype=np.float64) for part in (marked, ~marked))
        iou = found / (marked.sum() + missed)
    return best / (1 + best)


model, photo, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
(probabilities,) = session.run(["probabilities"], {"pixels": np.asarray(image)[None]})
heat = np.asarray(Image.fromarray(probabilities[0]).resize(image.size, Image.Resampling.BILINEAR))
facts = session.get_modelmeta().custom_metadata_map
fixed = float(facts["threshold"])
threshold = own_threshold(heat, float(facts["floor"])) if "floor" in facts else fixed
mask = heat > threshold
print(f"{100 * mask.mean():.1f} % of {photo} is fake (above {threshold:.3f})")
Image.fromarray(mask).save(output)
