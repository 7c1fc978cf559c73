"""mode=predict over very many images: whether memory and pace stay what they are at the start.

    python -m benchmarks load --images 20000 --ckpt model.ckpt --source DIR

Links to the images of DIR, as many as asked for, lie in a temporary folder; the command that a user
would type scores them, and is watched from outside, at every tenth: the process's resident memory,
and seconds and processor seconds an image since the last tenth. On a busy machine the second say
more, because waiting is not in them. Without --ckpt, a model with random weights is fitted to
generated images of 64 pixels first: that is quick and says nothing about detection.
"""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from benchmarks.rows import keep, parser_of, show
from padim_lit.data.files import find_images

RUN = [sys.executable, str(Path(__file__).parents[1] / "run.py")]
TENTHS = 10
TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--ckpt", type=Path, help="model.ckpt of an earlier run")
    parser.add_argument("--source", type=Path, help="folder of images for that model")
    arguments = parser.parse_args()
    if (arguments.ckpt is None) != (arguments.source is None):
        parser.error("give both --ckpt and --source, or neither")
    if arguments.images < 10 * TENTHS:
        parser.error(f"--images {arguments.images}: at least {10 * TENTHS}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ckpt, source = arguments.ckpt, arguments.source
        if ckpt is None:
            ckpt, source = _tiny(folder)
        links = folder / "images"
        links.mkdir()
        files = itertools.cycle(find_images(str(source)))
        for i in track(range(arguments.images), "linking"):
            file = next(files).resolve()
            # No symbolic link: a file that many of them lead to is scored once.
            _same_content(file, links / f"{i:06}{file.suffix}")
        rows = _watch(folder, ckpt.resolve(), links, arguments.images)
    _print(rows)
    keep(arguments.json, images=arguments.images, ckpt=str(arguments.ckpt), rows=rows)


def _same_content(file: Path, copy: Path) -> None:
    try:
        os.link(file, copy)
    except OSError:  # another file system
        shutil.copyfile(file, copy)


def _watch(folder: Path, ckpt: Path, links: Path, total: int) -> list[dict[str, float]]:
    out = folder / "out"
    command = [*RUN, "mode=predict", f"ckpt={ckpt}", f"images={links}", "overlays=none"]
    process = subprocess.Popen([*command, f"hydra.run.dir={out}"], stdout=subprocess.DEVNULL)
    lines, rows, done = out / "predictions.jsonl", [], 0
    while not lines.exists():
        if process.poll() is not None:
            sys.exit(f"error: mode=predict ended with status {process.returncode}")
        time.sleep(0.05)
    last: tuple[int, float, float] | None = None
    with lines.open("rb") as file:
        while process.poll() is None:
            time.sleep(0.05)
            done += file.read().count(b"\n")
            try:
                now = (done, time.monotonic(), _processor_seconds(process.pid))
                memory = _resident_bytes(process.pid)
            except OSError:  # it has ended
                break
            if done and last is None:  # the first image comes after the imports
                last = now
            if last and done > last[0] and done >= (len(rows) + 1) * total // TENTHS:
                count, seconds, processor = (new - old for new, old in zip(now, last, strict=True))
                rows.append(
                    {
                        "images": done,
                        "resident_bytes": memory,
                        "seconds_per_image": seconds / count,
                        "processor_seconds_per_image": processor / count,
                    }
                )
                last = now
    if process.wait():
        sys.exit(f"error: mode=predict ended with status {process.returncode}")
    return rows


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _tiny(folder: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    for kind in ("train/good", "test/good"):
        (folder / "data" / kind).mkdir(parents=True)
        for i in range(20):
            noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "data" / kind / f"{i}.png")
    keys = "data=folder backbone=resnet18 backbone.weights=random image_size=64 crop_size=64"
    keys = f"{keys} proj=jl dim=8 logger=none data.root={folder / 'data'}"
    command = [*RUN, *keys.split(), f"hydra.run.dir={folder / 'fit'}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "fit" / "model.ckpt", folder / "data" / "test"


def _print(rows: list[dict[str, float]]) -> None:
    columns = ("images", "resident MiB", "ms an image", "processor ms an image")
    units = (1, 2**-20, 1000, 1000)
    cells = [
        [f"{value * unit:.5g}" for value, unit in zip(row.values(), units, strict=True)]
        for row in rows
    ]
    show(columns, cells)
    first, last = rows[0], rows[-1]
    change = {key: last[key] / first[key] - 1 for key in first if key != "images"}
    wall, processor = change["seconds_per_image"], change["processor_seconds_per_image"]
    print(
        f"last tenth against first: memory {change['resident_bytes']:+.1%}, time an image "
        f"{wall:+.1%}, processor time {processor:+.1%}"
    )


if __name__ == "__main__":
    main()
