"""Draw defects.png anew: python docs/figures/defects.py CKPT PHOTO... CKPT PHOTO..., a row each."""

import sys
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

import padim_lit
from padim_lit.visualization.overlay import MIN_LINES, Heat, caption_of, colours, heat_map
from padim_lit.visualization.panels import font_of, grid

SPACE, COLOURS, SIDE = 12, 256, 150


def row(ckpt: str, files: list[str]) -> tuple[list[Image.Image], list[str]]:
    """Each image beside its heat map, and its score."""
    predictor = padim_lit.load(ckpt)
    maxima = predictor.calibration.map_maxima.numpy()
    scale = colours(maxima, predictor.map_threshold)
    pairs, texts = [], []
    for seen, found in predictor.stream_seen(files, picture=SIDE):
        picture = np.asarray(seen.picture)
        heat = Heat(found.map, found.view, scale, predictor.map_threshold)
        both = [Image.fromarray(one) for one in (picture, heat_map(picture, heat, MIN_LINES))]
        pairs.append(grid(both, ["", ""], 2, font_of()))
        texts.append(caption_of(found, "")[1])
    return pairs, texts


if len(sys.argv) < 3 or not sys.argv[1].endswith(".ckpt"):
    sys.exit(__doc__)
rows: list[tuple[str, list[str]]] = []
for word in sys.argv[1:]:
    if word.endswith(".ckpt"):
        rows.append((word, []))
    else:
        rows[-1][1].append(word)
pairs, texts = (chain(*parts) for parts in zip(*(row(*one) for one in rows), strict=True))
sheet = grid(list(pairs), list(texts), len(rows[0][1]), font_of(), SPACE)
few = sheet.quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG)
target = Path(__file__).with_suffix(".png")
few.save(target, optimize=True)
print(target)
