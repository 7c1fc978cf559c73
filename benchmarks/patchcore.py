"""Ours beside anomalib's PatchCore: same images, same frozen backbone, same metrics.

    python -m benchmarks patchcore data=mvtec data.root=DIR data.category=screw \
        --anomalib ENV/bin/python --json out.json

ENV is a virtual environment with `pip install anomalib==2.7.0`. KEY=VALUEs are those of ``run.py``
and say what ours is; PatchCore takes their data, images' size and backbone, whose block outputs of
`--layers` it reads, and with ``rotations=8`` their images in all eight directions. Each contestant
runs in a process of its own (`contest`), on one core, and its raw scores and maps are judged here.
Rows that the file has already stay where this call does not measure them anew: without --anomalib
it measures ours alone, and no coreset is chosen again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from benchmarks.bare import as_timm_makes_it, as_timm_runs_it
from benchmarks.contest import FIT_BATCH, batches, take_part
from benchmarks.rows import parser_of, show
from padim_lit.checkpoint.state import facts_of
from padim_lit.cli import config
from padim_lit.cli.build import make_data, make_model
from padim_lit.cli.main import one_line_errors
from padim_lit.cli.settings import Settings
from padim_lit.cli.targets import instantiate
from padim_lit.data import AnomalyData
from padim_lit.metric_names import METRICS
from padim_lit.metrics import ImageMetrics, PixelMetrics
from padim_lit.model.rotations import turned
from padim_lit.model.warm_up import evenly_spaced
from padim_lit.system.memory import keep_freed_memory, readable

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--anomalib", type=Path, help="python of an environment that has it")
    parser.add_argument("--coresets", type=float, nargs="*", default=[0.01, 0.1])
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 3], help="of PatchCore")
    parser.add_argument("--images", type=int, nargs="+", help="to fit to; all by default")
    parser.add_argument(
        "--device", default="cpu", help='of both: "cuda"; keep its rows in a file of their own'
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments, words = parser.parse_known_args()
    if arguments.folder:
        take_part(Ours(words, arguments.device), arguments.folder)
        return
    settings = settings_of(words)
    data = make_data(settings, settings.size)
    table = Results({**data.facts, "backbone": settings.backbone["name"]}, arguments.json)
    for images in arguments.images or [len(data.train_items)]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_images(folder, data, images)
            ours = [sys.executable, "-m", "benchmarks", "patchcore", *words, "--folder", scratch,
                    "--device", arguments.device]  # fmt: skip
            said = [word for word in words if not word.startswith(("data", "backbone.weights"))]
            table.add(measure(ours, folder, data, images, who=" ".join(["padim_lit", *said])))
            rotations = settings.rotations
            if rotations > 1:  # ours has turned them itself
                turn_images(folder, rotations)
            for coreset in arguments.coresets if arguments.anomalib else ():
                write_backbone(folder, settings, arguments.layers, coreset, arguments.device)
                theirs = [str(arguments.anomalib), "-m", "benchmarks.anomalib_patchcore", scratch]
                who = f"PatchCore {100 * coreset:g} %"
                if rotations > 1:
                    who += f" rotations={rotations}"
                table.add(measure(theirs, folder, data, images, who))
    table.show()


def settings_of(words: list[str]) -> Settings:
    """What ``run.py`` makes of these words."""
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return config.settings_of(compose("config", words), words)


class Ours:
    """As ``run.py`` fits it, less the threshold, which PatchCore has none of."""

    def __init__(self, words: list[str], device: str):
        keep_freed_memory()  # as run.py does
        settings = settings_of(words)
        self.model = make_model(settings, make_data(settings, settings.size))
        self.model.calibration = 0
        self.detector, self.device = self.model.detector, torch.device(device)
        self.model.to(self.device)
        self.alone = as_timm_runs_it(self.detector.backbone)

    def bare(self, images: Tensor) -> Any:
        return self.alone(images)

    def fit(self, pixels: np.ndarray) -> dict[str, Any]:
        trainer = Trainer(
            max_epochs=1, accelerator=self.device.type, devices=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(self.model, DataLoader(Pixels(pixels), FIT_BATCH))
        self.model.to(self.device)
        known = facts_of(self.detector)
        return {key: known[key] for key in ("proj", "dim", "density", "neighbourhood", "rotations")}

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.detector(images)

    def nbytes(self) -> int:
        return self.detector.state_bytes + self.detector.projection.matrix.nbytes


class Pixels(Dataset[dict[str, Tensor]]):
    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": next(batches(self.pixels[index : index + 1], 1))[0]}


def write_images(folder: Path, data: AnomalyData, images: int) -> None:
    """``train.npy``, so many and evenly spread, and ``test.npy``."""
    chosen = evenly_spaced(len(data.train_items), images)
    train = Subset(data.train_dataloader().dataset, chosen)
    for name, dataset in {"train": train, "test": data.test_dataloader().dataset}.items():
        pixels = [(255 * one["image"]).round().byte().permute(1, 2, 0) for one in dataset]
        np.save(folder / f"{name}.npy", torch.stack(pixels).numpy())


def turn_images(folder: Path, rotations: int) -> None:
    """Each image of ``train.npy`` in all directions."""
    pixels, found = np.load(folder / "train.npy"), []
    for images in batches(pixels, FIT_BATCH):
        ways = torch.stack(list(turned(images, rotations)), dim=1).flatten(0, 1)
        found.append((255 * ways).round().byte().permute(0, 2, 3, 1).numpy())
    np.save(folder / "train.npy", np.concatenate(found))


def write_backbone(
    folder: Path, settings: Settings, layers: list[int], coreset: float, device: str
) -> None:
    """What `anomalib_patchcore` reads: timm's state dict, mean and std of the colours, layers."""
    node = {**settings.backbone, "layers": layers, "feature_location": None}
    backbone = instantiate(node, seed=settings.seed)
    colours = {"mean": backbone.pixel_mean, "std": backbone.pixel_std}
    # anomalib's extractor has all stages too.
    torch.save(as_timm_makes_it(backbone).net.state_dict() | colours, folder / "backbone.pt")
    about = {"model": backbone.model, "layers": layers, "coreset": coreset, "device": device}
    (folder / "about.json").write_text(json.dumps(about))


def measure(
    command: list[str], folder: Path, data: AnomalyData, images: int, who: str
) -> dict[str, Any]:
    """A contestant's row, from a process of its own."""
    print(f"{who} ...", file=sys.stderr)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=alone, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}\nerror: {who} failed")
    return {"who": who, "images": images, **row_of(folder, data, images)}


def row_of(folder: Path, data: AnomalyData, images: int) -> dict[str, Any]:
    """What a contestant has left in `folder`, and how its scores and maps are judged.

    Args:
        images: photos that it was fitted to, turned or not.
    """
    with np.load(folder / "found.npz") as found:
        scores, maps = (torch.from_numpy(found[name]) for name in ("scores", "maps"))
    row = json.loads((folder / "row.json").read_text())
    ratio = {"fit_ratio": 1e3 * row["fit_s"] / row["backbone_ms"] / images}
    return {**judged(data, scores, maps), **row, **ratio}


def judged(data: AnomalyData, scores: Tensor, maps: Tensor) -> dict[str, float | None]:
    """The metrics of raw scores (N,) and maps (N,h,w) of the test images, as a run has them."""
    image, pixel, start = ImageMetrics(), PixelMetrics(), 0
    for batch in data.test_dataloader():
        stop = start + len(batch["label"])
        part, start = slice(start, stop), stop
        counted, known = batch["count_image"], batch["count_pixel"]
        image.update(scores[part][counted], batch["label"][counted])
        pixel.update(maps[part][known], batch["mask"][known])
    found = {**image.compute(), **pixel.compute()}
    return {name: found[name] for name in (key.removeprefix("test/") for key in METRICS)}


class Results:
    """Rows, and their file, which is written after each."""

    def __init__(self, facts: dict[str, Any], path: Path | None):
        self.path, self.facts, self.rows = path, facts, []
        self.read()

    def read(self) -> None:
        if not self.path or not self.path.exists():
            return
        known = json.loads(self.path.read_text())
        # A file may be older than a fact; then it lacks that one.
        if not known["facts"].items() <= self.facts.items():
            about = f"{self.path} is about other data: {known['facts']}"
            sys.exit(f"error: {about}; give another --json")
        self.rows = known["rows"]

    def add(self, row: dict[str, Any]) -> None:
        self.read()  # hours may have passed, and another call may have added its own
        key = row["who"], row["images"]
        self.rows = [old for old in self.rows if (old["who"], old["images"]) != key] + [row]
        if self.path:
            content = {"facts": self.facts, "rows": self.rows}
            self.path.write_text(json.dumps(content, indent=1) + "\n")

    def show(self) -> None:
        what = f"{self.facts['data']}, {self.facts['backbone']}"
        whose = next((r["device"] + "'s" for r in self.rows if "device" in r), "one core's")
        columns = ("", "N", "image AUROC", "pixel AUROC", "AUPRO", "state", "fit s", "÷")
        score = ("score ms, batch 1", "÷", "batch 8", "÷")
        rows = sorted(self.rows, key=lambda row: (row["images"], row["who"]))
        title = f"{what}; times are {whose}, ÷ is over the bare backbone"
        show((*columns, *score, "peak of the fit"), map(cells_of, rows), title, width=150)


def cells_of(row: dict[str, Any]) -> list[str]:
    aurocs = (row[name] for name in ("image_auroc", "pixel_auroc", "pixel_aupro"))
    cells = [row["who"], str(row["images"]), *("–" if a is None else f"{a:.3f}" for a in aurocs)]
    cells += [readable(row["bytes"]), f"{row['fit_s']:.1f}", f"{row['fit_ratio']:.2f}"]
    for size in (1, 8):
        cells += [f"{row[f'score_ms_{size}']:.1f}", f"{row[f'score_ratio_{size}']:.2f}"]
    return [*cells, readable(row["peak_bytes"])]


if __name__ == "__main__":
    with one_line_errors(debugging=False):
        main()
