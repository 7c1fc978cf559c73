"""No image of a fit goes through the backbone twice, and nothing else changes by that."""

from contextlib import contextmanager

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from padim_lit import JL, Backbone, Both, PaDiM, PerPosition
from padim_lit.digests import digest
from padim_lit.model.embedding import ProjectedLayer
from padim_lit.model.seen import Seen

IMAGES = 12


def projected(images):
    """Two layers, the second on a coarser grid; each image's are its own."""
    x = images.permute(0, 2, 3, 1)
    return [ProjectedLayer(x, slice(3)), ProjectedLayer(2 * x[:, ::2, ::2], slice(3))]


def some(*numbers):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(9, 3, 4, 4, generator=generator)[list(numbers)]
    digests = torch.tensor(numbers, dtype=torch.uint8).unsqueeze(1).expand(-1, 16)
    return images, digests


class Counting:
    def __init__(self):
        self.images = 0

    def __call__(self, images):
        self.images += len(images)
        return projected(images)


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 7, 0, 8, 1), (5, 6), (1,), (1, 1)])
def test_layers_are_those_that_would_be_computed(batch):
    seen, project = Seen(room=2**20), Counting()
    seen.layers(*some(0, 1, 2), project)
    images, digests = some(*batch)
    project.images = 0
    found = seen.layers(images, digests, project)
    for one, expected in zip(found, projected(images), strict=True):
        assert torch.equal(one.values, expected.values)
        assert one.dims == expected.dims
    known = len({0, 1, 2} & set(batch))
    assert project.images == len(batch) - known


def test_what_is_given_may_be_changed():
    seen, project = Seen(room=2**20), Counting()
    images, digests = some(3, 4)
    for layer in seen.layers(images, digests, project):
        layer.values.zero_()
    found = seen.layers(images.clone(), digests, project)
    assert project.images == 2
    assert torch.equal(found[0].values, some(3, 4)[0].permute(0, 2, 3, 1))


def test_no_more_is_kept_than_there_is_room_for():
    size = sum(layer.values.nbytes for layer in projected(some(0)[0]))
    seen, project = Seen(room=2 * size), Counting()
    seen.layers(*some(0, 1, 2, 3), project)
    assert len(seen.known) == 2
    seen.close()
    seen.layers(*some(0, 1, 2, 3), project)
    assert project.images == 4 + 2
    assert not seen.known


def test_another_direction_is_another_image():
    seen, project = Seen(room=2**20), Counting()
    for way in (0, 1, 0, 1):
        seen.layers(*some(0, 1), project, way)
    assert project.images == 4


def test_without_digests_all_is_computed():
    seen, project = Seen(room=2**20), Counting()
    for _ in range(2):
        seen.layers(some(0, 1)[0], None, project)
    assert project.images == 4
    assert not seen.known


@contextmanager
def counted(backbone):
    """How many images each call of the backbone is given."""
    given = []
    hook = backbone.register_forward_pre_hook(lambda _, args: given.append(len(args[0])))
    yield given
    hook.remove()


def fit(tmp_path, density, rotations, known):
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", weights="random")
    projection = JL(backbone.embedding_dim, 6)
    model = PaDiM(backbone, projection, (64, 64), density, rotations=rotations)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (IMAGES, 3, 64, 64), generator=generator, dtype=torch.uint8)
    samples = [
        {"image": image / 255, "digest": digest(image.permute(1, 2, 0).numpy())}
        if known
        else {"image": image / 255}
        for image in images
    ]
    with counted(model.detector.backbone) as given:
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
        trainer = Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, **quiet)
        trainer.fit(model, DataLoader(samples, batch_size=4))
    return model.detector, sum(given)


@pytest.mark.parametrize("rotations", [1, 2])
@pytest.mark.parametrize("kind", [PerPosition, Both])
def test_a_fit_gives_an_image_to_the_backbone_once(kind, rotations, tmp_path, monkeypatch):
    # Both learns from all but four, which set the threshold, each left out by the quick way.
    monkeypatch.setattr("padim_lit.deploy.left_out.UNSEEN", 1)
    monkeypatch.setattr("padim_lit.deploy.left_out.FORMULA", 0)
    how = {} if kind is PerPosition else {"components": 5, "fit_images": 8}
    known, few = fit(tmp_path, kind(6, **how), rotations, known=True)
    plain, many = fit(tmp_path, kind(6, **how), rotations, known=False)
    scored, looked_at = (IMAGES, 0) if kind is PerPosition else (IMAGES - 8, 8)
    assert few == IMAGES * rotations
    assert many == (IMAGES + scored + looked_at) * rotations
    for name in ("mean", "layer_means"):
        torch.testing.assert_close(getattr(known, name), getattr(plain, name))
    scores, expected = (one.calibration["scores"] for one in (known, plain))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=0)
    assert not known.seen.known


def test_without_a_threshold_only_what_is_looked_at_before_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(PaDiM, "calibration", 0)
    kept = []
    monkeypatch.setattr(PaDiM, "on_train_epoch_start", spied(PaDiM.on_train_epoch_start, kept))
    monkeypatch.setattr(PaDiM, "training_step", spied(PaDiM.training_step, kept))
    density = Both(6, components=5, fit_images=8)
    _, given = fit(tmp_path, density, rotations=1, known=True)
    assert given == IMAGES
    assert kept[0] == 8
    assert kept == sorted(kept, reverse=True)


def spied(method, kept):
    def call(self, *args):
        kept.append(len(self.detector.seen.known))
        return method(self, *args)

    return call
