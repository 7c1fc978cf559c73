"""Score image files with an exported graph: python score_onnx.py model.onnx IMAGE..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["padim_lit"])
names = [output.name for output in session.get_outputs()]
h, w = about["image_shape"]
for path in sys.argv[2:]:
    with open(path, "rb") as file:  # noqa: PTH123 - by its name Pillow scrambles some turned TIFFs
        image = ImageOps.exif_transpose(Image.open(file))
    if image.mode[0] in "IF" or image.convert("RGBA").getextrema()[3][0] < 255:
        sys.exit(f"{path}: more than 8 bits or transparency is not read; save it as opaque 8 bits")
    size = about["resize"] or [h, w]  # an int is the shorter side
    if isinstance(size, int):
        size = [size * side // min(image.size) for side in (image.height, image.width)]
    image = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    top, left = round((size[0] - h) / 2), round((size[1] - w) / 2)
    pixels = np.asarray(image.crop((left, top, left + w, top + h)))[None]  # uint8 (1,h,w,3)
    if not about["preprocess"]:
        pixels = (pixels.astype(np.float32) / 255).transpose(0, 3, 1, 2)
    found = dict(zip(names, session.run(None, {"image": pixels}), strict=True))
    verdict = ("defective" if found["decision"][0] else "good") if "decision" in found else ""
    print(path, float(found["score"][0]), verdict)
