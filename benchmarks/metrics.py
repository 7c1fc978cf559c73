"""Pixel AUROC, AP and AUPRO of large maps: seconds, and memory beyond the maps themselves.

python -m benchmarks metrics                    # 117 maps of 1024²
"""

import gc
import statistics
import time

import torch

from benchmarks.rows import keep, parser_of
from padim_lit.metrics import PixelMetrics
from padim_lit.system.memory import peak_bytes, readable, reset_peak

CPU = torch.device("cpu")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--maps", type=int, default=117)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32, help="maps in one update")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    side = arguments.side
    masks = torch.zeros(arguments.maps, side, side, dtype=torch.bool)
    masks[::2, side // 4 : side // 2, side // 4 : side // 3] = True  # every second is defective
    # As far apart as the distances of a fitted model; the memory grows with the bins in use.
    maps = torch.rand(arguments.maps, side, side, generator=generator).mul_(18).add_(2)
    maps += 5 * masks
    metrics_of(maps[:32], masks[:32], 32)  # what is imported and made once
    gc.collect()
    reset_peak(CPU)
    before = peak_bytes(CPU)
    seconds = []
    for _ in range(arguments.repeats):
        gc.collect()  # torchmetrics' objects refer to themselves
        start = time.perf_counter()
        values = metrics_of(maps, masks, arguments.batch)
        seconds.append(time.perf_counter() - start)
    beyond, median = peak_bytes(CPU) - before, statistics.median(seconds)
    print(
        f"{arguments.maps} maps of {side}²: {median:.2f} s, {readable(beyond)} beyond the maps; "
        f"AUROC {values['pixel_auroc']:.4f}, AUPRO {values['pixel_aupro']:.4f}"
    )
    row = {"maps": arguments.maps, "side": side, "seconds": median, "bytes_beyond": beyond}
    keep(arguments.json, **row)


def metrics_of(maps: torch.Tensor, masks: torch.Tensor, batch: int) -> dict:
    metrics = PixelMetrics()
    for part, truth in zip(maps.split(batch), masks.split(batch), strict=True):
        metrics.update(part, truth)
    return metrics.compute()


if __name__ == "__main__":
    main()
