"""Real images: the numbers must be PaDiM's, not just those of a program that runs."""

import pytest
from lightning.pytorch import Trainer

from padim_lit import JL, Backbone, PaDiM
from padim_lit.data import MVTec


@pytest.mark.slow
def test_screws_are_judged_as_well_as_independently_measured(real_data):
    data = MVTec(real_data / "mvtec_ad", "screw")
    backbone = Backbone("tf_efficientnet_lite0", [1, 2, 3], feature_location="expansion")
    model = PaDiM(backbone, JL(backbone.embedding_dim, 50, seed=0), grid=28)
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
    assert model.moments.count == 320
    # An independent implementation measured .717 and .959 (means of three seeds, D = 50, grid 28).
    assert model.results["image_auroc"] == pytest.approx(0.717, abs=0.05)
    assert model.results["pixel_auroc"] == pytest.approx(0.959, abs=0.006)
    assert model.results["pixel_aupro"] > 0.8
