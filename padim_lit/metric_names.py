"""What a run reports of its test, and how tables call it; apart from what computes it, because
torchmetrics takes seconds to import and a table of results does without."""

from collections.abc import Mapping
from typing import Any

METRICS = {
    "test/image_auroc": "image AUROC",
    "test/image_ap": "image AP",
    "test/image_f1max": "image F1-max",
    "test/pixel_auroc": "pixel AUROC",
    "test/pixel_ap": "pixel AP",
    "test/pixel_aupro": "pixel AUPRO",
}


def of_defective(results: Mapping[str, Any]) -> str:
    """Return how many defective images the pixel metrics cover, where not all; "" otherwise.

    Others have no mask, or one that vanished or that the model does not see.

    >>> of_defective({"test/pixel_defective": 1, "data/test_defective": 4})
    'of 1 of 4 defective images'
    """
    seen, bad = results.get("test/pixel_defective"), results.get("data/test_defective")
    told = seen is not None and seen < bad
    return f"of {seen} of {bad} defective images" if told else ""
