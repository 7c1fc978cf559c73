"""On a GPU: what the CPU gives, and the same again.

Where there is no GPU one is pretended, so that these tests run everywhere.
"""

import json
import subprocess
import sys
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.fits import fit_on_images
from _helpers.pretended_gpu import pretended_gpu
from _helpers.trees import build_tree

import padim_lit
from padim_lit import JL, Backbone, Both, Detector, Fisher, Mixture, PerPosition
from padim_lit.checkpoint.state import load_detector, save_detector
from padim_lit.data import Folder
from padim_lit.deploy import left_out
from padim_lit.deploy.combine import add_images, gather, remove_images
from padim_lit.deploy.explanation import explain
from padim_lit.deploy.over_images import Loop
from padim_lit.model.ridge import Ridge
from padim_lit.model.warm_up import learn
from padim_lit.sweep.ablation import Ablation, ProjectionRun

ROOT = Path(__file__).parents[1]
GPU = torch.cuda.is_available()

K, D = 12, 20
# Of float32 sums in another order; the backbone's convolutions are in float32 here.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(autouse=True, scope="module")
def a_gpu():
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    with nullcontext() if GPU else pretended_gpu():
        yield
    torch.backends.cudnn.allow_tf32 = allowed


def images(n, seed=0):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def fitted(kind, device, learnt_from=None, projection=JL, rotations=1):
    """A detector fitted on `device`, with what another one has learnt before its fit."""
    backbone, options = Backbone("test_resnet", weights="random"), {}
    if kind is not PerPosition:
        options["components"] = K
    made = Detector(
        backbone, projection(backbone.embedding_dim, D), (64, 64), kind(D, **options),
        rotations=rotations,
    ).to(device)  # fmt: skip
    if learnt_from is not None:
        made.density.adopt(learnt_from.density)
        made.projection.adopt(learnt_from.projection.matrix)
    with torch.inference_mode():
        learn(made, lambda n: [{"image": images(20).to(device)}])
        fit_on_images(made, images(20).to(device))
    return made.eval()


@pytest.fixture(
    scope="module",
    params=[(PerPosition, 1), (Mixture, 1), (Both, 1), (Both, 3)],
    ids=lambda param: f"{param[0].name}-{param[1]}",
)
def pair(request):
    """The same fit on the CPU and on the GPU."""
    kind, rotations = request.param
    on_cpu = fitted(kind, "cpu", rotations=rotations)
    return on_cpu, fitted(kind, "cuda", on_cpu, rotations=rotations)


def test_what_a_gpu_refuses_is_refused():
    x, generator = torch.ones(2), torch.Generator()
    for refused in (
        lambda: x + x.cuda(),
        lambda: x[x.cuda() > 0],
        lambda: torch.cat([x.cuda(), x]),
        lambda: x.cuda().numpy(),
        lambda: np.asarray(x.cuda()),
        lambda: torch.rand(2, device="cuda", generator=generator),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            refused()
    assert (x.cuda() + torch.tensor(1.0)).device.type == "cuda"
    assert torch.zeros_like(x.cuda(), device="cpu").device.type == "cpu"


def test_scores_and_maps_are_the_cpus(pair):
    on_cpu, on_gpu = pair
    x = images(5, seed=1)
    for one, other in zip(on_cpu(x), on_gpu(x.cuda()), strict=True):
        torch.testing.assert_close(other.cpu(), one, **CLOSE)


def test_moments_are_the_cpus(pair):
    on_cpu, on_gpu = (one.fit_state for one in pair)
    torch.testing.assert_close(on_gpu.moments.counts.cpu(), on_cpu.moments.counts)
    torch.testing.assert_close(on_gpu.moments.mean.cpu(), on_cpu.moments.mean, **CLOSE)
    torch.testing.assert_close(on_gpu.layer_means.cpu(), on_cpu.layer_means, **CLOSE)
    scatters = (one.moments.scatter.to_dense(symmetric=True).cpu() for one in (on_gpu, on_cpu))
    torch.testing.assert_close(*scatters, **CLOSE)


@pytest.mark.parametrize("kind", [PerPosition, Mixture, Both])
def test_a_second_fit_is_the_same_to_the_bit(kind):
    one, other = fitted(kind, "cuda"), fitted(kind, "cuda")
    x = images(5, seed=1).cuda()
    assert all(map(torch.equal, one(x), other(x)))


def test_centroids_of_what_lies_apart_are_the_cpus():
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(K, D, generator=generator)
    x = centres[:, None] + torch.randn(K, 50, D, generator=generator)
    found = []
    for device in ("cpu", "cuda"):
        density = Mixture(D, components=K).to(device)
        density.learn(x.to(device))
        found.append(density.centroids.cpu())
    near = torch.cdist(*found).min(dim=1)
    assert sorted(near.indices.tolist()) == list(range(K)) and near.values.max() < 1e-2


def test_fisher_learns_there(pair):
    if not isinstance(pair[0].density, PerPosition):
        pytest.skip("one density says it")
    matrices = (fitted(PerPosition, where, None, Fisher).projection.matrix.cpu() for where in
                ("cpu", "cuda"))  # fmt: skip
    spans = [torch.linalg.qr(m.T.double()).Q for m in matrices]
    torch.testing.assert_close(spans[0] @ spans[0].T, spans[1] @ spans[1].T, **CLOSE)


@pytest.mark.parametrize("formula", [100, 3], ids=["few images", "many"])
def test_thresholds_come_from_the_same_scores(pair, formula, monkeypatch):
    monkeypatch.setattr(left_out, "FORMULA_IMAGES", formula)
    measured = []
    for one, device in zip(pair, ("cpu", "cuda"), strict=True):
        batch = {"image": images(20).to(device), "path": [str(i) for i in range(20)]}
        measured.append(left_out.measure(one, [batch]))
    torch.testing.assert_close(measured[1].scores, measured[0].scores, **CLOSE)


def test_a_batch_of_large_grids_is_left_out_there():
    squares = torch.rand(8, 5000, 1, 1, generator=torch.Generator().manual_seed(0))
    found = [left_out.leave_one_out(x, 320)[0].cpu() for x in (squares, squares.cuda())]
    torch.testing.assert_close(found[1], found[0], **CLOSE)


def test_a_threshold_of_what_is_learnt_anew_is_the_cpus():
    samples = [{"image": x, "path": str(i)} for i, x in enumerate(images(20))]
    on_cpu, on_gpu = (
        left_out.measure_training(fitted(Both, x), samples, 20, Loop(torch.device(x), 8)).scores
        for x in ("cpu", "cuda")
    )
    assert on_gpu.shape == (20,) and on_gpu.isfinite().all()
    if not GPU:  # where k-means rounds otherwise
        torch.testing.assert_close(on_gpu, on_cpu, **CLOSE)


def test_images_are_added_and_taken_out_there(pair):
    x = images(6, seed=2)
    digests = torch.randint(256, (26, 16), dtype=torch.uint8)
    scores = []
    for one in map(deepcopy, pair):
        there = x.to(one.mean.device)
        one.set_state(replace(one.fit_state, digests=digests[6:]))
        added = gather(one, [{"image": x, "digest": digests[:6]}])
        add_images(one, added, "refuse", "them")
        scores.append(one(there)[0].cpu())
        remove_images(one, added, "them")
        scores.append(one(there)[0].cpu())
    torch.testing.assert_close(scores[2:], scores[:2], **CLOSE)
    assert (scores[0] < scores[1]).all()  # what is known scores lower


def test_an_ablation_is_the_cpus(tmp_path):
    build_tree(tmp_path, train=9, test={"good": 5, "crack": 4})
    data = Folder(tmp_path, image_size=64, crop_size=64, batch_size=4)
    found = []
    for device in ("cpu", "cuda"):
        backbone = Backbone("test_resnet", weights="random").to(device)
        with torch.inference_mode():
            ablation = Ablation(backbone, data, tmp_path, None, 4.0, PerPosition, Ridge(0.01))
            run = ProjectionRun("fisher", (0,), (4, 8))
            drawn = run.draw(backbone.embedding_dim)
            bands = [range(0, 8), range(8, ablation.grid[0])]
            found.append(ablation.measure(run, drawn, bands).scores)
            ablation.close()
    for name, scores in found[0].items():
        np.testing.assert_allclose(found[1][name], scores, rtol=1e-3)


def test_an_explanation_is_the_cpus(pair):
    x = images(1, seed=1)
    one, other = (explain(detector, x[0].to(detector.mean.device)) for detector in pair)
    assert other.score == pytest.approx(one.score, rel=1e-3)
    np.testing.assert_allclose(other.layer_maps, one.layer_maps, rtol=1e-2, atol=1e-2)


def test_a_file_made_there_scores_on_a_cpu(pair, tmp_path):
    _, on_gpu = pair
    save_detector(on_gpu, tmp_path / "model.ckpt")
    x = images(5, seed=1)
    found = load_detector(tmp_path / "model.ckpt")(x)[0]
    torch.testing.assert_close(found, on_gpu(x.cuda())[0].cpu(), **CLOSE)
    predictor = padim_lit.load(tmp_path / "model.ckpt", device="cuda", image_size=64)
    score = predictor(x[0].permute(1, 2, 0).numpy()).score
    assert score == pytest.approx(float(found[0]), rel=1e-3)


FIT = ["dim=8"]
ABLATION = ["-m", "experiment=ablation", "dims=[8]", "seeds=[0]"]


@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.parametrize("words", [FIT, ABLATION], ids=["fit", "ablation"])
def test_the_command_runs_there(tmp_path, words):
    build_tree(tmp_path / "parts", train=9, test={"good": 5, "crack": 4})
    command = [
        *(sys.executable, "run.py", *words, "backbone=resnet18"),
        *("backbone.weights=random", "data=folder", f"data.root={tmp_path / 'parts'}"),
        *("image_size=64", "density.components=8", f"hydra.run.dir={tmp_path / 'out'}"),
        *(f"hydra.sweep.dir={tmp_path / 'out'}", "hydra.sweep.subdir=job"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = {}
    for path in (tmp_path / "out").rglob("*.json"):
        if path.name in ("metrics.json", "rows.json"):
            made[path.name] = path.read_text()
    assert made and all(torch.cuda.get_device_name() in text for text in made.values())
    if words == FIT:
        assert json.loads(made["metrics.json"])["peak_memory_bytes"] > 0
