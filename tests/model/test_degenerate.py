"""Statistics that degenerate give finite scores, or one line that says what to do."""

import re

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from padim_lit import Backbone, InputError, PaDiM
from padim_lit.model.density import DENSITIES
from padim_lit.model.projection import PROJECTIONS


def images(kind: str) -> torch.Tensor:
    noise = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if kind == "two":
        return noise[:2]
    if kind == "alike":
        return noise[:1].repeat(6, 1, 1, 1)
    if kind == "half":  # positions that never change
        noise[..., :24] = 0
        return noise
    return torch.full_like(noise, 0.5)  # nor do channels


@pytest.fixture(scope="module")
def backbone():
    return Backbone("test_resnet", weights="random")


@pytest.mark.filterwarnings("ignore")  # Lightning's on loaders and on the epoch's few batches
@pytest.mark.parametrize("eps", [0.01, 1e-30])
@pytest.mark.parametrize(
    ("proj", "density"),
    [
        ("fisher", "position"),
        ("npca", "position"),
        ("jl", "position"),
        ("fisher", "mixture"),
        ("jl", "both"),
    ],
)
@pytest.mark.parametrize("kind", ["two", "alike", "half", "constant"])
def test_a_fit_or_one_line(backbone, kind, proj, density, eps):
    projection = PROJECTIONS[proj](backbone.embedding_dim, 4)
    gaussians = DENSITIES[density](4, **({} if density == "position" else {"components": 4}))
    model = PaDiM(
        backbone,
        projection,
        density=gaussians,
        image_shape=(32, 32),
        eps=eps,
        eps_unit="variance" if density == "both" else "feature",
        neighbourhood=1,
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, **quiet
    )
    try:
        trainer.fit(model, DataLoader([{"image": image} for image in images(kind)], batch_size=3))
        scores, _ = model.detector.eval()(torch.rand(2, 3, 32, 32))
        assert scores.isfinite().all()
    except InputError as error:
        learns = proj == "fisher" or density == "both"
        if learns and kind in ("alike", "constant"):
            assert re.search("and these are alike|do not vary at all", str(error))
        else:
            assert eps < 0.01 and "too near a singular one; set a larger eps" in str(error)
        assert "\n" not in str(error)
