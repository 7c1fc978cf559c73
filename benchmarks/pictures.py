"""Decoding and resizing of large PNGs: images a second without the picture cache and with it.

    python -m benchmarks pictures                                # 200 pictures of 1024²
    python -m benchmarks pictures --construct 1000 10000         # and how long construction takes

The pictures are MVTec AD screws from $PADIM_DATA, enlarged, with noise that makes their files as
large as the publisher's; without $PADIM_DATA, smooth structure with noise. What is compared takes
turns, every repeat with a fresh cache for the first pass, and medians are reported, so that a busy
machine slows all of it alike. Only the loader runs, no backbone: this is the most that a GPU can be
fed. Set OMP_NUM_THREADS=1.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.rows import keep, show
from padim_lit.data import AnomalyData
from padim_lit.data.cache import PictureCache, digest_of
from padim_lit.data.datamodule import Split
from padim_lit.data.items import Item, ItemDataset, prepare
from padim_lit.data.transform import ResizeCrop

VIEW = ResizeCrop(256, 224)
WAYS = ("without cache", "first pass", "second pass")


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = Path(scratch)
        items, size = generate(folder / "pictures", arguments.images, arguments.side)
        rows = [
            row
            for workers in arguments.workers
            for row in measure(items, folder, workers, arguments.repeats)
        ]
        side = arguments.construct_side
        constructions = [construct(folder / str(n), n, side) for n in arguments.construct]
    content = {
        "images": arguments.images,
        "side": arguments.side,
        "file_bytes": size,
        "repeats": arguments.repeats,
        "load_average": os.getloadavg()[0],
        "cores": len(os.sched_getaffinity(0)),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": {
            "python": platform.python_version(),
            "pillow": PIL.__version__,
            "torch": torch.__version__,
        },
        "rows": rows,
        "construction": constructions,
    }
    report(content)
    keep(arguments.json, content)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=1024, help="pixels")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--construct", type=int, nargs="*", default=[], help="numbers of images")
    parser.add_argument("--construct-side", type=int, default=64, help="pixels")
    parser.add_argument("--folder", type=Path, help="where to put the pictures for the while")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def generate(folder: Path, count: int, side: int) -> tuple[list[Item], int]:
    """`count` PNGs of side² pixels and the mean size of their files in bytes."""
    folder.mkdir()
    screws = sorted(Path(os.environ.get("PADIM_DATA", ".")).glob("mvtec_ad/screw/train/good/*.png"))
    items = []
    for n in range(count):
        rng = np.random.default_rng(n)
        if screws:
            base = Image.open(screws[n % len(screws)]).convert("L")
        else:
            base = Image.fromarray(rng.integers(60, 200, (24, 24), dtype=np.uint8))
        large = np.asarray(base.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = large + rng.normal(0, 1.5, large.shape)
        path = folder / f"{n:05}.png"
        Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(path)
        items.append(Item(path))
    return items, round(statistics.mean(item.path.stat().st_size for item in items))


def measure(items: list[Item], scratch: Path, workers: int, repeats: int) -> list[dict]:
    """Seconds of one pass over all `items`, in each of WAYS by turns."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    once(items, prepare, workers)  # the files are in the page cache from here on
    for repeat in range(repeats):
        cache = PictureCache(scratch / f"cache-{workers}-{repeat}")
        for way, read in zip(WAYS, (prepare, cache, cache), strict=True):
            seconds[way].append(once(items, read, workers))
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return [
        {
            "workers": workers,
            "way": way,
            "images_per_second": len(items) / medians[way],
            "speedup": medians["without cache"] / medians[way],
            "seconds": seconds[way],
        }
        for way in WAYS
    ]


def once(items: list[Item], read, workers: int) -> float:
    loader = DataLoader(ItemDataset(items, VIEW, read), batch_size=32, num_workers=workers)
    digest_of.cache_clear()  # a new run knows no file's content
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


@dataclass(eq=False)
class Generated(AnomalyData):
    """Items that are known already."""

    split: Split

    def read(self) -> Split:
        return self.split


def construct(folder: Path, count: int, side: int) -> dict:
    """Seconds to construct a datamodule of `count` noise images, a tenth of them with masks."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    mask = folder / "mask.png"
    Image.fromarray((pixels > 127).astype(np.uint8) * 255).save(mask)
    items = []
    for n in range(count):
        path = folder / f"{n:06}.png"
        Image.fromarray(np.roll(pixels, n)).save(path)
        items.append(Item(path, "crack", (mask,), count_pixel=True) if n % 10 == 0 else Item(path))
    train, test = [i for i in items if not i.masks][: count // 2], items[: count // 2]
    found = {"images": len(train) + len(test), "side": side}
    for name, full_check in (("decode", 10**9), ("headers", 0)):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            how = {"image_size": 64, "crop_size": None, "num_workers": 0, "full_check": full_check}
            Generated(Split("tiny", train, test), **how)
            times.append(time.perf_counter() - start)
        found[f"{name}_seconds"] = statistics.median(times)
    return found


def report(content: dict) -> None:
    title = (
        f"{content['images']} PNGs of {content['side']}², "
        f"{content['file_bytes'] / 1e6:.2f} MB a file, median of {content['repeats']}; "
        f"{content['cores']} cores, load {content['load_average']:.1f}"
    )
    cells = [
        (
            str(row["workers"]),
            row["way"],
            f"{row['images_per_second']:.1f}",
            f"{row['speedup']:.2f}",
        )
        for row in content["rows"]
    ]
    show(("workers", "way", "images/s", "× without"), cells, title, width=100)
    for row in content["construction"]:
        print(
            f"construction, {row['images']} images of {row['side']}²: decoding all "
            f"{row['decode_seconds']:.2f} s, headers only {row['headers_seconds']:.2f} s"
        )


if __name__ == "__main__":
    main()
