"""Draw defects.png anew: python docs/figures/defects.py CKPT PHOTO... CKPT PHOTO..., a row each."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

import padim_lit
from padim_lit.visualization.overlay import caption_of, colours, side_by_side

GAP, COLOURS, SIDE = 8, 256, 150


def row(ckpt: str, files: list[str]) -> list[Image.Image]:
    """Each image beside its heat map, with kind and score below."""
    predictor = padim_lit.load(ckpt)
    maxima = predictor.calibration.map_maxima.numpy()
    scale = colours(maxima, predictor.map_threshold)
    pictures = []
    for file in files:
        ((seen, found),) = predictor.stream_seen([file], picture=SIDE)
        (_, caption) = caption_of(found, "")
        picture = np.asarray(seen.picture)
        png = side_by_side(
            picture, found.map, found.view, scale, predictor.map_threshold, [caption]
        )
        pictures.append(Image.open(BytesIO(png)))
    return pictures


if len(sys.argv) < 3 or not sys.argv[1].endswith(".ckpt"):
    sys.exit(__doc__)
rows: list[tuple[str, list[str]]] = []
for word in sys.argv[1:]:
    if word.endswith(".ckpt"):
        rows.append((word, []))
    else:
        rows[-1][1].append(word)
drawn = [row(*one) for one in rows]
width, height = drawn[0][0].size
columns = max(map(len, drawn))
sheet = Image.new(
    "RGB", (columns * (width + GAP) - GAP, len(drawn) * (height + GAP) - GAP), "white"
)
for i, pictures in enumerate(drawn):
    for j, picture in enumerate(pictures):
        sheet.paste(picture, (j * (width + GAP), i * (height + GAP)))
few = sheet.quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG)
target = Path(__file__).with_suffix(".png")
few.save(target, optimize=True)
print(target)
