"""How exact the fast paths are: moments against float64 NumPy, metrics against scikit-learn.

python -m benchmarks accuracy          # needs scikit-learn (pip install -e ".[test]")
"""

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.rows import show
from padim_lit.metrics import ImageMetrics, PixelMetrics
from padim_lit.model.moments import init, update

IMAGES, POSITIONS, DIM = 320, 16, 100


def main() -> None:
    title = f"running moments, N = {IMAGES}, D = {DIM}: largest relative error"
    show(("mean / std", "batch", "order", "mean", "covariance"), moments(), title, width=100)
    title = "metrics on raw Mahalanobis distances: difference from scikit-learn"
    columns = ("D", "image AUROC", "image AP", "pixel AUROC", "pixel AP")
    show(columns, metrics(), title, width=100)


def moments() -> Iterator[tuple[str, ...]]:
    """Largest relative error (Frobenius norm, over positions) for batch sizes and orders."""
    for offset in (1, 30, 1000):
        x = images(offset)
        mean = x.double().numpy().mean(axis=0)
        covariance = np.stack(
            [np.cov(x[:, p].double().numpy(), rowvar=False) for p in range(POSITIONS)]
        )
        for batch in (1, 7, 32):
            for order in ("as drawn", "sorted"):
                rows = x if order == "as drawn" else x[x.sum(dim=(1, 2)).argsort()]
                state = init(POSITIONS, DIM)
                for part in rows.split(batch):
                    state = update(state, part)
                ours = state.scatter.to_dense(symmetric=True).double().numpy() / (IMAGES - 1)
                yield (
                    str(offset),
                    str(batch),
                    order,
                    f"{relative(state.mean.numpy()[..., None], mean[..., None]):.1e}",
                    f"{relative(ours, covariance):.1e}",
                )


def images(offset: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(POSITIONS, DIM, DIM, generator=generator) / DIM**0.5
    x = torch.randn(IMAGES, POSITIONS, DIM, generator=generator)
    x = torch.einsum("npd,pde->npe", x, mix)
    return x + offset * x.std(dim=0)


def relative(ours: np.ndarray, expected: np.ndarray) -> float:
    norm = np.linalg.norm
    return float((norm(ours - expected, axis=(1, 2)) / norm(expected, axis=(1, 2))).max())


def metrics() -> Iterator[tuple[str, ...]]:
    """Differences from scikit-learn on raw distances: chi-distributed with D degrees of freedom."""
    for dim in (100, 550):
        generator = torch.Generator().manual_seed(dim)
        maps = torch.randn(80, 224, 224, generator=generator) / 2**0.5 + dim**0.5
        mask = torch.zeros(80, 224, 224, dtype=torch.bool)
        mask[:40, 60:90, 60:90] = True
        maps += mask
        label, score = mask.flatten(1).any(dim=1).long(), maps.flatten(1).mean(dim=1)
        score += 0.003 * torch.randn(80, generator=generator)
        image, pixel = ImageMetrics(), PixelMetrics()
        image.update(score, label)
        pixel.update(maps, mask)
        ours = {**image.compute(), **pixel.compute()}
        truth, distance = mask.flatten().numpy(), maps.flatten().numpy()
        yield (
            str(dim),
            f"{abs(ours['image_auroc'] - roc_auc_score(label, score)):.1e}",
            f"{abs(ours['image_ap'] - average_precision_score(label, score)):.1e}",
            f"{abs(ours['pixel_auroc'] - roc_auc_score(truth, distance)):.1e}",
            f"{abs(ours['pixel_ap'] - average_precision_score(truth, distance)):.1e}",
        )


if __name__ == "__main__":
    main()
