"""Find the pictures that runs left, and make them small enough to live inside one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from padim_lit.analysis.result_files import load
from padim_lit.errors import refusing
from padim_lit.report.page import jpeg

#: File → what it shows.
PICTURES = {
    "figure4.png": "Figure 4: the same test images under each projection: truth, heat maps, and "
    "masks at the threshold that is best on the test set.",
    "heatmaps/overview.png": "Highest- and lowest-scoring defects, highest-scoring good images.",
}
WIDTH, QUALITY = 1400, 88
#: Bytes of all pictures together, base64 as they are embedded.
BUDGET = 11_000_000


def embed(files: Sequence[tuple[Path, str]], budget: int = BUDGET) -> tuple[list[dict], list[str]]:
    """Return pictures as data URIs with captions, and sentences on those that did not fit.

    Each is a JPEG, at most `WIDTH` pixels wide. `files` are paths and what they show.

    Raises:
        InputError: a picture cannot be read.
    """
    kept, left = [], []
    for file, shows in files:
        encoded = _encode(file)
        budget -= len(encoded["src"])
        if budget < 0:
            left.append(f"{file} did not fit into the report; open it there.")
            continue
        run = file.parent.parent if file.parent.name == "heatmaps" else file.parent
        kept.append({**encoded, "shows": shows, "of": about(run), "path": str(file)})
    return kept, left


def about(folder: Path) -> str:
    """Describe a run in a few words, from its own record or its folder's name."""
    records = [folder / f"{name}.json" for name in ("metrics", "figure4", "distortion")]
    for file in filter(Path.exists, records):
        found = load(file, dict)
        parts = [str(found[key]) for key in ("data", "backbone", "proj", "dim") if key in found]
        if parts:
            return ", ".join(parts)
    return folder.name


def _encode(file: Path) -> dict[str, Any]:
    # A picture of absurd size is an error of its own in Pillow.
    kinds = OSError, ValueError, SyntaxError, Image.DecompressionBombError
    what = f"{file} cannot be read as a picture"
    with refusing(what, "remove it", *kinds), Image.open(file) as opened:
        image = opened.convert("RGB")
    image.thumbnail((WIDTH, image.height), Image.Resampling.LANCZOS, reducing_gap=None)
    return {"src": jpeg(image, QUALITY), "width": image.width, "height": image.height}
