"""Published AUROCs of PaDiM on MVTec AD: the paper, the JL report's Table 1, anomalib.

No number here was measured by this project, and none stands in for one that was.
"""

import csv
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

#: The name of the mean over all categories that were measured.
MEAN = "mean"
#: D that all three use with a backbone; their numbers hold for that alone.
DIM = {"wide_resnet50": 550, "resnet18": 100}
#: What the three are called in tables.
SOURCES = {"padim": "PaDiM paper", "report": "JL report", "anomalib": "anomalib"}


def _read(first: str, second: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Backbone → category → two columns of published.csv."""
    text = Path(__file__).with_name("published.csv").read_text(encoding="utf-8")
    found: dict[str, dict[str, tuple[float, float]]] = {backbone: {} for backbone in DIM}
    for row in csv.DictReader(text.splitlines()):
        found[row["backbone"]][row["category"]] = float(row[first]), float(row[second])
    return found


#: The report's Table 1: backbone → category → pixel AUROC of PaDiM (selection) and of its JL
#: projection. The first is not the report's measurement: it repeats the paper's numbers.
REPORT = _read("report_padim", "report_jl")
#: anomalib's README of PaDiM at commit b7233686: backbone → category → (image AUROC, pixel AUROC).
ANOMALIB = _read("anomalib_image", "anomalib_pixel")
#: In the order of the paper, textures first.
CATEGORIES = tuple(REPORT["resnet18"])
TEXTURES, OBJECTS = CATEGORIES[:5], CATEGORIES[5:]
#: Image AUROC, mean of all categories: the paper has none by category.
PADIM_IMAGE_MEAN = {"wide_resnet50": 0.953}

#: Source → metric → AUROC; (selection, JL) of the report.
Known = dict[str, dict[str, float | tuple[float, float]]]


def published(backbone: str, dim: int, categories: Collection[str]) -> Known:
    """Return what others published for a backbone at D = `dim`: means over `categories`.

    A source and metric without a number for every category is left out.

    >>> published("resnet18", 100, ["screw"])["report"]
    {'test/pixel_auroc': (0.974, 0.975)}
    >>> published("resnet18", 50, ["screw"])["report"]
    {}
    """
    found: Known = {source: {} for source in SOURCES}
    if DIM.get(backbone) != dim or not set(categories) <= set(CATEGORIES):
        return found
    if set(categories) == set(CATEGORIES) and backbone in PADIM_IMAGE_MEAN:
        found["padim"]["test/image_auroc"] = PADIM_IMAGE_MEAN[backbone]
    selection, jl = report_mean(backbone, categories)
    found["padim"]["test/pixel_auroc"] = selection
    found["report"]["test/pixel_auroc"] = (selection, jl)
    image, pixel = _mean(ANOMALIB[backbone], categories)
    found["anomalib"] = {"test/image_auroc": image, "test/pixel_auroc": pixel}
    return found


def report_mean(backbone: str, categories: Iterable[str] = CATEGORIES) -> tuple[float, float]:
    """Return means over categories of the report's Table 1: pixel AUROC of selection and of JL."""
    return _mean(REPORT[backbone], categories)


def averages(categories: Sequence[str]) -> dict[str, list[str]]:
    """Name the means worth showing below rows of `categories`, and the categories of each.

    >>> averages(["carpet", "grid", "screw"])
    {'textures': ['carpet', 'grid'], 'mean': ['carpet', 'grid', 'screw']}
    """
    parts = {
        name: [c for c in categories if c in known]
        for name, known in (("textures", TEXTURES), ("objects", OBJECTS))
    }
    found = {name: part for name, part in parts.items() if 1 < len(part) < len(categories)}
    return found | ({MEAN: list(categories)} if len(categories) > 1 else {})


#: Where the report's numbers contradict each other or the networks.
CONTRADICTIONS = (
    "Its Table 1 averages to 97.5 → 97.9 (wide_resnet50) and 96.7 → 96.9 (resnet18) % pixel "
    "AUROC; its text and Figure 3 say 96.7 → 97.3.",
    "It gives wide_resnet50 6048 dimensions; layers 1 to 3 have 256 + 512 + 1024 = 1792. Its 550 "
    "are then 31 % of them, not about a tenth.",
    "It says that JL is better in all classes; tile with resnet18 has no gain.",
    "Its PaDiM columns are the paper's numbers, not runs of its own, and it names no seeds: "
    "what it calls a gain may also come from whatever else differs from the paper's code.",
    "Its section 3 takes orthonormal rows as the default matrix, its eq. 6 independent normal "
    "numbers (here: proj=orthogonal and proj=jl).",
)


def _mean(rows: dict[str, tuple[float, float]], categories: Iterable[str]) -> tuple[float, float]:
    # Rounded: a mean of thousandths has no binary digits behind.
    first, second = np.mean([rows[c] for c in categories], axis=0).round(6).tolist()
    return first, second
