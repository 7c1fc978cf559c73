"""A mixture of Gaussians over all patches, wherever they lie."""

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.model.cpu import on_one_thread_each, product
from padim_lit.model.density import Counted, Density
from padim_lit.model.groups import Groups
from padim_lit.model.moments import Moments
from padim_lit.model.search import Exhaustive, Finder, Search
from padim_lit.model.triangular import Triangle

# Patches that are assigned at once: their products stay in a CPU's cache.
ASSIGN_BATCH = 1024
# Of k-means: patches and rounds at most.
MAX_SAMPLE, MAX_ROUNDS = 50_000, 25
# Patches that k-means has for a centroid, on average, at least; else it learns fewer centroids.
MIN_PATCHES = 8
#: Components at most.
MAX_COMPONENTS = 2**20


class Mixture(Density):
    """K Gaussians over the patches of all positions: for parts that lie as they fall.

    A patch is fitted to the component whose centroid is nearest, in coordinates in which good
    patches vary alike in all directions (they are white). The centroids are learnt once, by k-means
    before the fit, so that a fit is a sum. A patch that is scored has the smallest of its distances
    to the K Gaussians, d² = min_k (x−μ_k)ᵀ Σ_k⁻¹ (x−μ_k).

    Args:
        dim: D.
        seed: draws the first centroids.
        components: K.
        fit_images: number of good images to learn the centroids from, spread evenly over the
            training set.
        shrinkage: ν, as many patches as the pooled covariance Σ₀ weighs in each component's own;
            None takes D, about as many as a covariance needs to be of full rank.

    Raises:
        InputError: K below 1, fewer than 2 images, or ν of 0 or less.

    >>> mixture = Mixture(dim=2, components=3)
    >>> mixture.learn(torch.rand(5, 100, 2))
    >>> mixture.assign(torch.rand(10, 2)).shape
    torch.Size([10])
    """

    name = "mixture"
    centroids: Tensor
    white: Tensor

    def __init__(
        self,
        dim: int,
        seed: int = 0,
        components: int = 256,
        fit_images: int = 64,
        shrinkage: float | None = None,
    ):
        if not 1 <= components <= MAX_COMPONENTS:
            raise InputError(f"density.components={components}: must be from 1 to {MAX_COMPONENTS}")
        if fit_images < 2:
            raise InputError(f"density.fit_images={fit_images}: must be at least 2 images")
        shrinkage = float(dim) if shrinkage is None else shrinkage
        if not 0 < shrinkage < math.inf:
            raise InputError(
                f"density.shrinkage={shrinkage}: must be above 0 patches, because a component may "
                "have fewer than it has dimensions (default: D)"
            )
        self.components, self.fit_images = components, fit_images
        super().__init__(dim, seed, shrinkage)
        self.register_buffer("centroids", torch.zeros(components, dim, dtype=torch.float32))
        #: W with W Σ Wᵀ = I, Σ the covariance of all good patches; 0 until it is learnt.
        self.register_buffer("white", torch.zeros(dim, dim, dtype=torch.float32))

    def gaussians(self, positions: int) -> int:
        return self.components

    def empty_means(self, positions: int) -> Tensor:
        """Return the centroids; raise InputError where there are none yet."""
        if not self.white.any():
            raise InputError(
                f"density={self.name}: has no centroids; learn them before the fit, with "
                "padim_lit.model.warm_up.learn"
            )
        return self.centroids.double()

    @torch.no_grad()
    def learn(self, x: Tensor) -> None:
        """Learn the centroids from patches (B,P,D), by k-means.

        Where patches are few, fewer centroids are learnt, so that each has some patches. The
        remaining components are copies of these, and no patch is fitted to them.
        """
        generator = torch.Generator().manual_seed(self.seed)  # on the CPU everywhere
        x = x.flatten(0, 1)
        if len(x) < 2:
            raise InputError(f"density={self.name}: one patch is too few to learn from; add images")
        if len(x) > MAX_SAMPLE:
            x = x[torch.randperm(len(x), generator=generator)[:MAX_SAMPLE].to(x.device)]
        x = x.double()
        sigma = torch.cov(x.T).view(self.dim, self.dim)
        # Else a dimension that never varies would have an infinite weight.
        least = max(1e-6 * float(sigma.diagonal().mean()), torch.finfo(torch.float32).tiny)
        sigma.diagonal().add_(least)
        white = torch.linalg.inv(torch.linalg.cholesky(sigma))
        with torch.autocast(x.device.type, enabled=False):
            count = min(self.components, max(1, len(x) // MIN_PATCHES))
            centroids = k_means((x @ white.T).float(), count, generator)  # of Wx
        centroids = torch.linalg.solve(white, centroids.double().T).T.float()  # of x
        copied = torch.arange(self.components, device=x.device) % count
        self.white = white.float().to(self.white.device)
        self.centroids = centroids[copied].to(self.white.device)  # copies are the same to the bit

    def assign(self, x: Tensor) -> Tensor:
        """Return the component (n,) of each patch (n,D), the same under any autocast."""
        # Centred, so that large norms do not cancel; and before W, which magnifies offsets along
        # which good patches hardly vary.
        centre = self.centroids.double().mean(dim=0).float()
        with torch.autocast(x.device.type, enabled=False):
            return _closest(x - centre, (self.centroids - centre) @ self.white.T, self.white)

    def update_moments(
        self, moments: Moments, x: Tensor, shares: Tensor, counted: Counted
    ) -> tuple[Moments, Tensor]:
        x = counted(x).flatten(0, 1)
        shares = torch.stack([counted(share).flatten(0, 1) for share in shares])  # (L,n,D)
        groups = Groups(self.assign(x), self.components)
        means = groups.sums(shares) / groups.sizes.clamp(min=1).unsqueeze(1)
        return groups.update(moments, x), means

    def nearest(self, x: Tensor, mean: Tensor, whitening: Triangle) -> tuple[Tensor, Tensor]:
        return self.search(mean, whitening)(x)

    def search(
        self, mean: Tensor, whitening: Triangle, some: slice = slice(None), often: bool = False
    ) -> Finder:
        """Return what finds the nearest of this mixture's Gaussians; it is kept until they change.

        On a CPU the first call prepares little, because a fit without one image scores that image
        alone; the second call prepares all. What is kept goes when the factors go, and is in no
        checkpoint and no copy.

        Args:
            mean: (G,D).
            whitening: G triangles of D rows.
            some: which of the G are this mixture's.
            often: more calls will follow, so the first prepares all.
        """
        tensors = (mean, *whitening.bands)
        # Inference tensors have no version, and cannot be changed in place.
        changes = [t._version for t in tensors if not t.is_inference()]
        kept = _KEPT.get(whitening)
        new = not kept or kept[0] is not self or kept[1] is not mean or kept[2] != changes
        if new or kept[4]:  # made for a single call, and this is the second
            once, of = new and not often, (mean[some], whitening.at(some))
            on_cpu = mean.device.type == "cpu"
            finder = Search(*of, self.white, once) if on_cpu else Exhaustive(*of)
            kept = _KEPT[whitening] = (self, mean, changes, finder, once)
        return kept[3]


# By whitening factors: whose they are, the means, how often means and factors were changed in
# place, the search, and whether it was prepared for a single call.
_KEPT: WeakKeyDictionary[Triangle, tuple[Mixture, Tensor, list[int], Finder, bool]] = (
    WeakKeyDictionary()
)


def k_means(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return centroids (K,D) of x (n,D): k-means++ (Arthur and Vassilvitskii 2007), Lloyd's rounds.

    Args:
        x: (n,D).
        count: K.
        generator: draws the first centroids; on the CPU.

    >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> found = k_means(x, 2, torch.Generator().manual_seed(0))
    >>> found.sort(dim=0).values.flatten().round(decimals=2).tolist()
    [0.05..., 5.05...]
    """
    centre = x.mean(dim=0)  # so that large norms do not cancel
    x = x - centre
    norms = x.square().sum(dim=1)
    far = torch.full_like(norms, math.inf)
    chosen = [int(torch.randint(len(x), (), generator=generator))]
    for _ in range(count - 1):
        last = chosen[-1]
        squares = torch.addmv(norms, x, x[last], alpha=-2) + norms[last]
        far = torch.minimum(far, squares.clamp_(min=0))
        # Where all patches lie on chosen centroids, any patch will do.
        weights = far if far.any() else torch.ones_like(far)
        chosen.append(int(torch.multinomial(weights.cpu(), 1, generator=generator)))
    centroids = x[chosen]
    owner = None
    for _ in range(MAX_ROUNDS):
        now = _closest(x, centroids)
        if owner is not None and torch.equal(now, owner):
            break
        owner, groups = now, Groups(now, count)
        sizes = groups.sizes.unsqueeze(1)
        centroids = torch.where(sizes > 0, groups.sums(x) / sizes.clamp(min=1), centroids)
    return centroids + centre


def _closest(x: Tensor, centroids: Tensor, white: Tensor | None = None) -> Tensor:
    """Return the index (n,) of the centroid (K,D) that is nearest to each x (n,D), or to Wx."""
    # ‖x−c‖² without ‖x‖², which is the same for all centroids.
    weight, bias = -2 * centroids, centroids.square().sum(dim=1)

    def squares(x: Tensor) -> Tensor:
        return product(x if white is None else product(x, white), weight, bias)

    if x.device.type != "cpu":
        return squares(x).argmin(dim=1)

    def closest(x: Tensor) -> Tensor:
        # PyTorch's argmin takes longer than the product, NumPy's a twentieth of that.
        return torch.from_numpy(squares(x).detach().numpy().argmin(axis=1))

    return torch.cat(on_one_thread_each(closest, x.split(ASSIGN_BATCH)))
