"""Tiny dataset trees, written to disk for the tests."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def save_image(path: Path, size: tuple[int, int] = (40, 32), seed: int = 0) -> Path:
    """A random grey image; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_mask(
    path: Path,
    size: tuple[int, int] = (40, 32),
    box: tuple[int, int, int, int] | None = (15, 12, 24, 20),
) -> Path:
    """A 0/255 mask with one filled box (left, top, right, bottom), or an empty one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    if box is not None:
        left, top, right, bottom = box
        mask[top:bottom, left:right] = 255
    Image.fromarray(mask).save(path)
    return path


def build_tree(
    root: Path,
    *,
    train: int = 4,
    test: Mapping[str, int] | None = None,
    masks: bool = True,
) -> Path:
    """train/good, test/KIND and ground_truth/KIND with images 000.png, 001.png, ..."""
    for n in range(train):
        save_image(root / "train" / "good" / f"{n:03}.png", seed=n)
    for k, (kind, count) in enumerate((test or {"good": 2, "crack": 3}).items()):
        for n in range(count):
            save_image(root / "test" / kind / f"{n:03}.png", seed=100 * (k + 1) + n)
            if masks and kind != "good":
                save_mask(root / "ground_truth" / kind / f"{n:03}_mask.png")
    return root


def build_magnetic_tile(root: Path, *, tiles: int = 10, shots: int = 3) -> Path:
    """MT_Free with `tiles` of `shots` images each, and two kinds of defects."""
    for tile in range(tiles):
        for shot in range(shots):
            name = f"exp{shot + 1}_num_{1000 * tile + 20 * shot}"
            save_image(root / "MT_Free" / "Imgs" / f"{name}.jpg", seed=10 * tile + shot)
            save_mask(root / "MT_Free" / "Imgs" / f"{name}.png", box=None)
    for kind in ("Crack", "Uneven"):
        for n in range(2):
            save_image(root / f"MT_{kind}" / "Imgs" / f"exp1_num_{n}.jpg", seed=n)
            save_mask(root / f"MT_{kind}" / "Imgs" / f"exp1_num_{n}.png")
    return root
