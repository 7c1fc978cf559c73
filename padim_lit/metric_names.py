"""What a run reports of its test, and how tables call it; apart from what computes it, because
torchmetrics takes seconds to import and a table of results does without."""

METRICS = {
    "test/image_auroc": "image AUROC",
    "test/image_ap": "image AP",
    "test/image_f1max": "image F1-max",
    "test/pixel_auroc": "pixel AUROC",
    "test/pixel_ap": "pixel AP",
    "test/pixel_aupro": "pixel AUPRO",
}
