"""mode=predict over very many images: whether memory and pace stay what they are at the start.

    python -m benchmarks load --images 20000 --ckpt model.ckpt --source DIR

Links to the images of DIR, as many as asked for, lie in a temporary folder; the command that a user
would type scores them, and is watched from outside, at every tenth: the process's resident memory,
and seconds and processor seconds an image since the last tenth. On a busy machine the second say
more, because waiting is not in them. Without --ckpt, a model with random weights is fitted to
generated images of 64 pixels first: that is quick and says nothing about detection.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from padim_lit.data.files import find_images

RUN = [sys.executable, str(Path(__file__).parents[1] / "run.py")]
TENTHS = 10
TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks load", description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--ckpt", type=Path, help="model.ckpt of an earlier run")
    parser.add_argument("--source", type=Path, help="folder of images for that model")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
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
    if arguments.json:
        content = {"images": arguments.images, "ckpt": str(arguments.ckpt), "rows": rows}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def _same_content(file: Path, copy: Path) -> None:
    try:
        os.link(file, copy)
    except OSError:  # another file system
        shutil.copyfile(file, copy)


def _watch(folder: Path, ckpt: Path, links: Path, total: int) -> list[dict[str, float]]:
    out = folder / "out"
    command = [*RUN, "mode=predict", f"ckpt={ckpt}", f"images={links}", "overlays=none"]
    process = subprocess.Popen([*command, f"hydra.run.dir={out}"], stdout=subprocess.DEVNULL)
    lines, rows, done, rest = out / "predictions.jsonl", [], 0, b""
    last: tuple[float, float, int] | None = None
    file = None
    while process.poll() is None:
        time.sleep(0.05)
        if file is None:
            if not lines.exists():
                continue
            file = lines.open("rb")
        rest = file.read()
        done += rest.count(b"\n")
        if done and last is None:  # the first image comes after the imports
            last = (time.monotonic(), _processor_seconds(process.pid), done)
        if last and done >= (len(rows) + 1) * total // TENTHS and done > last[2]:
            try:
                now = (time.monotonic(), _processor_seconds(process.pid), done)
                memory = _resident_bytes(process.pid)
            except OSError:  # it has ended
                break
            count = now[2] - last[2]
            rows.append(
                {
                    "images": done,
                    "resident_bytes": memory,
                    "seconds_per_image": (now[0] - last[0]) / count,
                    "processor_seconds_per_image": (now[1] - last[1]) / count,
                }
            )
            last = now
    if file is not None:
        file.close()
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
    table = Table("images", "resident MiB", "ms an image", "processor ms an image")
    for row in rows:
        table.add_row(
            f"{row['images']:,}",
            f"{row['resident_bytes'] / 2**20:.0f}",
            f"{1000 * row['seconds_per_image']:.2f}",
            f"{1000 * row['processor_seconds_per_image']:.2f}",
        )
    Console().print(table)
    first, last = rows[0], rows[-1]
    change = {key: last[key] / first[key] - 1 for key in first if key != "images"}
    wall, processor = change["seconds_per_image"], change["processor_seconds_per_image"]
    print(
        f"last tenth against first: memory {change['resident_bytes']:+.1%}, time an image "
        f"{wall:+.1%}, processor time {processor:+.1%}"
    )


if __name__ == "__main__":
    main()
