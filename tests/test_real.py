"""Real images: the numbers must be PaDiM's, not just those of a program that runs."""

import pytest
from lightning.pytorch import Trainer

from padim_lit import JL, Backbone, Fisher, PaDiM
from padim_lit.data import MVTec


# For jl an independent implementation's means over three seeds (D = 50, grid 28); for fisher
# docs/results.md, to notice when it changes.
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "image", "pixel"), [(JL, 0.717, 0.959), (Fisher, 0.803, 0.969)])
def test_screws_are_judged_as_well_as_measured_before(real_data, kind, image, pixel):
    data = MVTec(real_data / "mvtec_ad", "screw")
    backbone = Backbone("tf_efficientnet_lite0", [1, 2, 3], feature_location="expansion")
    model = PaDiM(backbone, kind(backbone.embedding_dim, 50, seed=0), grid=28)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    assert model.detector.count == 320
    assert model.results["image_auroc"] == pytest.approx(image, abs=0.05)
    assert model.results["pixel_auroc"] == pytest.approx(pixel, abs=0.006)
    assert model.results["pixel_aupro"] > 0.8
