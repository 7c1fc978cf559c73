"""PaDiM as a library: a plain Trainer, checkpoints, and the numbers against a naive float64 fit."""

import pickle
import re
import subprocess
import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from _helpers.paper import paper
from _helpers.trees import build_tree
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    ModelCheckpoint,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
)
from torchvision.transforms.functional import to_pil_image

import padim_lit
from padim_lit import JL, NPCA, Backbone, Both, Fisher, InputError, PaDiM, Subset
from padim_lit.checkpoint.state import full_state, restore, save_detector, slim_state
from padim_lit.data import Folder, loaders
from padim_lit.data.loaders import require_as_many, require_each_once
from padim_lit.model.detector import Detector

ROOT = Path(__file__).parents[1]

# Lightning has the argument since 2.6; without it 2.5 reads any pickle here, 2.6 none.
SAFE = {"weights_only": True} if "weights_only" in signature(Trainer.test).parameters else {}


def batches(n, seed=0, batch=4, bad=()):
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for i in range(n):
        image = torch.rand(3, 64, 64, generator=generator) * 0.2 + 0.4
        mask = torch.zeros(64, 64, dtype=torch.bool)
        if i in bad:
            mask[20:36, 20:36] = True
            image[:, mask] = 1.0
        samples.append(
            {
                "image": image,
                "mask": mask,
                "label": int(i in bad),
                "count_image": True,
                "count_pixel": True,
                "path": f"{i}.png",
            }
        )
    return DataLoader(samples, batch_size=batch)


def trainer(tmp_path, **kwargs):
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        **kwargs,
    )


def make(projection=JL, dim=10, grid=None, **kwargs):
    backbone = Backbone("test_resnet", weights="random")
    projection = projection(backbone.embedding_dim, dim, seed=0)
    how = paper(projection.dim, grid=grid, **kwargs)
    return PaDiM(backbone, projection, image_shape=(64, 64), **how)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    model = make()
    run = trainer(tmp_path_factory.mktemp("fit"))
    run.fit(model, batches(24))
    run.test(model, batches(12, seed=1, bad=(3, 8)), verbose=False)
    return model


@pytest.mark.parametrize("projection", [JL, Subset])
def test_scores_equal_padim_written_out_in_float64(tmp_path, projection):
    model = make(projection)
    trainer(tmp_path).fit(model, batches(24))

    def embedding(loader):
        images = torch.cat([b["image"] for b in loader])
        maps = [f.double() for f in model.detector.backbone(images)]
        full = torch.cat([F.interpolate(f, size=maps[0].shape[-2:]) for f in maps], dim=1)
        x = torch.einsum("dc,bchw->bhwd", model.detector.projection.matrix.double(), full)
        return x.flatten(1, 2).numpy()

    train, test = embedding(batches(24)), embedding(batches(5, seed=2, bad=(1,)))
    distances = np.empty(test.shape[:2])
    for p in range(train.shape[1]):
        covariance = np.cov(train[:, p], rowvar=False) + 0.01 * np.eye(10)
        y = test[:, p] - train[:, p].mean(axis=0)
        distances[:, p] = np.sqrt(np.einsum("bd,de,be->b", y, np.linalg.inv(covariance), y))
    expected = model.detector.anomaly_map(torch.from_numpy(distances).float())
    images = torch.cat([b["image"] for b in batches(5, seed=2, bad=(1,))])
    score, anomaly_map = model(images)
    torch.testing.assert_close(anomaly_map, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(score, expected.flatten(1).amax(1), rtol=1e-4, atol=1e-4)
    assert int(score.argmax()) == 1


def test_a_planted_square_is_found_and_located(fitted):
    assert fitted.results["image_auroc"] == 1
    assert fitted.results["pixel_auroc"] > 0.95
    assert 0 < fitted.results["pixel_aupro"] <= 1


def test_batch_size_changes_nothing_but_rounding(tmp_path, fitted):
    other = make()
    trainer(tmp_path).fit(other, batches(24, batch=7))
    assert other.detector.count == fitted.detector.count == 24
    torch.testing.assert_close(other.detector.mean, fitted.detector.mean, rtol=1e-6, atol=1e-7)
    images = torch.cat([b["image"] for b in batches(6, seed=3)])
    together, _ = fitted(images)
    alone = torch.cat([other(image[None])[0] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_a_second_fit_starts_anew(tmp_path):
    model = make()
    trainer(tmp_path).fit(model, batches(8))
    first = model.detector.whitening.pack()
    trainer(tmp_path).fit(model, batches(8))
    assert model.detector.count == 8
    assert torch.equal(first, model.detector.whitening.pack())


@pytest.mark.slow
def test_a_coarser_grid_quarters_the_state():
    assert make(grid=8).detector.positions * 4 == make().detector.positions
    assert make(grid=8).detector.state_bytes * 4 == make().detector.state_bytes
    assert make(grid="auto").detector.map_grid == (8, 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Fisher, NPCA])
def test_what_learns_does_so_before_the_fit(tmp_path, kind):
    model = make(kind)
    trainer(tmp_path).fit(model, batches(24))
    images = next(iter(batches(4, seed=5)))["image"]
    matrix, whitening = model.detector.projection.matrix.clone(), model.detector.whitening.pack()
    assert matrix.any()
    x = torch.cat([model.detector.embed(b["image"]) for b in batches(24)])
    torch.testing.assert_close(x.double().mean(dim=0), model.detector.mean, rtol=1e-4, atol=1e-5)
    run = trainer(tmp_path)
    run.strategy.connect(model)
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = PaDiM.load_from_checkpoint(tmp_path / "model.ckpt")
    assert torch.equal(again(images)[0], model(images)[0])
    trainer(tmp_path).fit(model, batches(24))
    assert torch.equal(model.detector.projection.matrix, matrix)
    torch.testing.assert_close(model.detector.whitening.pack(), whitening)


NEW_PROCESS = """
import sys, torch
from padim_lit import PaDiM
model = PaDiM.load_from_checkpoint(sys.argv[1])
images, score, maps = torch.load(sys.argv[2], weights_only=True)
torch.set_num_threads(int(sys.argv[3]))
again = model(images)
assert torch.equal(again[0], score) and torch.equal(again[1], maps), (again[0] - score).abs().max()
print("equal", model.detector.count)
"""


@pytest.mark.slow
def test_a_checkpoint_in_a_new_process_gives_the_same_bits(tmp_path, fitted):
    run = trainer(tmp_path)
    run.strategy.connect(fitted)
    run.save_checkpoint(tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)
    images = torch.cat([b["image"] for b in batches(6, seed=4)])
    torch.save((images, *fitted(images)), tmp_path / "expected.pt")
    out = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c", NEW_PROCESS),
            *(tmp_path / "model.ckpt", tmp_path / "expected.pt", str(torch.get_num_threads())),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert out.stdout.strip() == "equal 24", out.stderr


def test_a_checkpoint_loads_through_lightning_too_and_keeps_the_moments(tmp_path, fitted):
    run = trainer(tmp_path)
    run.strategy.connect(fitted)
    run.save_checkpoint(tmp_path / "model.ckpt")
    state = torch.load(tmp_path / "model.ckpt", weights_only=True)["padim_lit"]
    torch.testing.assert_close(
        tuple(state["whitening"]), fitted.detector.whitening.bands, rtol=0, atol=0
    )
    torch.testing.assert_close(
        tuple(state["scatter"]), fitted.detector.fit_state.moments.scatter.bands
    )
    other = make()
    trainer(tmp_path).test(
        other, batches(4), ckpt_path=tmp_path / "model.ckpt", verbose=False, **SAFE
    )
    assert torch.equal(other.detector.whitening.pack(), fitted.detector.whitening.pack())


def test_a_checkpoint_of_another_config_names_the_differences(tmp_path, fitted):
    run = trainer(tmp_path)
    run.strategy.connect(fitted)
    run.save_checkpoint(tmp_path / "model.ckpt")
    other = make(dim=12, eps=0.1)
    with pytest.raises(InputError, match=r"dim is 10 there and 12 here, eps is 0.01 there and 0.1"):
        trainer(tmp_path).test(other, batches(4), ckpt_path=tmp_path / "model.ckpt", **SAFE)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x.ckpt: not a readable checkpoint"):
        PaDiM.load_from_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="not a padim_lit checkpoint"):
        PaDiM.load_from_checkpoint(path)


def test_a_checkpoint_takes_lightnings_arguments_or_says_what_to_give(tmp_path, fitted):
    run = trainer(tmp_path)
    run.strategy.connect(fitted)
    run.save_checkpoint(path := tmp_path / "model.ckpt")
    for given in ({"strict": False}, {"weights_only": False}, {"map_location": None}):
        again = PaDiM.load_from_checkpoint(path, **given)
        assert torch.equal(again.detector.mean, fitted.detector.mean)
    for wrong in ({"cuda:0": "cpu"}, lambda storage, location: storage, "toaster"):
        with pytest.raises(InputError, match=r"map_location=.*: not to be had \(.*\); use cpu"):
            PaDiM.load_from_checkpoint(path, wrong)


def test_bad_arguments():
    backbone = Backbone("test_resnet", weights="random")
    with pytest.raises(InputError, match="takes C=271, test_resnet gives 272"):
        PaDiM(backbone, JL(271, 10))
    with pytest.raises(InputError, match="density takes D=16, the projection gives 10"):
        PaDiM(backbone, JL(272, 10), density=Both(16))
    with pytest.raises(InputError, match="eps=-1"):
        PaDiM(backbone, JL(272, 10), eps=-1)
    with pytest.raises(InputError, match="grid=57: must be between 1 and"):
        PaDiM(backbone, JL(272, 10), grid=57)


def test_scoring_before_the_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match="no Gaussians yet"):
        trainer(tmp_path).test(make(), batches(4))


def test_one_training_image_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least 2"):
        trainer(tmp_path).fit(make(), batches(1))


def test_a_part_that_is_no_subclass_of_ours_is_one_line():
    backbone = Backbone("test_resnet", weights="random")
    jl, net = JL(backbone.embedding_dim, 4), torch.nn.Conv2d(3, 8, 3)
    for parts, wanted in (
        ((net, jl), "Backbone"),
        ((backbone, net), "Projection"),
        ((backbone, jl, (64, 64), net), "Density"),
    ):
        with pytest.raises(InputError, match=f"^Conv2d is no {wanted}: make it one, as docs/own"):
            Detector(*parts)


def test_an_image_that_is_not_finite_is_named(tmp_path):
    loader = batches(8)
    loader.dataset[5]["image"][0, 3, 3] = float("nan")
    with pytest.raises(InputError, match=r"^5.png: its features or distances are not finite"):
        trainer(tmp_path).fit(make(), loader)


def test_precision_that_would_round_the_moments_is_refused(tmp_path):
    with pytest.raises(InputError, match="bf16-true"):
        trainer(tmp_path, precision="bf16-true").fit(make(), batches(4))


def test_mixed_precision_keeps_float32_moments(tmp_path):
    model = make()
    trainer(tmp_path, precision="bf16-mixed").fit(model, batches(8))
    assert (
        model.detector.fit_state.moments.scatter.dtype
        == model.detector.whitening.dtype
        == torch.float32
    )
    assert model.detector.mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("mask", torch.zeros(1, 64, 64), r"mask is \(4, 1, 64, 64\); it must be \(4, 64, 64\)"),
        ("mask", torch.zeros(32, 32), r"mask is \(4, 32, 32\); it must be \(4, 64, 64\)"),
        ("label", torch.tensor([1]), r"label is \(4, 1\); it must be \(4,\)"),
        ("label", 1.0, r"label holds \[1.0\] of torch.float64; it must be 0 for good"),
        ("label", 3, r"label holds \[3\] of torch.int64; it must be 0 for good"),
        ("count_pixel", torch.tensor([True]), r"count_pixel is \(4, 1\); it must be \(4,\)"),
    ],
)
def test_what_a_test_batch_must_hold_is_one_line(fitted, tmp_path, key, value, said):
    loader = batches(4, bad=(1,))
    for sample in loader.dataset:
        sample[key] = value
    with pytest.raises(InputError, match=said):
        trainer(tmp_path).test(fitted, loader, verbose=False)


def test_a_state_that_does_not_fit_is_refused_before_the_first_image(tmp_path, monkeypatch):
    monkeypatch.setattr("padim_lit.model.warm_up.available_bytes", lambda _: 2**20)
    with pytest.raises(InputError, match=r"dim=400 with 256 Gaussians needs .* 1.0 MiB are free"):
        trainer(tmp_path).fit(make(dim=400), batches(4))


@pytest.mark.slow
def test_the_docs_library_example_runs(zygote, tmp_path):
    page = (ROOT / "docs" / "library.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (code,) = [block for block in blocks if "trainer.fit(" in block]
    assert len(code.strip().splitlines()) <= 11  # ten lines and one blank
    for i, loader in enumerate((batches(6), batches(4, seed=1, bad=(1, 3)))):
        for sample in loader.dataset:
            kind = "train/good" if i == 0 else f"test/{'hole' if sample['label'] else 'good'}"
            folder = tmp_path / "my_parts" / kind
            folder.mkdir(parents=True, exist_ok=True)
            to_pil_image(sample["image"]).save(folder / sample["path"])
    (tmp_path / "example.py").write_text(code)
    with zygote.start([], tmp_path, script=tmp_path / "example.py") as example:
        out = example.wait()
    assert out.code == 0, out.err
    assert "test/image_auroc" in out.out
    # Nothing is trained; Lightning's summary must not say that a frozen backbone were.
    told = r"^(\S+) +Trainable params|Trainable params: (\S+)"
    trained = re.search(told, out.out + out.err, re.MULTILINE)
    assert trained and set(trained.groups()) == {"0", None}
    found = padim_lit.load(tmp_path / "model.ckpt")(next(folder.glob("*.png")))
    assert found.is_anomalous is not None and found.p_value is not None
    # The command tests it too, though a fit in Python notes less.
    with zygote.start(["ckpt=model.ckpt", "data=folder", "data.root=my_parts"], tmp_path) as test:
        assert (again := test.wait()).code == 0, again.err


def test_a_strategy_that_shards_is_refused(monkeypatch):
    model = make()
    sharding = SimpleNamespace(strategy=object(), precision="32-true")
    monkeypatch.setattr(type(model), "trainer", sharding)
    with pytest.raises(InputError, match=r"trainer\.strategy=object.*use trainer=ddp"):
        model.setup("fit")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(2, 3, 96, 64), r"\(2, 3, 96, 64\); .*takes .*\(B,3,64,64\)"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), r"torch.uint8 .*floats in \[0, 1\]"),
        (torch.eye(64).expand(2, 3, 64, 64) * 255, r"from 0.* to 25.*; .*floats in \[0, 1\]"),
        (torch.rand(3, 64, 64), "a batch of RGB images"),  # would count as three
    ],
)
def test_images_of_another_kind_than_the_model_is_made_for_are_refused(images, words):
    backbone = Backbone("test_resnet", weights="random")
    detector = Detector(
        backbone, JL(backbone.embedding_dim, dim=4), image_shape=(64, 64), **paper(4)
    )
    with pytest.raises(InputError, match=words):
        detector.update_state(detector.empty_state(), {"image": images})
    detector.set_state(
        detector.update_state(detector.empty_state(), {"image": torch.rand(3, 3, 64, 64)})
    )
    if images.shape[-2:] != (64, 64):
        with pytest.raises(InputError, match=words):
            detector(images)


def test_images_gathered_on_top_of_a_fit_leave_it_alone_until_they_are_set():
    detector = make().detector
    few, more = ({"image": torch.rand(n, 3, 64, 64)} for n in (3, 2))
    fitted = detector.update_state(detector.empty_state(), few)
    detector.set_state(fitted)
    before = fitted.moments.scatter.pack().clone()
    grown = detector.update_state(detector.fit_state, more)
    assert torch.equal(detector.fit_state.moments.scatter.pack(), before)
    detector.set_state(grown)
    assert detector.count == 5


def test_what_is_gathered_in_inference_mode_can_be_added_to_outside():
    detector = make().detector
    with torch.inference_mode():
        state = detector.update_state(detector.empty_state(), {"image": torch.rand(3, 3, 64, 64)})
    detector.set_state(detector.update_state(state, {"image": torch.rand(2, 3, 64, 64)}))
    assert detector.count == 5


def test_a_batch_size_finder_runs_an_epoch_and_the_fit_is_whole(tmp_path):
    class Data(LightningDataModule):
        batch_size = 2

        def train_dataloader(self):
            return DataLoader(batches(9).dataset, self.batch_size)

    model = make()
    trainer(tmp_path, callbacks=[BatchSizeFinder(max_trials=2, steps_per_trial=1)]).fit(
        model, Data()
    )
    assert model.detector.count == 9 and model.detector.calibration


def test_a_fit_of_another_model_is_refused_where_it_is_set_or_joined():
    one, other = make().detector, make(grid=4).detector
    state = one.update_state(one.empty_state(), {"image": torch.rand(3, 3, 64, 64)})
    with pytest.raises(InputError, match=r"layers, Gaussians, dimensions\) do not combine"):
        other.set_state(state)
    coarse = replace(state, layer_means=state.layer_means[:1])
    for join in (state.merge, lambda part: state.subtract(part, None, None)):
        with pytest.raises(InputError, match="both must come from one config"):
            join(coarse)


def test_a_state_dict_goes_through_a_module_that_holds_the_model():
    one, other = make(), make()
    one.detector.projection.matrix += 1
    one.more = torch.nn.Linear(2, 2)  # a subclass's own, which no checkpoint holds
    assert not one.load_state_dict(one.state_dict()).missing_keys
    del one.more
    whole = torch.nn.ModuleList([one]).state_dict()  # as `torch.compile` holds it
    torch.nn.ModuleList([other]).load_state_dict(whole)
    assert torch.equal(one.detector.projection.matrix, other.detector.projection.matrix)
    assert one.state_dict().keys() == one.detector.state_dict().keys()


@pytest.mark.parametrize("kind", [Fisher, Both])
def test_ranks_take_all_that_the_first_has_learnt(monkeypatch, kind):
    """Where they round differently, they would sum moments of different Gaussians."""
    backbone = Backbone("test_resnet", weights="random")
    model = PaDiM(backbone, JL(backbone.embedding_dim, 8), image_shape=(64, 64))
    learnt = Fisher(backbone.embedding_dim, 8) if kind is Fisher else Both(8, components=3)
    firsts = {name: torch.randn_like(mine) for name, mine in learnt.named_buffers()}
    sent = iter(firsts.values())
    strategy = SimpleNamespace(broadcast=lambda mine: next(sent))
    monkeypatch.setattr(PaDiM, "trainer", SimpleNamespace(world_size=2, strategy=strategy))
    model._agree(learnt)
    for name, value in learnt.state_dict().items():
        assert torch.equal(value, firsts[name]), name
    name, part = ("mixture.centroids", learnt.mixture.centroids) if kind is Both else (
        "matrix", learnt.matrix)  # fmt: skip
    assert torch.equal(part, firsts[name])


IMAGES = [{"image": sample["image"]} for sample in batches(4).dataset]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(IMAGES)


def small(**kwargs):
    backbone = Backbone("test_resnet", weights="random")
    return PaDiM(backbone, JL(backbone.embedding_dim, dim=4), image_shape=(64, 64), **kwargs)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (
            DataLoader([(one["image"], 0) for one in IMAGES], 2),
            "a list without image; it must be a",
        ),
        ([DataLoader(IMAGES, 2)] * 2, "come from a list; give one DataLoader"),
        (DataLoader(Stream(), 2), "Stream gives no image by its number"),
    ],
)
def test_a_loader_of_another_kind_is_one_line(tmp_path, loader, words):
    with pytest.raises(InputError, match=words):
        trainer(tmp_path).fit(small(), loader)


def test_what_is_learnt_is_of_the_images_that_a_sampler_gives(tmp_path):
    good, other = batches(8).dataset, batches(8, seed=1).dataset
    found = []
    for rest in (other, [one | {"image": 1 - one["image"]} for one in other]):
        loader = DataLoader(good + rest, 4, sampler=SubsetRandomSampler(range(8)))
        trainer(tmp_path).fit(model := small(), loader)
        assert model.detector.count == 8
        found.append(model.detector.density.mixture.centroids)
    assert torch.equal(*found)


RANKS = """
import sys, torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from padim_lit import Both, JL, Backbone, PaDiM

images = torch.load(sys.argv[1])
class Shared:
    def __init__(self, ranks):
        self.ranks = ranks
    def __len__(self):
        return len(images) // self.ranks
    def __iter__(self):
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return iter(range(rank, len(images), self.ranks))

quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
def run(devices, **more):
    return Trainer(accelerator="cpu", devices=devices, enable_model_summary=False, **quiet, **more)
loader = DataLoader([{"image": image} for image in images], 4, sampler=Shared(2))
backbone = Backbone("test_resnet", weights="random")
density = Both(4, components=3)
model = PaDiM(backbone, JL(backbone.embedding_dim, 4), (64, 64), density)
two = run(2, strategy="ddp", use_distributed_sampler=False)
two.fit(model, loader)
found = two.predict(model, loader)
detector = model.detector
torch.save((density.mixture.centroids, detector.mean, detector.calibration.threshold,
    [batch["is_anomalous"] for batch in found]), f"rank{two.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_ranks_with_a_sampler_of_ones_own_end_as_one_process_does(zygote, tmp_path):
    samples = batches(16).dataset
    torch.save([sample["image"] for sample in samples], tmp_path / "images.pt")
    (tmp_path / "fit.py").write_text(RANKS)
    here = {"PYTHONPATH": str(ROOT)}  # of the second rank, a process that Lightning starts
    with zygote.start(["images.pt"], tmp_path, here, script=tmp_path / "fit.py") as fit:
        assert (out := fit.wait()).code == 0, out.err
    model = small(density=Both(4, components=3))
    trainer(tmp_path).fit(model, DataLoader(samples, 4))
    for rank in range(2):
        centroids, mean, threshold, decisions = torch.load(tmp_path / f"rank{rank}.pt")
        assert torch.equal(centroids, model.detector.density.mixture.centroids)
        torch.testing.assert_close(mean, model.detector.mean)
        assert threshold == pytest.approx(model.detector.calibration.threshold, rel=1e-4)
        assert sum(map(len, decisions)) == 8


class Opened:
    """Images that only a process which has opened them can read."""

    handle = None

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return self.handle[index]


def open_it(worker):
    dataset = torch.utils.data.get_worker_info().dataset
    while not isinstance(dataset, Opened):  # a part of it
        dataset = dataset.dataset
    dataset.handle = IMAGES


def test_what_workers_open_is_there_before_the_fit_and_after(tmp_path):
    loader = DataLoader(Opened(), 2, num_workers=1, worker_init_fn=open_it)
    trainer(tmp_path).fit(model := small(), loader)
    assert model.detector.count == 4 and model.detector.calibration is not None


def test_what_was_adopted_is_kept_in_later_fits_too(tmp_path):
    def fisher():
        backbone = Backbone("test_resnet", weights="random")
        return PaDiM(backbone, Fisher(backbone.embedding_dim, 4), (64, 64), **paper(4))

    trainer(tmp_path).fit(first := fisher(), batches(8))
    second = fisher()
    second.detector.projection.adopt(first.detector.projection.matrix)
    for n in (1, 2):
        (run := trainer(tmp_path)).fit(second, batches(8, seed=n))
        run.save_checkpoint(tmp_path / "a.ckpt")
        second = PaDiM.load_from_checkpoint(tmp_path / "a.ckpt")
        matrices = [one.detector.projection.matrix for one in (first, second)]
        assert torch.equal(*matrices)


def test_a_stream_of_images_is_fitted_without_a_threshold(tmp_path, caplog):
    model = small(**paper(4))
    with caplog.at_level("WARNING", "padim_lit"):
        trainer(tmp_path).fit(model, DataLoader(Stream(), 2))
    assert model.detector.count == 4 and "needs a Dataset with __len__" in caplog.text
    assert "loader process" not in caplog.text


def test_flags_and_masks_may_be_numbers(tmp_path, fitted):
    """They would be taken for indices, and other images' scores counted without a word."""
    loader = batches(12, seed=1, bad=(3, 8))
    for i, sample in enumerate(loader.dataset):
        sample |= {"count_image": 1, "count_pixel": int(i != 3), "mask": sample["mask"].float()}
    run = trainer(tmp_path)
    run.test(fitted, loader, verbose=False)
    found, truth = dict(fitted.results), batches(12, seed=1, bad=(3, 8))
    truth.dataset[3]["count_pixel"] = False
    run.test(fitted, truth, verbose=False)
    assert found == fitted.results
    with pytest.raises(InputError, match="a dict without label;"):
        run.test(fitted, DataLoader(IMAGES), verbose=False)


def test_labels_alone_are_enough_for_a_test(tmp_path, fitted):
    whole, run = batches(12, seed=1, bad=(3, 8)), trainer(tmp_path)
    run.test(fitted, whole, verbose=False)
    known, image = dict(fitted.results), {"image", "label"}
    for keys, masked in ((image, False), (image | {"mask"}, True)):
        samples = [{key: one[key] for key in keys} for one in whole.dataset]
        run.test(fitted, DataLoader(samples, 4), verbose=False)
        found = fitted.results
        assert found["image_auroc"] == known["image_auroc"]
        assert found["pixel_auroc"] == (known["pixel_auroc"] if masked else None)
        assert ("known mask" in found["why"].get("pixel_auroc", "")) is not masked
    samples = [{key: one[key] for key in one if key != "mask"} for one in whole.dataset]
    with pytest.raises(InputError, match="count_pixel and no mask; give its masks, or no flag"):
        run.test(fitted, DataLoader(samples, 4), verbose=False)


def test_a_model_is_no_larger_than_what_it_knows(tmp_path):
    model = small(**paper(4))
    assert len(pickle.dumps(model)) < 5e6
    (run := trainer(tmp_path)).fit(model, DataLoader(IMAGES, 2))
    run.test(model, batches(4, bad=(1,)), verbose=False)
    assert len(pickle.dumps(model)) < 5e6


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"calibration": -3}, "calibration=-3: must be a whole number of at least 0"),
        ({"calibration": True}, "calibration=True: must be a whole number"),
        ({"calibration": 2.5}, r"calibration=2\.5: must be a whole number"),
        ({"false_alarm_rate": 5}, "false_alarm_rate=5: must be a number between 0 and 1"),
        ({"false_alarm_rate": "0.05"}, "false_alarm_rate=0.05: must be a number between 0 and 1"),
    ],
)
def test_what_no_threshold_can_come_from_is_refused_before_the_fit(tmp_path, how, words):
    with pytest.raises(InputError, match=words):
        trainer(tmp_path).fit(model := small(**paper(4), **how), DataLoader(IMAGES, 2))
    assert model.detector.count == 0


def test_calibration_and_rate_are_arguments_too(tmp_path):
    class Fewer(PaDiM):
        calibration = 3

    backbone = Backbone("test_resnet", weights="random")
    parts = backbone, JL(backbone.embedding_dim, dim=4), (64, 64)
    for model, scored in (
        (small(**paper(4), calibration=0), None),
        (small(**paper(4), calibration=None), None),
        (small(**paper(4), calibration=np.int64(4), false_alarm_rate=0.2), 4),
        (Fewer(*parts, **paper(4)), 3),
    ):
        trainer(tmp_path).fit(model, DataLoader(IMAGES, 2))
        known = model.detector.calibration
        assert (known and len(known.scores)) == scored
    assert small(calibration=7, false_alarm_rate=0.2).false_alarm_rate == 0.2


def test_a_trainer_without_a_limit_makes_one_pass(tmp_path):
    run = Trainer(accelerator="cpu", max_epochs=-1, default_root_dir=tmp_path, barebones=True)
    run.fit(model := small(**paper(4)), DataLoader(IMAGES, 2))
    assert run.current_epoch == 1 and model.detector.count == 4


@pytest.mark.filterwarnings("ignore:Total length of")
def test_a_fit_that_would_do_nothing_keeps_the_one_before(tmp_path):
    model, run = small(**paper(4)), trainer(tmp_path)
    run.fit(model, DataLoader(IMAGES, 2))
    run.save_checkpoint(finished := tmp_path / "finished.ckpt")
    for again, loader, more in (
        (run, DataLoader(IMAGES[:3], 2), {}),
        (trainer(tmp_path), DataLoader(IMAGES[:3], 8, drop_last=True), {}),
        (trainer(tmp_path), DataLoader(IMAGES[:3], 2), {"ckpt_path": finished, **SAFE}),
    ):
        with pytest.raises(InputError, match="no epoch or batches are left; use a new Trainer"):
            again.fit(model, loader, **more)
        assert model.detector.count == 4


@pytest.mark.skipif(
    "on_train_end" not in vars(ModelCheckpoint), reason="saves nothing where no step was taken"
)
def test_what_lightning_saves_at_the_end_has_the_threshold_and_the_precision(tmp_path):
    saver = ModelCheckpoint(tmp_path, save_last=True)
    run = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, precision="bf16-mixed", callbacks=[saver],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    run.fit(small(**paper(4)), DataLoader(IMAGES, 2))
    saved = PaDiM.load_from_checkpoint(checkpoint_path=tmp_path / "last.ckpt").detector
    assert saved.calibration.threshold and saved.precision == "bf16-mixed"


def test_a_test_on_data_of_other_sizes_is_refused(tmp_path, fitted, monkeypatch):
    build_tree(tmp_path / "parts", train=2, test={"good": 1})
    data = Folder(tmp_path / "parts", image_size=64, crop_size=64, num_workers=0)
    known = {"image_size": 80, "crop_size": 64}
    monkeypatch.setattr(fitted.detector, "provenance", known)
    run = trainer(tmp_path)
    for score, images in (
        (run.test, data),
        (run.test, data.test_dataloader()),
        (run.predict, data),
        (run.predict, [data.test_dataloader()]),
    ):
        with pytest.raises(InputError, match=r"'image_size': 64.* fitted with {'image_size': 80"):
            score(fitted, images)


def test_a_loader_taken_from_a_data_module_brings_its_sizes(tmp_path):
    build_tree(tmp_path / "parts", train=4, test={"good": 1})
    data = Folder(tmp_path / "parts", image_size=80, crop_size=64, num_workers=0)
    (run := trainer(tmp_path)).fit(model := small(**paper(4)), data.train_dataloader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    known, path = padim_lit.load(tmp_path / "model.ckpt"), data.test_items[0].path
    (found,) = run.predict(model, data)
    assert known(path).score == pytest.approx(float(found["score"][0]), rel=1e-4)


def test_predictions_know_their_paths_and_the_models_decision(tmp_path, fitted):
    (found,) = trainer(tmp_path).predict(fitted, batches(4, seed=1, bad=(3,)))
    threshold = fitted.detector.calibration.threshold
    assert found["path"] == [f"{i}.png" for i in range(4)]
    assert torch.equal(found["is_anomalous"], found["score"] >= threshold)
    assert found["is_anomalous"][3] and found["map"].shape == (4, 64, 64)


def test_several_loaders_are_predicted(tmp_path, fitted):
    one = batches(2)
    both = trainer(tmp_path).predict(fitted, [one, one])
    assert torch.equal(both[0][0]["score"], both[1][0]["score"])


@pytest.mark.parametrize("within", [False, True], ids=["a sampler", "one in a batch sampler"])
def test_a_sampler_that_repeats_images_is_refused(monkeypatch, within):
    """Lightning's own, for ranks that are to have as many images each."""
    samples = list(range(7))

    def loader(ranks, rank=0):
        sampler = DistributedSampler(samples, ranks, rank)
        if within:
            batches = BatchSampler(sampler, 2, drop_last=False)
            return DataLoader(samples, batch_sampler=batches)
        return DataLoader(samples, sampler=sampler)

    def of_all(mine, ranks):
        return [loaders._drawn(loader(ranks, rank)) for rank in range(ranks)]

    monkeypatch.setattr(loaders, "of_all_ranks", of_all)
    with pytest.raises(InputError, match=r"more than once, .*use_distributed_sampler=False"):
        require_each_once(loader(2), ranks=2)
    assert sorted(require_each_once(loader(7), ranks=7)) == samples


def test_what_torch_draws_twice_is_refused():
    samples = list(range(7))
    for sampler in (
        RandomSampler(samples, num_samples=14),
        RandomSampler([0], replacement=True, num_samples=2),
    ):
        with pytest.raises(InputError, match=r"gives image \d of its Dataset more than once"):
            require_each_once(DataLoader(samples, sampler=sampler))


class Endless:
    """Draws of one's own: the same few images for ever, or as many as there are."""

    def __init__(self, images, draws):
        self.images, self.draws = images, draws

    def __iter__(self):
        drawn = 0
        while self.draws is None or drawn < self.draws:
            yield int(torch.randint(self.images, ()))
            drawn += 1


@pytest.mark.parametrize(
    "how",
    [
        {"sampler": [0, 1, 2, 0, 1, 2]},
        {"batch_sampler": BatchSampler([0, 1, 2, 3, 1, 2], 2, drop_last=False)},
        {"sampler": Endless(2, draws=4)},
        {"sampler": Endless(4, draws=None)},
        {"sampler": torch.tensor([1, 2, 1])},
    ],
)
def test_a_sampler_of_ones_own_that_repeats_images_is_refused(tmp_path, fitted, how):
    run, loader = trainer(tmp_path, limit_train_batches=2), DataLoader(IMAGES, **how)
    for use in (lambda: run.fit(small(**paper(4)), loader), lambda: run.test(fitted, loader)):
        with pytest.raises(InputError, match=r"gives image \d of its Dataset more than once"):
            use()


def test_looking_at_a_sampler_changes_no_draw():
    samples = list(range(40))
    loader = DataLoader(samples, 8, sampler=SubsetRandomSampler(samples[3:]))
    torch.manual_seed(0)
    drawn = torch.cat(list(loader)).tolist()
    torch.manual_seed(0)
    assert sorted(require_each_once(loader)) == samples[3:]
    assert torch.cat(list(loader)).tolist() == drawn
    endless = DataLoader(SimpleNamespace(), sampler=Endless(4, draws=None))  # of no length
    assert require_each_once(endless) is None


def test_hooks_that_change_the_images_of_the_fit_alone_are_refused(tmp_path):
    class Darker(PaDiM):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return {"image": batch["image"] / 2}

    backbone = Backbone("test_resnet", weights="random")
    model = Darker(backbone, JL(backbone.embedding_dim, 8), image_shape=(64, 64))
    with pytest.raises(InputError, match=r"Darker.on_after_batch_transfer would change the images"):
        trainer(tmp_path).fit(model, DataLoader(IMAGES, 2))


@pytest.mark.parametrize("how", [paper, lambda dim: {"density": Both(dim, components=2)}])
def test_the_default_dtype_and_a_callers_autocast_change_nothing(tmp_path, how):
    thresholds, scores = set(), set()
    for dtype in (torch.float32, torch.float64, torch.float16):
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            model = small(**how(4))
            trainer(tmp_path).fit(model, DataLoader(IMAGES, 2))
            save_detector(model.detector, tmp_path / "model.ckpt")
            with torch.autocast("cpu", torch.bfloat16):
                predictor = padim_lit.load(tmp_path / "model.ckpt", device="cpu", image_size=64)
                scores |= {predictor(IMAGES[0]["image"]).score}
                predictor.explain(IMAGES[0]["image"])
        finally:
            torch.set_default_dtype(torch.float32)
        thresholds.add(model.detector.calibration.threshold)
    assert len(thresholds) == len(scores) == 1


def test_a_model_stays_float32(fitted):
    factor = fitted.detector.whitening
    with pytest.raises(InputError, match=r"a model cannot become torch\.float16: it is float32"):
        fitted.half()
    assert fitted.detector.whitening is factor


@pytest.mark.parametrize("how", [{"seed": 1}, {"weights_seed": 1}, {"kind": Fisher}])
def test_a_fitted_model_takes_no_other_models_state(tmp_path, how):
    def fitted_with(seed=0, weights_seed=0, kind=JL):
        backbone = Backbone("test_resnet", weights="random", seed=weights_seed)
        model = PaDiM(backbone, kind(backbone.embedding_dim, 4, seed), image_shape=(64, 64))
        trainer(tmp_path).fit(model, DataLoader(IMAGES, 2))
        return model

    model, other = fitted_with(), fitted_with(**how)
    before = model(IMAGES[0]["image"][None])[0]
    model.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match="a state dict of another model"):
        model.load_state_dict(other.state_dict())
    assert torch.equal(model(IMAGES[0]["image"][None])[0], before)


def test_several_loaders_to_test_with_are_refused_and_one_in_a_list_is_taken(tmp_path, fitted):
    with pytest.raises(InputError, match="2 loaders would share one result"):
        trainer(tmp_path).test(fitted, [batches(2), batches(2)], verbose=False)
    trainer(tmp_path).test(fitted, [batches(2)], verbose=False)


def test_nan_and_batches_of_nothing_are_one_line(tmp_path, fitted):
    with pytest.raises(InputError, match="image 1 of the batch: its features or distances are not"):
        images = torch.full((2, 3, 64, 64), 0.5)
        images[1, 0, 3, 3] = torch.nan
        trainer(tmp_path).predict(fitted, DataLoader([{"image": image} for image in images], 2))
    with pytest.raises(InputError, match=r"\(0, 3, 64, 64\); .* takes a batch"):
        fitted(torch.empty(0, 3, 64, 64))


def test_the_gpu_that_a_trainer_finds_on_a_mac_is_refused(monkeypatch):
    apples = SimpleNamespace(strategy=SingleDeviceStrategy("mps"), precision="32-true")
    monkeypatch.setattr(PaDiM, "trainer", apples)
    with pytest.raises(InputError, match=r"accelerator=mps has no float64.*use cpu"):
        make().setup("fit")


def test_processes_that_take_the_fit_with_them_are_refused(tmp_path):
    backbone = Backbone("test_resnet", weights="random")
    model = PaDiM(backbone, JL(backbone.embedding_dim, 8), image_shape=(64, 64))
    strategy = DDPStrategy(start_method="spawn")
    model._trainer = SimpleNamespace(strategy=strategy, precision="32-true")
    with pytest.raises(InputError, match="take the fit with them"):
        model.setup("fit")


def test_a_fit_forgets_the_facts_of_an_earlier_ones_data(tmp_path):
    build_tree(tmp_path / "parts", train=4, test={"good": 2})
    data = Folder(tmp_path / "parts", image_size=80, crop_size=64, num_workers=0)
    model, run = small(**paper(4)), trainer(tmp_path)
    model.detector.provenance = {"camera": 3}  # by hand
    run.fit(model, data)
    known = model.detector.provenance
    assert (known["image_size"], known["train_images"], known["camera"]) == (80, 4, 3)
    known["removed"] = ["00" * 16]
    trainer(tmp_path).fit(model, DataLoader(IMAGES, 2))
    assert not {"image_size", "crop_size", "data", "train_images"} & {*model.detector.provenance}
    assert model.detector.provenance["camera"] == 3
    assert model.detector.provenance["removed"] == []
    # A Trainer remembers the data of an earlier test.
    again = trainer(tmp_path)
    again.test(model, data, verbose=False)
    again.fit(model, DataLoader(IMAGES, 2))
    assert "image_size" not in model.detector.provenance


def test_numbers_of_numpy_and_a_data_modules_arguments_leave_a_file_that_can_be_read(tmp_path):
    class Own(LightningDataModule):
        def __init__(self, root):
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self):
            return DataLoader(IMAGES, 2)

    backbone = Backbone("test_resnet", weights="random")
    projection = JL(backbone.embedding_dim, np.int64(4), np.int64(3))
    how = paper(4) | {"eps": np.float64(0.01), "sigma": np.float32(4)}
    model, run = PaDiM(backbone, projection, image_shape=(64, 64), **how), trainer(tmp_path)
    run.fit(model, Own(tmp_path))
    run.save_checkpoint(tmp_path / "model.ckpt")
    found = padim_lit.load(tmp_path / "model.ckpt", image_size=64).detector
    assert torch.equal(found.projection.matrix, projection.matrix) and found.ridge.eps == 0.01


def test_what_modes_write_is_a_checkpoint_for_lightning_too(tmp_path, fitted):
    save_detector(fitted.detector, tmp_path / "slim.ckpt", slim_state(fitted.detector))
    run, model = trainer(tmp_path), make()
    run.test(model, batches(2), ckpt_path=tmp_path / "slim.ckpt", verbose=False, **SAFE)
    assert model.detector.count == fitted.detector.count


def test_what_a_checkpoint_learnt_elsewhere_holds_until_the_next_is_loaded():
    density = Both(4, components=2)
    elsewhere, usual = small(density=density).detector, small(density=density).detector
    elsewhere.provenance["learnt_elsewhere"] = True
    other = small(density=Both(4, components=2)).detector
    for state, images in ((elsewhere, 0), (usual, density.fit_images), (elsewhere, 0)):
        restore(other, full_state(state))
        assert other.density.fit_images == images > -1


def test_ranks_with_other_numbers_of_batches_are_refused():
    with pytest.raises(InputError, match="give 3, 2 batches, and a fit would wait for ever"):
        require_as_many([3, 2])
    require_as_many([3, 3])


def test_a_trainer_without_bars_shows_none(tmp_path, capsys):
    trainer(tmp_path).fit(make(Fisher), batches(8))
    assert "━" not in capsys.readouterr().out


def test_help_shows_the_detectors_parameters_and_the_two_of_the_fits_end():
    shown, detectors = (signature(one).parameters for one in (PaDiM, Detector))
    own = {"calibration": 500, "false_alarm_rate": None}
    assert list(shown) == [*detectors, *own]
    assert all(shown[name] == detectors[name] for name in detectors)
    assert {name: shown[name].default for name in own} == own


def test_callbacks_see_a_fitted_model_from_the_train_end_on(tmp_path):
    class Looks(Callback):
        seen: ClassVar[list] = []

        def on_train_epoch_end(self, trainer, model):
            self.seen.append(model.detector.count)

        def on_train_end(self, trainer, model):
            self.seen.append((model.detector.count, model.detector.threshold is not None))

    trainer(tmp_path, callbacks=[Looks()]).fit(make(), batches(4))
    assert Looks.seen == [0, (4, True)]
