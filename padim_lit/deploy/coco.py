"""What mode=predict found as COCO JSON, which annotation tools and pycocotools read."""

import os
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from padim_lit.deploy.regions import DIGITS

CATEGORY = {"id": 1, "name": "defect", "supercategory": "defect"}


def to_coco(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """COCO's dict of the scored images in `lines`, one category and an annotation a region.

    File names are relative to the folder that all images lie in, ``info["root"]``. A segmentation
    is the outer outline, whose holes COCO's polygons cannot have; ``area`` leaves them out.
    ``score`` is the region's peak.

    >>> region = {"box": [1, 2, 4, 8], "polygon": [[1, 2], [4, 2], [4, 8]], "area": 9, "peak": 5.0}
    >>> line = {"path": "in/a.png", "width": 10, "height": 20, "score": 5.0, "regions": [region]}
    >>> found = to_coco([line])
    >>> found["images"]
    [{'id': 1, 'file_name': 'a.png', 'width': 10, 'height': 20, 'score': 5.0}]
    >>> found["annotations"][0]["bbox"], found["annotations"][0]["segmentation"]
    ([1, 2, 3, 6], [[1, 2, 4, 2, 4, 8]])
    """
    lines = [line for line in lines if "error" not in line]
    # Absolute, but with the links that were typed.
    folders = [PurePath(os.path.abspath(line["path"])).parent for line in lines]  # noqa: PTH100
    root = os.path.commonpath(folders) if folders else "."
    images, annotations = [], []
    for number, line in enumerate(lines, 1):
        name = PurePath(os.path.relpath(line["path"], root)).as_posix()
        size = {"width": line["width"], "height": line["height"]}
        images.append({"id": number, "file_name": name, **size, "score": line["score"]})
        for region in line["regions"] or ():
            left, top, right, bottom = region["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORY["id"],
                    "bbox": [left, top, round(right - left, DIGITS), round(bottom - top, DIGITS)],
                    "area": region["area"],
                    "segmentation": [[value for corner in region["polygon"] for value in corner]],
                    "iscrowd": 0,
                    "score": region["peak"],
                }
            )
    about = {"description": "regions found by padim_lit", "root": str(root)}
    return {
        "info": about,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [CATEGORY],
    }
