"""How often the printed false-alarm interval is true, over random splits of good images.

python -m benchmarks thresholds --screw DATA/mvtec_ad/screw --tiles DATA/magnetic_tile

Of each data set N good images are drawn, fitted and given a threshold as a fit does it; all others
(at most --fresh) are scored. A cell says how many of these alarm on the average, and in which share
of the splits they are more or fewer than the printed interval allows: where the true rate is Beta
distributed as it says, the alarms among M images are beta-binomial, and each side should be 2.5 %.
The backbone runs once over all images.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import betabinom
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.rows import parser_of, show
from padim_lit import Backbone, Detector
from padim_lit.data import ELPV
from padim_lit.data.datasets.mtd import _tiles
from padim_lit.data.items import Item, ItemDataset
from padim_lit.data.transform import ResizeCrop
from padim_lit.deploy.calibration import ENDS, calibrate
from padim_lit.deploy.left_out import Remembered, measure, measure_training
from padim_lit.deploy.over_images import Loop
from padim_lit.model.calibration import Calibration
from padim_lit.model.density import DENSITIES
from padim_lit.model.projection import PROJECTIONS
from padim_lit.model.rotations import turned
from padim_lit.model.warm_up import evenly_spaced, learn

RATES = (0.01, 0.05, 0.1)
TAIL = ENDS[0]
CPU = torch.device("cpu")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--screw", type=Path, help="MVTec AD's category")
    parser.add_argument("--tiles", type=Path, help="Magnetic Tile's folder")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 40, 60, 100, 300])
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--fresh", type=int, default=300)
    parser.add_argument("--proj", default="jl")
    parser.add_argument("--density", default="both", choices=DENSITIES)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--location", default="bottleneck", help="or expansion: wider features")
    parser.add_argument("--dim", type=int, default=50)
    parser.add_argument("--grid", type=int, default=14)
    parser.add_argument("--rotations", type=int, default=1)
    args = parser.parse_args()
    backbone = Backbone("tf_efficientnet_lite0", args.layers, feature_location=args.location).eval()
    print(
        f"density={args.density}, proj={args.proj}, D = {args.dim}, C = {backbone.embedding_dim}, "
        f"rotations={args.rotations}"
    )
    rows, start = [], time.perf_counter()
    for name, paths, groups, look in data_sets(args.screw, args.tiles):
        known = looked_at(backbone, paths, look, args)
        for count in args.sizes:
            found = {True: [], False: []}
            for seed in range(args.splits):
                train, fresh = split(len(paths), count, seed, groups)
                detector = fitted(known, train, args)
                scores = score(detector, fresh[: args.fresh])
                loop = Loop(CPU, 32)
                true = measure_training(detector, images(train), 500, loop)
                plain = measure(detector, batches(train))
                for again, good in ((True, true), (False, plain)):
                    found[again].append([judged(calibrate(good, r), scores) for r in RATES])
            for again, all_splits in found.items():
                cells = [name, str(count), "yes" if again else "no"]
                for each in zip(*all_splits, strict=True):
                    asked, alarms, more, fewer = np.mean(each, axis=0)
                    cells.append(f"{asked:.1%}: {alarms:.1%}, {more:.0%} / {fewer:.0%}")
                rows.append(cells)
                print(*cells, f"{time.perf_counter() - start:.0f} s", flush=True)
    columns = ("good images of", "N", "learnt again", *(f"{rate:.0%}" for rate in RATES))
    show(columns, rows, width=110)


def data_sets(screw: Path | None, tiles: Path | None):
    """Name, paths, groups that stay together, and how an image is looked at."""
    if screw:
        paths = sorted(screw.glob("train/good/*")) + sorted(screw.glob("test/good/*"))
        yield "screw", paths, None, ResizeCrop(256, 224)
    if tiles:
        paths = sorted((tiles / "MT_Free/Imgs").glob("*.jpg"))
        yield "Magnetic Tile", paths, None, ResizeCrop(224, None)
        groups = _tiles([path.stem for path in paths])
        yield "Magnetic Tile, whole tiles", paths, groups, ResizeCrop(224, None)
    data = ELPV()
    items = [*data.train_items, *(item for item in data.test_items if not item.label)]
    yield "ELPV, mono", [item.path for item in items], None, ResizeCrop(256, 224)


class Coarse(Backbone):
    """A backbone whose maps are averaged down to a grid."""

    def __init__(self, backbone: Backbone, grid: int):
        self.__dict__.update(vars(backbone))  # it shares the layers
        self.grid = grid

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.adaptive_avg_pool2d(maps, self.grid) for maps in super().forward(images)]


def looked_at(
    backbone: Backbone, paths: Sequence[Path], look: ResizeCrop, args: argparse.Namespace
) -> Remembered:
    """The backbone, whose images are now the numbers of `paths`."""
    images = DataLoader(ItemDataset([Item(path) for path in paths], look), 32)
    ways = partial(turned, rotations=args.rotations)
    with torch.no_grad():
        coarse = Coarse(backbone, args.grid)
        return Remembered(coarse, (batch["image"] for batch in images), ways)


def split(total: int, count: int, seed: int, groups: Sequence | None) -> tuple[list, list]:
    """`count` numbers to fit, in order, and the others, at random; groups are not split."""
    order = np.random.default_rng(seed).permutation(total).tolist()
    if groups is None:
        return sorted(order[:count]), order[count:]
    names = list(dict.fromkeys(groups[i] for i in order))
    members = {name: [i for i in order if groups[i] == name] for name in names}
    train: list[int] = []
    while len(train) < count:
        train += members[names.pop(0)]
    return sorted(train[:count]), [i for i in order if groups[i] in set(names)]


def images(numbers: Sequence[int]) -> list[dict[str, Tensor]]:
    return [{"image": torch.tensor(number)} for number in numbers]


def batches(numbers: Sequence[int]) -> list[dict[str, Tensor]]:
    return [{"image": part} for part in torch.tensor(numbers).split(32)]


def fitted(backbone: Remembered, train: Sequence[int], args: argparse.Namespace) -> Detector:
    projection = PROJECTIONS[args.proj](backbone.embedding_dim, args.dim)
    density = DENSITIES[args.density](args.dim)
    # No image is left to measure an alignment on; scores of topk do not depend on it.
    how = {"grid": args.grid, "rotations": args.rotations, "alignment": None}
    detector = Detector(backbone, projection, density=density, **how)
    detector.turned = backbone.turned
    learn(detector, lambda images: batches([train[i] for i in evenly_spaced(len(train), images)]))
    state = detector.empty_state()
    for batch in batches(train):
        state = detector.update_state(state, batch)
    detector.set_state(state)
    return detector


def score(detector: Detector, numbers: Sequence[int]) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([detector(b["image"])[0] for b in batches(numbers)]).numpy()


def judged(known: Calibration, fresh: np.ndarray) -> tuple[float, float, bool, bool]:
    """The rate that was asked for as far as there are images, that of fresh ones, more, fewer."""
    alarms, total, good = int((fresh >= known.threshold).sum()), len(fresh), len(known.scores)
    rate = max(known.false_alarm_rate, 1 / (good + 1))
    above = good - int((known.scores.numpy() < known.threshold).sum())
    law = betabinom(total, above + 1, good - above)
    return rate, alarms / total, law.sf(alarms - 1) < TAIL, law.cdf(alarms) < TAIL


if __name__ == "__main__":
    main()
