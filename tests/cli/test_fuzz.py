"""Thousands of broken images, checkpoints, configs and tables: a result, or one clear line.

``PADIM_FUZZ=10000 pytest tests/test_fuzz.py -s`` runs that many cases and prints how they ended.
"""

import copy
import math
import os
import pickle
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from _helpers import fuzzing
from _helpers.fuzzing import Case, outcome
from _helpers.paper import paper
from _helpers.sweeps import write_scores
from _helpers.trees import build_tree
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

import padim_lit
from padim_lit import JL, Backbone, Detector, InputError
from padim_lit.analysis.result_files import PREDICTIONS
from padim_lit.analysis.sweep_results import read_sweeps
from padim_lit.checkpoint.format import SHA256, read
from padim_lit.checkpoint.state import save_detector
from padim_lit.cli import config
from padim_lit.cli.build import make_data, make_model
from padim_lit.cli.messages import one_line
from padim_lit.cli.modes.fit import Fit
from padim_lit.cli.overrides import as_typed, folders, read_overrides
from padim_lit.data.items import Item, ItemDataset
from padim_lit.data.transform import ResizeCrop
from padim_lit.deploy.calibration import Measured, calibrate
from padim_lit.deploy.prediction_log import ScoredFiles, Version
from padim_lit.sweep import jobs
from padim_lit.sweep.run_store import RunResult, RunStore
from padim_lit.system.atomic import write_csv, write_json
from padim_lit.viewer.folders import describe_run

COUNT = int(os.environ.get("PADIM_FUZZ", 300))
SEED = int(os.environ.get("PADIM_FUZZ_SEED", 0))
#: Shares of the kinds of cases.
SHARES = {"images": 0.4, "checkpoints": 0.3, "configs": 0.1, "tables": 0.2}
SIDE = 32


def cases_of(kind: str) -> int:
    return max(1, round(COUNT * SHARES[kind]))


def run_all(kind: str, cases: Iterable[Case]) -> Counter[str]:
    """Every case's outcome counted; all that go wrong are in one failure."""
    ends, wrong = Counter(), []
    for case in cases:
        try:
            ends[outcome(case)] += 1
        except AssertionError as error:
            wrong.append(str(error))
    print(f"\n{kind}: {ends.total() + len(wrong)} cases, {dict(ends)}, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong[:20])
    return ends


@pytest.fixture(scope="module")
def detector() -> Detector:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = Backbone("test_resnet", layers=[1, 2], weights="random")
        made = Detector(backbone, JL(backbone.embedding_dim, 3), (SIDE, SIDE), **paper(3))
        x, known = torch.rand(9, made.positions, 3), torch.randint(256, (9, 16)).byte()
        means = torch.zeros(2, made.positions, 3)
        state = made.empty_state()
        moments, _ = made.density.update_moments(state.moments, x, x[None], lambda every: every)
        made.set_state(state.update(moments, means).with_images(len(x), known))
    scores = torch.linspace(1, 2, 30)
    made.calibration = calibrate(Measured(scores, scores), 0.1)
    made.provenance = {
        "data": "x",
        "image_size": SIDE,
        "crop_size": SIDE,
        "history": [{"mode": "fit"}],
    }
    return made


@pytest.fixture(scope="module")
def whole(detector, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "model.ckpt"
    save_detector(detector, path)
    return path.read_bytes()


# --- Images ------------------------------------------------------------------------------------


def image_cases(detector: Detector, folder: Path, count: int) -> Iterator[Case]:
    predictor = padim_lit.Predictor(detector)
    views = [ResizeCrop(SIDE, SIDE), ResizeCrop(SIDE, None), ResizeCrop(SIDE + 8, SIDE)]

    def as_data(path: Path, look: int) -> None:
        data = ItemDataset([Item(path)], views[look])
        image = data[0]["image"][None]
        assert image.shape == (1, 3, SIDE, SIDE) and image.isfinite().all()

    def as_prediction(path: Path) -> None:
        found = predictor(path)
        assert math.isfinite(found.score) and np.isfinite(found.map).all()

    for n, (name, content) in enumerate(fuzzing.image_files(count, SEED)):
        path = folder / name
        path.write_bytes(content)
        run = (lambda p=path: as_prediction(p)) if n % 2 else lambda p=path, n=n: as_data(p, n % 3)
        yield Case(name, run, name)
        path.unlink()


@pytest.mark.slow
def test_images(detector, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # it warns of tags that it skips
        warnings.filterwarnings("ignore", ".*bomb.*")
        ends = run_all("images", image_cases(detector, tmp_path, cases_of("images")))
    assert ends["done"] > 20 and ends["refused"] > cases_of("images") / 4


def test_a_scan_line_is_cropped_without_the_rest(tmp_path, monkeypatch):
    fuzzing.Image.new("L", (60_000, 1), 7).save(path := tmp_path / "line.png")
    seen = padim_lit.data.items.prepare(Item(path), ResizeCrop(256, 224)).pixels
    assert seen.shape == (224, 224, 3) and (seen == 7).all()  # resized whole: 4·10⁹ pixels
    noise = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    image, look = fuzzing.Image.fromarray(noise), ResizeCrop(64, 48)
    whole = np.asarray(look.image(image)).astype(int)
    monkeypatch.setattr("padim_lit.data.transform.MOST_PIXELS", 64 * 64)
    part = np.asarray(look.image(image))  # 64×88 pixels before the crop
    assert part.shape == whole.shape and 0 < abs(part - whole).max() <= 1


@pytest.mark.parametrize("size", [10_000, 10**9, [1, 2**31]])
def test_a_view_has_an_end(size):
    with pytest.raises(InputError, match=r"more than 67108864 pixels|from 1 to 67108864"):
        ResizeCrop(size, None)


def test_a_strip_of_a_line_scan_camera_is_no_larger_than_its_pixels():
    assert ResizeCrop([256, 16_384], None).output_shape == (256, 16_384)
    assert ResizeCrop([256, 16_384], [256, 16_000]).output_shape == (256, 16_000)


# --- Checkpoints -------------------------------------------------------------------------------


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def checkpoint_cases(whole: bytes, folder: Path, count: int) -> Iterator[Case]:
    random, path = Random(SEED), folder / "broken.ckpt"
    content = torch.load(BytesIO(whole), weights_only=True, map_location="cpu")
    marker, pixels = folder / "harmed", np.zeros((SIDE, SIDE, 3), np.uint8)

    def unchanged() -> None:
        found = read(path)
        del found[SHA256]  # of the file, its padding too
        assert same(found, content), "silently another content"

    def usable() -> None:
        found = padim_lit.load(path)(pixels)
        assert math.isfinite(found.score) and np.isfinite(found.map).all()

    path.write_bytes(whole)
    usable()
    for n in range(count):
        kind, run = random.random(), unchanged
        if kind < 0.55:  # the middle of the file is tensors
            where = "bits"
            path.write_bytes(fuzzing.flip(whole, random, random.choice([1, 1, 1, 3, 40])))
        elif kind < 0.65:
            where = "bytes"
            path.write_bytes(fuzzing.damaged(whole, whole, random))
        elif kind < 0.75:
            # With checksums that fit, so that another content may be found, but no broken one.
            where, run = "records", usable
            path.write_bytes(fuzzing.with_other_records(whole, random))
        elif kind < 0.8:
            where = "pickle"
            changed = {**content, random.choice(list(content)): fuzzing.Harmful(marker)}
            torch.save(changed, path) if n % 2 else path.write_bytes(pickle.dumps(changed))
        else:
            changed, run = copy.deepcopy(content), usable
            where = fuzzing.with_something_strange(changed, random)
            torch.save(changed, path)
        yield Case(f"checkpoint {n}, {where}", run, "broken.ckpt")
        assert not marker.exists(), f"checkpoint {n}: a pickle was executed"


@pytest.mark.slow
def test_checkpoints(whole, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch")
        ends = run_all("checkpoints", checkpoint_cases(whole, tmp_path, cases_of("checkpoints")))
    # What is not noticed are dates, padding and the like.
    assert ends["refused"] > 0.8 * ends.total()


# --- Configs -----------------------------------------------------------------------------------

VALUES = (
    "null", "true", "-1", "0", "1", "3", "7", "32", "1000000", "99999999999999999999", "0.5",
    "-0.5", "1e300", "nan", "inf", "-inf", "abc", "''", "'ü ß'", "[]", "[1]", "[1,2]", "[32,32]",
    "[null]", "[a,b]", "{a:1}", "auto", "max", "topk", "random", "nowhere/at.all", "../..",
    "/dev/null", "'\\x00'", "jl", "1,2", "${dim}", "${nothing}", "${oc.env:HOME}",
)  # fmt: skip
TREE = ["backbone=timm", "backbone.name=test_resnet", "backbone.weights=random", "proj=jl", "dim=4",
        "data=folder", "image_size=32", "crop_size=32", "trainer=cpu", "logger=none"]  # fmt: skip
INNER = ("backbone.layers", "backbone.weights", "backbone.name", "backbone.model", "backbone",
         "backbone.feature_location", "data.root", "data", "proj", "proj.name", "proj.density",
         "proj.fit_images", "proj.shrinkage", "proj.sketch", "data.category", "nothing",
         "data.nothing",
         "trainer.max_epochs", "+more", "+proj.more", "~dim", "~data.root", "++seed", "hydra.job",
         "backbone._target_", "proj._target_", "data._target_")  # fmt: skip


def config_cases(root: Path, count: int) -> Iterator[Case]:
    random = Random(SEED)
    keys = [field.name for field in fields(Fit)] + 2 * list(INNER)
    whole = [*TREE, f"data.root={root}"]

    def run(words: list[str]) -> None:
        try:
            words = as_typed(words)
            folders(read_overrides(words))
            # All that mode=fit makes and checks before the first image is fitted.
            settings = config.settings_of(compose("config", words), words)
            data = make_data(settings, settings.size)
            model = make_model(settings, data)
            assert model.detector.positions > 0
        except (HydraException, OmegaConfBaseException, OSError, InputError) as error:
            raise InputError(one_line(error)) from None  # as run.py does

    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        run(whole)
        for _ in range(count):
            changed = [
                f"{random.choice(keys)}={random.choice(VALUES)}"
                for _ in range(random.choice([1, 1, 1, 2, 4]))
            ]
            changed = [w.partition("=")[0] if w.startswith("~") else w for w in changed]
            yield Case(" ".join(changed), lambda w=changed: run(whole + w), "")


@pytest.mark.slow
def test_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a picture cache is made where the config says
    root = build_tree(tmp_path / "data", train=3, test={"good": 1, "crack": 1})
    ends = run_all("configs", config_cases(root, cases_of("configs")))
    assert ends["done"] > 0.05 * ends.total() and ends["refused"] > 0.3 * ends.total()


# --- Tables ------------------------------------------------------------------------------------


def a_sweep(folder: Path) -> None:
    """The files of an ablation, as `read_sweeps` takes them."""
    folder.mkdir()
    rows = [
        {"proj": p, "dim": d, "seed": 0, "data": "x", "backbone": "y", "test/image_auroc": 0.9}
        for p in ("jl", "subset")
        for d in (2, 4)
    ]
    names = [f"{row['proj']}-{row['dim']}-0" for row in rows]
    scores = {name: np.arange(6) + 0.5 for name in names}
    write_scores(folder, [f"{n}.png" for n in range(6)], scores)
    np.savez(folder / "resamples.npz", **{name: np.full((2, 5), 0.5, "f4") for name in names})
    write_json(folder / "rows.json", rows)


def table_cases(folder: Path, count: int) -> Iterator[Case]:
    random = Random(SEED)
    a_sweep(folder / "sweep")
    model = {"ckpt": "a", "threshold": 1.0}

    def scored() -> None:
        folder.mkdir(exist_ok=True)
        found = ScoredFiles(folder / "scored", model, resume=True)
        found.close()
        assert found.counts.total() >= len(found.done)  # of each path the last

    first = ScoredFiles(folder / "scored", model, resume=False)
    for n in range(6):
        decision = "anomalous" if n > 3 else "good"
        found = {"score": n / 7, "p_value": 0.5, "decision": decision, "threshold": 1.0}
        first.add(Version(f"{n}.png", n, n), found)
    first.close()

    def swept() -> None:
        for sweep in read_sweeps([folder / "sweep"]):
            found, _ = sweep.scores, sweep.resamples
            for row in sweep.rows:
                assert isinstance(row.dim, int) and isinstance(row.proj, str)
            assert found is None or all(len(s) == len(found.path) for s in found.scores.values())

    store = RunStore(folder / "ablation", "f")
    result = RunResult([{"dim": 2}, {"dim": 4}], {"jl-2-0": np.ones(5)}, {"jl-2-0": np.ones(3)})
    store.save("jl-0", result)

    def run_of_it() -> None:
        found = store.load("jl-0", [2, 4])
        if found is not None:
            assert found.rows == result.rows, "silently another row"
            for ours, theirs in (
                (found.scores, result.scores),
                (found.resamples, result.resamples),
            ):
                assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)

    def job() -> None:
        jobs.is_done(folder / "job", "metrics.json", {"a": 1})

    (folder / "job").mkdir()
    for name in ("metrics.json", "job.json"):
        (folder / "job" / name).write_text('{"a": 1}')
    rows = [(f"{n}.png", "good", 0, n + 0.5, 0.5, "good") for n in range(6)]
    rows = [dict(zip(PREDICTIONS, row, strict=True)) for row in rows]
    write_csv(folder / "run/predictions.csv", list(PREDICTIONS), rows)
    about = {"data": "d", "backbone": "b", "weights": "w", "proj": "jl", "dim": 9, "seed": 0}
    write_json(folder / "run/metrics.json", about)
    targets = [
        ("sweep/rows.json", swept), ("sweep/scores.npz", swept), ("sweep/resamples.npz", swept),
        ("run/predictions.csv", lambda: describe_run(folder / "run", 1)),
        ("scored/predictions.jsonl", scored), ("scored/model.json", scored),
        ("ablation/runs/f/jl-0.npz", run_of_it), ("job/job.json", job),
    ]  # fmt: skip
    for n in range(count):
        name, run = targets[n % len(targets)]
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(
            with_other_cells(whole, random)
            if path.suffix == ".csv" and random.random() < 0.6
            else fuzzing.damaged(whole, whole, random)
        )
        yield Case(f"{name} {n}", run, path.parent.name)
        path.write_bytes(whole)


def with_other_cells(content: bytes, random: Random) -> bytes:
    """A table with a cell changed, or rows and columns dropped or doubled."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    strange = ["", "nan", "inf", "-1", "1e999", "x", '"', "0", "99999999999999999999", "é\u2028"]
    for _ in range(random.choice([1, 1, 3])):
        how, i = random.randrange(4), random.randrange(len(rows))
        j = random.randrange(len(rows[i])) if rows[i] else 0
        if how == 0 and len(rows) > 1:
            del rows[i]
        elif how == 1:
            rows.insert(random.randrange(len(rows)), list(rows[i]))
        elif how == 2 and rows[i]:
            rows[i][j] = random.choice(strange)
        else:
            rows = [row[:j] + row[j + 1 :] for row in rows]
    return "\n".join(",".join(row) for row in rows).encode() + b"\n"


def test_tables(tmp_path):
    ends = run_all("tables", table_cases(tmp_path, cases_of("tables")))
    assert ends["refused"] > 0.2 * ends.total() and ends["done"] > 0
