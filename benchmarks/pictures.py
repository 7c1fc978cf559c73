"""Decoding and resizing of large PNGs: images a second without the picture cache and with it.

    python -m benchmarks pictures                                # 200 pictures of 1024²

The pictures are MVTec AD screws from $PADIM_DATA, enlarged, with noise that makes their files as
large as the publisher's; without $PADIM_DATA, smooth structure with noise. What is compared takes
turns, every repeat with a fresh cache for the first pass, and medians are reported, so that a busy
machine slows all of it alike. Only the loader runs, no backbone: this is the most that a GPU can be
fed. Set OMP_NUM_THREADS=1.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.rows import keep, parser_of, show
from padim_lit.data.cache import PictureCache, digest_of
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
    content = {
        "images": arguments.images,
        "side": arguments.side,
        "file_bytes": size,
        "repeats": arguments.repeats,
        "load_average": os.getloadavg()[0],
        "cores": len(os.sched_getaffinity(0)),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "rows": rows,
    }
    report(content)
    keep(arguments.json, **content)


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=1024, help="pixels")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to put the pictures for the while")
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


if __name__ == "__main__":
    main()
