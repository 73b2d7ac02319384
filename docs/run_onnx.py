"""Where a photo is fake, with onnxruntime alone: python run_onnx.py MODEL.onnx PHOTO MASK.png."""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, photo, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
(probabilities,) = session.run(["probabilities"], {"pixels": np.asarray(image)[None]})
heatmap = Image.fromarray(probabilities[0]).resize(image.size, Image.Resampling.BILINEAR)
threshold = float(session.get_modelmeta().custom_metadata_map["threshold"])
mask = np.asarray(heatmap) > threshold
print(f"{100 * mask.mean():.1f} % of {photo} is fake")
Image.fromarray(mask).save(output)
