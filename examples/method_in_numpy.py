"""The default method once more, in NumPy, after docs/method.md.

python examples/method_in_numpy.py MODEL.ckpt GOOD_PHOTOS NEW_PHOTOS

GOOD_PHOTOS is the folder that MODEL.ckpt, a run with default keys, was fitted on. Of the model are
the network and the centroids alone. Each new photo gets two scores, its own and the model's.
"""

import sys
from pathlib import Path

import numpy as np
import torch

import padim_lit


def draw(dim, channels, seed):  # Π (D,C)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(channels, generator=generator, dtype=torch.float64) for _ in range(dim)]
    return (torch.stack(rows) / dim**0.5).float().double().numpy()


def embed(layers, pi):  # square maps (C_l,s,s), finest first → patches (P,D) on the second's grid
    side, found = layers[1].shape[1], []
    for x in layers:
        if x.shape[1] > side:  # averaged down
            x = x.reshape(len(x), side, x.shape[1] // side, side, -1).mean(axis=(2, 4))
        near = np.arange(side) * x.shape[1] // side  # a coarser one is repeated
        found.append(x[:, near][:, :, near])
    x = np.moveaxis(np.concatenate(found), 0, 2) @ pi.T
    x = np.concatenate([x, np.ones((side, side, 1))], axis=2)  # and n, how many of the nine are
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    x = sum(x[i : i + side, j : j + side] for i in range(3) for j in range(3)).reshape(side**2, -1)
    return x[:, :-1] / np.sqrt(9 * x[:, -1:])  # their mean times √(n/9)


def gaussians(groups, empty, eps=None):  # patches (n,D) of each → means (G,D), covariances (G,D,D)
    n, nu = np.array([len(x) for x in groups]), empty.shape[1] / 2
    mean = np.stack([x.mean(axis=0) if len(x) else m for x, m in zip(groups, empty, strict=True)])
    scatter = np.stack([(x - m).T @ (x - m) for x, m in zip(groups, mean, strict=True)])
    pooled = scatter.sum(axis=0) / (n.sum() - (n > 0).sum())
    eps = 0.01 * pooled.diagonal().mean() if eps is None else eps
    own = (scatter + nu * pooled) / (np.maximum(n - 1, 0) + nu)[:, None, None]
    return mean, own + eps * np.eye(len(pooled))


def distances(x, mean, sigma):  # of patches (G,n,D), to their Gaussian each
    y = x - mean[:, None]
    return np.sqrt((y @ np.linalg.inv(sigma) * y).sum(axis=-1))


def compute(model, good, new):
    """c, w and the scores of new photos, from the photos that `model` was fitted on."""
    jl, mixture = model.detector.projection, model.detector.density.mixture
    pi = draw(jl.dim, jl.in_channels, jl.seed)

    def patches(photo):
        layers = model.detector.backbone(model.see(photo).tensor()[None].to(model.device))
        return embed([x[0].double().cpu().numpy() for x in layers], pi)

    x = np.stack([patches(photo) for photo in good])  # (N,P,D)
    centroids, white = (a.double().cpu().numpy() for a in (mixture.centroids, mixture.white))
    to = centroids @ white.T
    owner = np.stack([((to**2).sum(axis=1) - 2 * one @ white.T @ to.T).argmin(axis=1) for one in x])
    positions = gaussians(list(x.swapaxes(0, 1)), x[0])
    components = gaussians([x[owner == k] for k in range(len(to))], centroids)
    logs = [np.linalg.slogdet(sigma)[1].mean() for _, sigma in (positions, components)]
    c = np.exp((logs[0] - logs[1]) / (4 * jl.dim))

    n = min(len(x), mixture.fit_images)
    some = np.arange(n) * len(x) // n
    z, whose = (x[some] - x[some].mean(axis=(0, 1))) @ white.T, owner[some]
    _, sigma = gaussians([z[whose == k] for k in range(len(to))], to, eps=0.01)
    h = np.sqrt((np.linalg.slogdet(sigma)[1] / jl.dim)[whose].var(axis=0).mean())
    w = 0.5 * np.clip((0.17 - h) / 0.02, 0, 1) * (whose.size >= 2 / 3 * jl.dim * len(to))

    def score(one):
        to_position = c * distances(one[:, None], *positions)[:, 0]
        to_component = distances(one[None], *components).min(axis=0)
        d = np.sort((1 - w) * np.minimum(to_position, to_component) + w * to_position)
        return d[-max(1, round(0.02 * len(d))) :].mean()

    return c, w, [score(patches(photo)) for photo in new]


if __name__ == "__main__":
    model = padim_lit.load(sys.argv[1])
    found = model(sys.argv[3])
    c, w, scores = compute(model, sorted(Path(sys.argv[2]).iterdir()), [one.path for one in found])
    print(f"c {c:.4f}, w {w:.4f}")
    for one, score in zip(found, scores, strict=True):
        print(f"{score:.5f} {one.score:.5f} {one.path}")
