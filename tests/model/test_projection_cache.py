"""What a fit needs again is not computed again, and nothing else changes by that."""

from contextlib import contextmanager

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from padim_lit import JL, Backbone, Both, PaDiM, PerPosition
from padim_lit.model.embedding import ProjectedLayer
from padim_lit.model.projection_cache import ProjectionCache

IMAGES = 12


def projected(images):
    """Two layers, the second on a coarser grid; each image's are its own."""
    x = images.permute(0, 2, 3, 1)
    return [ProjectedLayer(x, slice(3)), ProjectedLayer(2 * x[:, ::2, ::2], slice(3))]


def some(*numbers):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(9, 3, 4, 4, generator=generator)[list(numbers)]


class Counting:
    def __init__(self):
        self.images = 0

    def __call__(self, images):
        self.images += len(images)
        return projected(images)


def expecting(images, room=2**20):
    seen = ProjectionCache(room)
    seen.keep_next(images)
    return seen, Counting()


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 7, 0, 8, 1), (5, 6), (1,), (1, 1), ()])
def test_layers_are_those_that_would_be_computed(batch):
    seen, project = expecting(9)
    seen.layers(some(0, 1, 2), project)
    project.images = 0
    found = seen.layers(some(*batch), project)
    for one, expected in zip(found, projected(some(*batch)), strict=bool(batch)):
        assert torch.equal(one.values, expected.values)
        assert one.dims == expected.dims
    assert project.images == len(batch) - len({0, 1, 2} & set(batch))


def test_a_pixel_makes_another_image():
    seen, project = expecting(9)
    images = some(0, 1)
    seen.layers(images, project)
    images[0, 2, 3, 3] += 1e-6
    found = seen.layers(images, project)
    assert project.images == 3
    assert torch.equal(found[0].values, images.permute(0, 2, 3, 1))


def test_of_copies_one_is_kept():
    seen, project = expecting(9)
    seen.layers(some(1, 1, 1), project)
    assert len(seen.known) == 1
    seen.keep_next(0)
    for copies in (1, 2):
        (found, _) = seen.layers(some(*[1] * copies), project)
        assert torch.equal(found.values, projected(some(*[1] * copies))[0].values)
    assert project.images == 3 + 2
    assert not seen.known


def test_what_is_given_may_be_changed():
    seen, project = expecting(9)
    for layer in seen.layers(some(3, 4), project):
        layer.values.zero_()
    found = seen.layers(some(3, 4), project)
    assert project.images == 2
    assert torch.equal(found[0].values, some(3, 4).permute(0, 2, 3, 1))


def test_all_that_are_expected_must_have_room_together():
    size = sum(layer.values.nbytes for layer in projected(some(0)))
    for images, kept in ((3, 3), (4, 0), (0, 0)):
        seen, project = expecting(images, room=3 * size)
        seen.layers(some(0, 1, 2, 3), project)
        assert len(seen.known) == kept
    seen, project = expecting(3, room=3 * size)
    seen.layers(some(0, 1), project)
    seen.keep_next(0)
    seen.layers(some(0, 1, 2, 3), project)
    assert project.images == 2 + 2
    assert not seen.known


@contextmanager
def counted(backbone):
    """How many images each call of the backbone is given."""
    given = []
    hook = backbone.register_forward_pre_hook(lambda _, args: given.append(len(args[0])))
    yield given
    hook.remove()


def fit(tmp_path, density, rotations=1):
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", weights="random")
    projection = JL(backbone.embedding_dim, 6)
    model = PaDiM(backbone, projection, (64, 64), density, rotations=rotations)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (IMAGES, 3, 64, 64), generator=generator, dtype=torch.uint8)
    samples = [{"image": image / 255} for image in images]
    with counted(model.detector.backbone) as given:
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
        trainer = Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, **quiet)
        trainer.fit(model, DataLoader(samples, batch_size=4))
    return model.detector, sum(given)


@pytest.mark.parametrize("rotations", [1, 2])
@pytest.mark.parametrize("kind", [PerPosition, Both])
def test_a_fit_gives_an_image_to_the_backbone_once(kind, rotations, tmp_path, monkeypatch):
    # Both learns from all but four, which set the threshold, each left out by the quick way.
    monkeypatch.setattr("padim_lit.deploy.left_out.MIN_UNSEEN", 1)
    monkeypatch.setattr("padim_lit.deploy.left_out.FORMULA_IMAGES", 0)
    how = {} if kind is PerPosition else {"components": 5, "fit_images": 8}
    known, few = fit(tmp_path, kind(6, **how), rotations)
    assert not known.cache.known
    monkeypatch.setattr("padim_lit.model.projection_cache.CPU_BYTES", 0)
    plain, many = fit(tmp_path, kind(6, **how), rotations)
    scored, looked_at = (IMAGES, 0) if kind is PerPosition else (IMAGES - 8, 8)
    assert few == IMAGES * rotations
    assert many == (IMAGES + scored + looked_at) * rotations
    for name in ("mean", "layer_means"):
        torch.testing.assert_close(getattr(known, name), getattr(plain, name))
    scores, expected = (one.calibration.scores for one in (known, plain))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("rotations", [1, 2])
def test_all_directions_must_have_room_together(rotations, tmp_path, monkeypatch):
    detector, given = fit(tmp_path, PerPosition(6), rotations)
    assert given == IMAGES * rotations
    layers = detector.project(torch.zeros(1, 3, 64, 64))
    size = sum(layer.values.nbytes for layer in layers)
    monkeypatch.setattr("padim_lit.model.projection_cache.CPU_BYTES", IMAGES * rotations * size - 1)
    _, given = fit(tmp_path, PerPosition(6), rotations)
    assert given == 2 * IMAGES * rotations


@pytest.mark.parametrize("calibration", [0, 500])
def test_only_what_is_met_again_is_kept(calibration, tmp_path, monkeypatch):
    # Either there is no threshold, or all that set it go through the backbone anew.
    monkeypatch.setattr(PaDiM, "calibration", calibration)
    kept = []
    monkeypatch.setattr(PaDiM, "training_step", spied(PaDiM.training_step, kept))
    fit(tmp_path, Both(6, components=5, fit_images=8))
    assert kept[0] == 8
    assert kept == sorted(kept, reverse=True)


def test_a_fit_that_fails_leaves_nothing_for_the_next(tmp_path, monkeypatch):
    density = Both(6, components=5, fit_images=8)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="lost"):
        patch.setattr(PaDiM, "training_step", failing)
        fit(tmp_path, density)
    held = failing.detector
    assert held.cache.known
    held.reset()
    assert not held.cache.known


def failing(self, batch, batch_idx):
    failing.detector = self.detector
    raise RuntimeError("lost")


def spied(method, kept):
    def call(self, *args):
        kept.append(len(self.detector.cache.known))
        return method(self, *args)

    return call
