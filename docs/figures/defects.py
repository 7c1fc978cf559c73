"""The README's picture: python docs/figures/defects.py CKPT IMAGE... CKPT IMAGE..., a row each."""

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import padim_lit
from padim_lit.visualization.overlay import colours, side_by_side

LINE, GAP, COLOURS = 18, 8, 256


def row(ckpt: str, files: list[str]) -> list[Image.Image]:
    """Each image beside its heat map, with kind and score below."""
    predictor = padim_lit.load(ckpt)
    maxima = predictor.calibration["map_maxima"].numpy()
    scale = colours(maxima, predictor.map_threshold)
    pictures = []
    for file in files:
        seen = predictor.see(file)
        (found,) = predictor.score([seen])
        png = side_by_side(seen.values, found.map, scale, predictor.map_threshold)
        pair = Image.open(BytesIO(png))
        pair = pair.resize((pair.width * 2 // 3, pair.height * 2 // 3), Image.Resampling.LANCZOS)
        titled = Image.new("RGB", (pair.width, pair.height + LINE), "white")
        titled.paste(pair)
        said = "defective" if found.is_anomalous else "good"
        text = f"score {found.score:.1f}, threshold {predictor.threshold:.1f}: {said}"
        font = ImageFont.load_default(12)
        ImageDraw.Draw(titled).text((2, pair.height + 1), text, fill="black", font=font)
        pictures.append(titled)
    return pictures


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
few.save(Path(__file__).with_suffix(".png"), optimize=True)
