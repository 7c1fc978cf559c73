"""AUROCs that others published for MVTec AD, to stand beside measured ones and never instead.

PADIM is Defard, Setkov, Loesch and Audigier, "PaDiM: a Patch Distribution Modeling Framework for
Anomaly Detection and Localization", ICPR workshops 2020, arXiv:2011.08785, table of anomaly
localisation, columns PaDiM-R18-Rd100 and PaDiM-WR50-Rd550. It has no image AUROC per category.

The paper itself was not at hand: values were taken from public transcriptions of it. Those of Wide
ResNet50-2 average to the paper's own means of textures, objects and all. Of ResNet18's, five
categories could be found; the others are left out.

REPORT is the report on Johnson-Lindenstrauss projections that this project follows. Its numbers
per category are not available to us, only means.
"""

#: The 15 categories, textures first.
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
CATEGORIES = (
    *TEXTURES,
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)
#: D that the paper uses with a backbone; its numbers hold for that alone.
PADIM_DIM = {"wide_resnet50": 550, "resnet18": 100}
#: Pixel AUROC by backbone and category.
PADIM_PIXEL: dict[str, dict[str, float]] = {
    "wide_resnet50": {
        "carpet": 0.991,
        "grid": 0.973,
        "leather": 0.992,
        "tile": 0.941,
        "wood": 0.949,
        "bottle": 0.983,
        "cable": 0.967,
        "capsule": 0.985,
        "hazelnut": 0.982,
        "metal_nut": 0.972,
        "pill": 0.957,
        "screw": 0.985,
        "toothbrush": 0.988,
        "transistor": 0.975,
        "zipper": 0.985,
    },
    "resnet18": {
        "grid": 0.949,
        "bottle": 0.981,
        "metal_nut": 0.967,
        "screw": 0.974,
        "zipper": 0.982,
    },
}
#: Pixel AUROC, mean of all categories.
PADIM_PIXEL_MEAN = {"wide_resnet50": 0.975, "resnet18": 0.967}
#: Image AUROC, mean of all categories.
PADIM_IMAGE_MEAN = {"wide_resnet50": 0.953}
#: Pixel AUROC of selection and of the JL projection: what the report's Table 1 averages to.
REPORT_MEAN = {"wide_resnet50": (0.975, 0.979), "resnet18": (0.967, 0.969)}
#: What the report's text and its Figure 3 say instead.
REPORT_TEXT = (0.967, 0.973)
