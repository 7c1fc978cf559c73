"""The Gaussians of all positions as they are without one image, where few images hold them."""

from dataclasses import replace

import torch
from torch import Tensor

from padim_lit.model.gaussian import factored_together
from padim_lit.model.moments import Moments, covariance
from padim_lit.model.ridge import Ridge, scatter_of_all


class PositionsWithout:
    """One Gaussian a position, of all images but one: each is factored, none is inverted.

    Where images are few, the pooled covariance is another one without each of them, and with it
    every Gaussian. An image has one patch to be measured at a position, for which a triangular
    solve does what a whitening factor does for many.

    Where V of n patches y = x − μ at a position leave, with s = Σ y, there stay
    μ' = μ − s/(n−V) and S' = S − Σ y yᵀ − ssᵀ/(n−V); what S loses, the pooled sum loses too.

    Args:
        moments: of the P positions, with the image.
        ridge: with ν, and without ``common``.

    >>> from padim_lit.model.moments import init, update
    >>> x = torch.rand(8, 9, 2)
    >>> positions = PositionsWithout(update(init(9, 2), x), Ridge(eps=0.1, shrinkage=1.0))
    >>> distances, log_det = positions(x[:1])
    >>> distances.shape
    torch.Size([1, 9])
    """

    def __init__(self, moments: Moments, ridge: Ridge):
        self.moments, self.ridge, self.total = moments, ridge, scatter_of_all(moments)

    def __call__(self, image: Tensor) -> tuple[Tensor, float]:
        """Distances (1,P) of the first of an image's patches (V,P,D), and the mean log det Σ.

        Raises:
            InputError: see `padim_lit.model.gaussian.factorize`.
        """
        moments, scatter = self.moments, self.moments.scatter
        y = (image.double() - moments.mean).transpose(0, 1)  # (P,V,D)
        left = moments.counts - len(image)
        divisor = left.clamp(min=1).unsqueeze(1)
        shift = y.sum(dim=1) / divisor
        rows = torch.cat([y, (shift * divisor.sqrt()).unsqueeze(1)], dim=1)
        gone = rows.flatten(0, 1)
        freedom = (left - 1).clamp(min=0).sum().clamp(min=1)
        ridge = replace(self.ridge, common=(self.total - gone.T @ gone) / freedom)
        eps, prior = ridge.of(moments)
        query, rows = y[:, 0] + shift, rows.to(scatter.dtype)
        squares, log_det = query.new_empty(len(query)), 0.0
        for some in factored_together(scatter):
            rest = Moments(left[some], moments.mean[some], scatter.at(some).map(torch.clone))
            rest.scatter.add_products(rows[some], weight=-1.0)
            sigma = covariance(rest, eps, symmetric=False, prior=prior)
            lower, failed = torch.linalg.cholesky_ex(sigma)
            if failed.any():
                raise ridge.too_small(scatter.dim)
            z = torch.linalg.solve_triangular(lower, query[some].unsqueeze(-1), upper=False)
            squares[some] = z.square().sum(dim=(1, 2))
            log_det += 2 * float(lower.diagonal(dim1=1, dim2=2).log().sum())
        return squares.sqrt().float().unsqueeze(0), log_det / len(query)
