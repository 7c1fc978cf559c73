"""What a drawing writes, and its pixels."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw


def written_by(
    draw: Callable[..., bytes], *args: Any
) -> tuple[list[tuple[str, tuple[float, float]]], np.ndarray]:
    """A drawing's texts, each with its place on its sheet, and the drawing (h,w,3)."""
    said, write = [], ImageDraw.ImageDraw.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ImageDraw.ImageDraw, "text",
            lambda self, at, text, **how: (said.append((text, at)), write(self, at, text, **how)),
        )  # fmt: skip
        png = draw(*args)
    return said, np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
