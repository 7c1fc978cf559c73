"""Each cell of figure 4 shows its own image, projection, threshold and score."""

import numpy as np
from _helpers.drawing import written_by

from padim_lit.visualization.figure4 import Example, Method, draw, judged
from padim_lit.visualization.panels import GAP, THUMB

WHAT = {
    "data": "d", "backbone": "b", "weights": "w", "embedding_dim": 9, "grid": "8x8", "eps": 0.01,
    "train_images": 9, "seed": 0, "chosen": "c",
}  # fmt: skip


def test_every_cell_is_of_its_row_and_projection():
    examples, methods, grey = [], [], np.full((THUMB, THUMB, 3), 100, np.uint8)
    for row in range(2):
        there = np.zeros((3, THUMB, THUMB), np.float32)
        for part, at in enumerate((20, 90, 40 + 10 * row)):
            there[part, at : at + 60, 30:70] = 5 + part
        truth, *maps = there
        examples.append(Example(f"{row}.png", "crack", False, grey, truth > 0, maps))
    for proj, scores, threshold in (("jl", [1.0, 2.0], 6.0), ("npca", [3.0, 4.0], 7.0)):
        methods.append(Method(proj, 50, scores, 0.9, 0.9, 0.5, threshold))
    said, image = written_by(draw, examples, methods, WHAT)
    down = said[6][1][1] - THUMB
    for row, example in enumerate(examples):
        assert [text for text, _ in said[6 * row :][:6]] == [
            f"crack, {row}.png", "truth", f"jl: score {row + 1}.0", "jl: mask",
            f"npca: score {row + 3}.0", "npca: mask",
        ]  # fmt: skip
        for m, (map, method) in enumerate(zip(example.maps, methods, strict=True)):
            cell = image[row * down :, (3 + 2 * m) * (THUMB + GAP) :][:THUMB, :THUMB]
            assert np.array_equal(cell, judged(example, map, method.pixel_f1max_threshold))
    said, warned = written_by(draw, examples, methods, {**WHAT, "weights": "random (seed 0)"})
    words = "Random weights: these maps say nothing about detection."
    assert words == " ".join(text for text, at in said[12:] if at[1] == 0)[-len(words) :]
    high = len(warned) - len(image)
    assert high > 20 and (warned[:high] == 0).any()
    assert np.array_equal(warned[high : high + down], image[:down])
