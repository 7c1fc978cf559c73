"""One contestant of `patchcore`: fits, is timed and scores, in a process of its own.

Runs in the environment of any contestant: it needs torch, NumPy and nothing else.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim_lit.system import clock as system_clock
from padim_lit.system.memory import peak_bytes, reset_peak

#: Images at once: of the fit, as in conf/config.yaml, and of the test set.
FIT_BATCH, SCORE_BATCH = 32, 8
TURNS = 5
# Of the training images, that the backbone alone is timed with.
TIMED_IMAGES = 64


def batches(pixels: np.ndarray, size: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """(N,h,w,3) uint8 → (B,3,h,w) float32 in [0, 1], as the data modules make them."""
    for start in range(0, len(pixels), size):
        part = pixels[start : start + size].astype(np.float32) / 255
        yield torch.from_numpy(part).permute(0, 3, 1, 2).contiguous().to(device)


def take_part(contestant: Any, folder: Path) -> None:
    """Fit to ``train.npy``, score ``test.npy``; write ``found.npz`` and ``row.json``.

    Times are over those of the bare backbone, which takes turns: see `seconds`.

    Args:
        contestant: has a ``device``, on which it computes; ``bare(images)``, the backbone's forward
            pass and nothing else; ``fit(pixels)`` to (N,h,w,3), which gives what it wants told, and
            ``extra_seconds`` to add to its time; ``score(images)``, (B,3,h,w) in [0, 1] → raw
            scores (B,) and maps (B,h,w); ``nbytes()`` of what scoring needs beside the backbone.
        folder: of the files.
    """
    device = contestant.device
    train, test = (np.load(folder / f"{name}.npy") for name in ("train", "test"))

    def bare() -> None:
        with torch.inference_mode():
            for images in batches(train[:TIMED_IMAGES], FIT_BATCH, device):
                contestant.bare(images)

    bare()
    reset_peak(device)
    before, (fit, told), after = (
        seconds(device, bare),
        seconds(device, lambda: contestant.fit(train)),
        seconds(device, bare),
    )
    fit += told.pop("extra_seconds", 0.0)
    peak, alone = peak_bytes(device), (before[0] + after[0]) / 2 / len(train[:TIMED_IMAGES])
    row = {"backbone_ms": 1e3 * alone, "fit_s": fit, **told}
    with torch.inference_mode():
        for size in (1, 8):
            images = next(batches(test, size, device))
            steps = contestant.bare, contestant.score
            contestant.score(images)  # what is prepared once
            turns = [[seconds(device, step, images)[0] for step in steps] for _ in range(TURNS)]
            bare_s, score_s = (statistics.median(spent) for spent in zip(*turns, strict=True))
            row[f"score_ms_{size}"] = 1e3 * score_s / size
            row[f"score_ratio_{size}"] = score_s / bare_s
        found = [contestant.score(x) for x in batches(test, SCORE_BATCH, device)]
    scores, maps = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    np.savez(folder / "found.npz", scores=scores, maps=maps)
    row |= {"bytes": contestant.nbytes(), "peak_bytes": peak, "torch": torch.__version__}
    if device.type == "cuda":
        row["device"] = torch.cuda.get_device_name(device)
    (folder / "row.json").write_text(json.dumps(row))


def seconds(device: torch.device, work: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """What it took: on a CPU its processor time, because others may be using it too."""
    start = clock(device)
    done = work(*given)
    return clock(device) - start, done


def clock(device: torch.device) -> float:
    """Seconds: the processor's, or a GPU's, all that was given to it done."""
    return time.process_time() if device.type == "cpu" else system_clock.clock(device)
