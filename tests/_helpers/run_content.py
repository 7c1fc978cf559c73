"""What a run hands to its tracker."""

import numpy as np

from padim_lit.visualization.gallery import GalleryEntry
from padim_lit.visualization.heatmaps import Look
from padim_lit.visualization.predictions import TestScore

SIZE = 16
SCALE = 2.0, 12.0

RESULTS = {
    "test/image_auroc": 0.875, "test/pixel_auroc": None, "test/pixel_auroc_why": "no masks",
    "fit/images": 352, "backbone": "resnet18", "proj": "jl", "notes": ["a note"],
}  # fmt: skip


def pictures():
    truth = np.zeros((SIZE, SIZE), bool)
    truth[2:6, 2:6] = True
    return [
        GalleryEntry(
            role, 1, i, f"data/img{i}.png", kind, label, 9.0 + i,
            np.full((SIZE, SIZE, 3), 60 + i, np.uint8), known,
            np.linspace(0, 9 + i, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE),
        )
        for i, (role, kind, label, known) in enumerate(
            [("highest_defect", "planted_spot", 1, truth), ("highest_good", "good", 0, None)]
        )
    ]  # fmt: skip


def run_content(threshold=5.0):
    return {
        "config": {"dim": 100, "backbone": {"name": "resnet18"}},
        "results": RESULTS,
        "predictions": [
            TestScore("data/img1.png", "good", 0, 10.0, 1, False),
            TestScore("data/img0.png", "planted_spot", 1, 9.0, 0, True),
        ],
        "pictures": pictures(),
        "look": Look(threshold, threshold, SCALE, "resnet18, jl to 100"),
    }
