"""anomalib's PatchCore as a contestant of `patchcore`; runs in anomalib's environment.

Its torch model is driven without its engine: no pre-processor (the images come normalised) and no
post-processor (scores and maps stay raw).
"""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.contest import FIT_BATCH, batches, clock, take_part

# Of its coreset selection, that are timed; every step costs the same.
STEPS = 20
# Dimensions, the first, that rule most points out.
HEAD = 24


class PatchCore:
    def __init__(self, folder: Path):
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        about = json.loads((folder / "about.json").read_text())
        self.coreset, self.layers = about["coreset"], about["layers"]
        self.device = torch.device(about["device"])
        self.model = PatchcoreModel(self.layers, about["model"], pre_trained=False)
        weights = torch.load(folder / "backbone.pt", weights_only=True, map_location=self.device)
        self.mean, self.std = weights.pop("mean"), weights.pop("std")
        self.model.feature_extractor.feature_extractor.load_state_dict(weights)
        self.model.to(self.device)

    def normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def bare(self, images: Tensor) -> Any:
        return self.model.feature_extractor(self.normalised(images))

    def fit(self, pixels: np.ndarray) -> dict[str, Any]:
        from anomalib.models.image.patchcore import torch_model

        torch_model.KCenterGreedy = quick(torch_model.KCenterGreedy)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - its sparse projection draws from here
        self.model.train()
        with torch.inference_mode():
            for images in batches(pixels, FIT_BATCH, self.device):
                self.model(self.normalised(images))
            self.model.subsample_embedding(self.coreset)
        self.model.eval()
        told = {"version": metadata.version("anomalib"), "coreset": self.coreset}
        return {**told, **torch_model.KCenterGreedy.spent}

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(self.normalised(images))
        return found.pred_score, found.anomaly_map.squeeze(1)

    def nbytes(self) -> int:
        return self.model.memory_bank.nbytes


def quick(kind: Any) -> Any:
    """anomalib's KCenterGreedy, which takes hours, with its choice made sooner and timed as its."""

    class Quick(kind):
        spent: dict[str, float]

        def select_coreset_idxs(self) -> list[int]:
            self.model.fit(self.embedding)
            self.features = self.model.transform(self.embedding)
            first = int(torch.randint(high=self.n_observations, size=(1,)))
            device = self.embedding.device
            start = clock(device)
            index = torch.tensor(first, device=device)
            for _ in range(STEPS):
                self.update_distances(cluster_center=index)
                index = self.get_new_idx()
            step = (clock(device) - start) / STEPS
            del self.features, self.min_distances
            start = clock(device)
            # It projects to more numbers than there were: a triangle gives the same distances.
            triangle = torch.linalg.qr(self.model.sparse_random_matrix, mode="r").R
            x = self.embedding @ triangle.T
            x = x @ torch.linalg.eigh(torch.cov(x.T)).eigenvectors.flip(1)  # most varies in front
            chosen = k_center(x, self.coreset_size, first)
            ours = clock(device) - start
            theirs = step * (self.coreset_size - 1)
            Quick.spent = {"coreset_s": theirs, "extra_seconds": theirs - ours - STEPS * step}
            return chosen

    return Quick


def k_center(x: Tensor, count: int, first: int) -> list[int]:
    """Of points x (n,m), `count` that are chosen one by one, each farthest from those before it.

    Exact, though few distances are computed: a point at d from its centre stays there if the new
    one is 2d or farther from that centre, or d or farther from the point in the first dimensions.
    """
    head = x[:, :HEAD].contiguous()
    chosen, owner = [first], torch.zeros(len(x), dtype=torch.long, device=x.device)
    centres = x.new_empty(count, x.shape[1])
    centres[0] = x[first]
    near = (x - x[first]).norm(dim=1)
    for k in range(1, count):
        chosen.append(int(near.argmax()))
        centre = centres[k] = x[chosen[-1]]
        apart = (centres[:k] - centre).norm(dim=1)
        touched = (apart[owner] < 2 * near).nonzero().squeeze(1)
        touched = touched[(head[touched] - centre[:HEAD]).norm(dim=1) < near[touched]]
        found = (x[touched] - centre).norm(dim=1)
        closer = found < near[touched]
        near[touched[closer]], owner[touched[closer]] = found[closer], k
        near[chosen[-1]] = 0
    return chosen


if __name__ == "__main__":
    where = Path(sys.argv[1])
    take_part(PatchCore(where), where)
