"""Scores of good images under fits that do not know them, without holding any image out.

Held-out images would be missing from the fit. Instead each training image is scored by the
Gaussians of all the *others*. The distance to a position's Gaussian without the image follows in
closed form from the distance to the full one (`leave_one_out`); from a mixture's sums the image is
subtracted. What is learnt before the fit (fisher's and npca's Π, a mixture's centroids) has seen
training images, too, and these score too low under it: if enough other images remain, only those
are scored; if not, it is learnt again without the images to score (`cross_fit`). Near-duplicates of
an image that is left out stay in the fit.
"""

import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from padim_lit import digests
from padim_lit.checkpoint.state import spec_of
from padim_lit.deploy.over_images import Batches, Loop, over_images
from padim_lit.deploy.without_image import OTHER_PIXELS, ComponentsWithout
from padim_lit.errors import InputError, require_finite, require_tensors
from padim_lit.model.anomaly_map import image_score
from padim_lit.model.backbone import Backbone
from padim_lit.model.cpu import on_one_thread_each
from padim_lit.model.density import Density, PerPosition
from padim_lit.model.detector import Detector
from padim_lit.model.fit_state import subtract
from padim_lit.model.mixture import Mixture
from padim_lit.model.moments import Moments
from padim_lit.model.ridge import Ridge, pooled
from padim_lit.model.warm_up import evenly_spaced, fit_bytes, learn, learners
from padim_lit.system.console import tracked
from padim_lit.system.memory import available_bytes

log = logging.getLogger(__name__)

T = TypeVar("T")
#: Gives images (B,…) in each direction.
Turned = Callable[[Tensor], Iterable[Tensor]]
# The smallest 1 − a with bearable rounding errors, see `leave_one_out`.
MIN_ONE_MINUS_A = 1e-4
# Folds of `cross_fit`. Chosen on ELPV's polycrystalline cells, see docs/thresholds.md.
FOLDS = 5
# From so many images on, one moves the pooled covariance too little to matter.
FORMULA_IMAGES = 100
# Where nothing was learnt from at least so many images, only these are scored.
MIN_UNSEEN = 99
TAKEN_TO_BE_IN_THE_FIT = (
    "or these images are not in the fit, as which they were taken: measure(..., held=frozenset()) "
    "is for others"
)


def leave_one_out(
    products: Tensor, count: int, shrinkage: float = 0.0, upper: bool = False
) -> tuple[Tensor, Tensor]:
    """Return distances of training images under the Gaussians of the other N − 1 images.

    An image has V patches at a position, one in each direction: y_v = x_v − μ and z_v = W y_v.
    When they leave n = NV patches, with r = n − V, s = Σ y_v and m = n−1+ν, we have
    x_1 − μ' = y_1 + s/r and S' = S − Σ y_v y_vᵀ − ssᵀ/r. With q = z_1 + Σ z_v/r and a matrix A of
    the rows z_1, …, z_V and Σ z_v/√r, by Sherman, Morrison and Woodbury (1950)

        d'² = (m−V)/m · (‖q‖² + (Aq)ᵀ (mI − AAᵀ)⁻¹ Aq),

    which takes nothing but the products z_vᵀz_w. For V = 1 it is (N/(N−1))² (m−1)/m · d²/(1 − a)
    with a = N/(N−1) · d²/m.

    This is exact for ε' = ε m/(m−V) and the same pooled covariance. With ε itself a distance is
    between 1 and √(m/(m−V)) times as large: 0.16 % more at most for N = 320.

    A rounding error δ of d² becomes δ/(1 − a), which is large where N ≤ D and ε is small: there a,
    in general the largest eigenvalue of AAᵀ/m, is nearly 1. 1 − a is kept above 10⁻⁴, where float32
    features and factors move a distance by up to 1 % (tests/deploy/test_left_out.py). Below, a
    distance comes out too small, and its image is marked as unreliable.

    Args:
        products: (B,P,V,V) z_vᵀz_w of images that are in the moments; the first patch is scored.
        count: N, at least 3.
        shrinkage: ν, see `padim_lit.model.ridge.Ridge`.
        upper: return upper bounds for ε itself, distances √(m/(m−V)) times as large.

    Returns:
        (B,P) distances, not squared, in `products`' dtype, and (B,) bool: whether all of an image's
        are reliable.

    Raises:
        InputError: fewer than 3 images.

    >>> squares = torch.tensor([[2.0, 3.0]]).square()
    >>> distances, reliable = leave_one_out(squares[..., None, None], count=100)
    >>> [round(d, 3) for d in distances[0].tolist()], reliable.item()
    ([2.052, 3.164], True)
    """
    if count < 3:
        raise InputError(f"{count} training images: to leave one out takes at least 3")
    z, ways = products.double(), products.shape[-1]
    rest, freedom = (count - 1) * ways, count * ways - 1 + shrinkage
    one = torch.eye(ways, dtype=z.dtype, device=z.device)
    rows = torch.cat([one, torch.full_like(one[:1], rest**-0.5)])  # A is rows · (z_1; …; z_V)
    query = one[0] + 1 / rest
    moved = rows @ (z @ query).unsqueeze(-1)
    # On the CPU: a batch has tens of thousands of matrices, of which cuSOLVER refuses so many.
    found = torch.linalg.eigh((rows @ z @ rows.T / freedom).cpu())
    values, vectors = (part.to(z.device) for part in found)
    left = 1 - values
    reliable = (left >= MIN_ONE_MINUS_A).flatten(1).all(dim=1)
    along = (vectors.mT @ moved).squeeze(-1).square() / left.clamp(min=MIN_ONE_MINUS_A)
    squares = ((z @ query) @ query).clamp(min=0) + along.sum(dim=-1) / freedom
    squares *= 1 if upper else (freedom - ways) / freedom
    return squares.sqrt().to(products.dtype), reliable


@dataclass(frozen=True)
class Measured:
    """Scores of K good images under Gaussians that do not know them.

    Attributes:
        scores: (K,).
        map_maxima: of the maps (K,).
        unreliable: how many images have lower bounds for both, see `leave_one_out`.
        unseen: how many images were not in the moments.
        paths: of the K images; empty where they are not known.
    """

    scores: Tensor
    map_maxima: Tensor
    unreliable: int = 0
    unseen: int = 0
    paths: Sequence[str] = ()


@torch.inference_mode()
def measure(
    detector: Detector, batches: Batches, held: Collection[bytes] | None = None
) -> Measured:
    """Score good images; each image that is in the moments is left out of them.

    Args:
        detector: fitted; its device computes.
        batches: ``image`` (B,3,h,w); ``path`` for messages.
        held: keys of the digests in the moments, see `padim_lit.digests.keys`; if there are any,
            batches need ``digest``, too. ``frozenset()``: no image is in the moments. None: those
            that the fit's digests name; where it has none, as its loader gave none, all are taken
            to be in the moments, and images that are not would score wrongly.

    Raises:
        InputError: fewer than 3 images in the moments, a score that is not finite, or images that
            are not in the moments though `held` says so.

    >>> batches = [{"image": torch.rand(4, 3, 64, 64), "path": list("abcd")}]
    >>> found = measure(detector, batches, held=frozenset())
    >>> found.scores.shape, found.unseen
    (torch.Size([4]), 4)
    """
    if held is None and (state := detector.fit_state) and state.digests is not None:
        held = frozenset(digests.keys(state.digests))
    device = detector.projection.matrix.device
    none, unreliable, unseen = torch.empty(0, dtype=torch.float32), 0, 0
    scores, maxima, paths = [none], [none], list[str]()
    for batch in batches:
        paths += batch.get("path", ())
        images = batch["image"].to(device)
        fitted = [held is None] * len(images)
        if held:
            require_tensors(batch, "digest")
            fitted = [key in held for key in digests.keys(batch["digest"])]
        inside = torch.tensor(fitted, device=device)
        distances = inside.new_empty(len(images), detector.positions, dtype=torch.float32)
        reliable = ~inside
        if inside.any():
            # A fit holds an image in all directions.
            x = detector.embed_turned(images[inside])
            try:
                distances[inside], reliable[inside] = _left_out(detector, x)
            except InputError as error:
                if held is not None:
                    raise
                raise InputError(f"{error}; {TAKEN_TO_BE_IN_THE_FIT}") from error
        if not inside.all():
            distances[~inside] = detector.distances(images[~inside])
        unseen += int((~inside).sum())
        # In float32, as in `Detector.forward`.
        with torch.autocast(distances.device.type, enabled=False):
            maps = detector.anomaly_map(distances)
        counted = detector.anomaly_map.counted(distances)
        found = image_score(counted, maps, detector.image_score)
        require_finite(found, batch)
        scores.append(found.float().cpu())
        maxima.append(maps.flatten(1).amax(dim=1).float().cpu())
        unreliable += int((~reliable).sum())
    return Measured(torch.cat(scores), torch.cat(maxima), unreliable, unseen, paths)


def _left_out(detector: Detector, held: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances (B,P) of the fit's images, each under a fit without it.

    Also return (B,) bool: whether all distances of an image are reliable.

    Args:
        held: (B,V,P,D) their embeddings in all directions, the one that is scored first.
    """
    density, x = detector.density, held[:, 0]
    reliable = torch.ones(len(x), dtype=torch.bool, device=x.device)
    few, found = detector.count < FORMULA_IMAGES, list[Tensor]()
    with torch.autocast(x.device.type, enabled=False):
        if few and (density.shrinkage or detector.ridge.unit == "variance"):
            whole = detector.require_state().moments, detector.ridge
            anew = partial(_subtracted, detector, density, *whole)
            return _side_by_side(detector, anew, list(held)), reliable
        whitening = detector.require_fitted()
        parts, scales = density.parts(detector.positions), density.scales_in(whitening)
        for (part, some), scale in zip(parts, scales, strict=True):
            if type(part) is PerPosition:
                y = (held - detector.mean[some].float()).movedim(2, 0)  # (P,B,V,D)
                z = whitening.at(some).times(y.flatten(1, 2)).view(y.shape) / scale
                products = (z @ z.mT).transpose(0, 1)
                # Where the bounds differ much, the upper one, which is on the safe side.
                distances, reliable = leave_one_out(products, detector.count, part.shrinkage, few)
                distances *= scale
            else:
                # `Both` needs no distances to components beyond that to the position.
                limits = found[0].split(1) if found else [None] * len(held)
                images = list(zip(held, limits, strict=True))
                distances = _side_by_side(detector, _without(detector, part, some), images)
            found.append(distances)
    return density.combine(found), reliable


def _without(
    detector: Detector, part: Density, some: slice
) -> Callable[[tuple[Tensor, Tensor | None]], Tensor]:
    """Return a function that measures an image under a part's Gaussians without that image.

    It takes the image's embeddings (V,P,D), the one that is scored first, and a limit (1,P): only
    nearer ones are looked for, elsewhere the distance may be inf; or None.
    """
    moments, ridge = detector.require_state().moments.at(some), detector.ridge
    mixed = type(part) is Mixture
    if mixed:  # one of many images hardly moves the pooled covariance
        ridge = replace(ridge, common=pooled(moments))
    if not mixed or moments.mean.device.type != "cpu":
        return lambda image: _subtracted(detector, part, moments, ridge, image[0])
    search = part.search(detector.mean, detector.require_fitted(), some, often=True)

    def without(image: tuple[Tensor, Tensor | None]) -> Tensor:
        one, limit = image
        leaving = detector.anomaly_map.counted(one).flatten(0, 1)
        return ComponentsWithout(part, moments, ridge, search, leaving).nearest(one[:1], limit)

    return without


def _subtracted(
    detector: Detector, part: Density, moments: Moments, ridge: Ridge, one: Tensor
) -> Tensor:
    """Return an image's distances (1,P) under Gaussians without it, which are factored anew.

    Args:
        part: of the detector's density, or all of it.
        moments: the part's, with the image.
        one: (V,P,D), its embeddings in all directions, the one that is scored first.
    """
    empty = part.empty(detector.positions, one.device)
    image, _ = part.update_moments(empty, one, one[None], detector.anomaly_map.counted)
    rest = subtract(moments, image, empty.mean)
    whitening = part.factorize(rest, ridge)
    return part.nearest(one[:1], rest.mean, whitening)[0]


def _side_by_side(detector: Detector, work: Callable[[T], Tensor], images: list[T]) -> Tensor:
    """Apply `work`, which gives (1,P), to each image, on several threads: all (B,P).

    An image's steps are too small to be shared by threads. On a CPU each has one, if there is
    memory for moments and factors of its own.
    """
    device = detector.projection.matrix.device
    free = available_bytes(device) if device.type == "cpu" else 0
    if free is not None and free < 2 * torch.get_num_threads() * fit_bytes(detector):
        return torch.cat([work(one) for one in images])
    return torch.cat(on_one_thread_each(work, images))


@torch.no_grad()
def cross_fit(
    detector: Detector, batches: Batches, scored: Sequence[int] | None = None
) -> Measured:
    """Score training images under fits that have learnt nothing from them, not even Π.

    The images are divided into folds. For each fold, Π and centroids are learnt from images of the
    other folds, as many as at the fit; with these the Gaussians are fitted on all images; and the
    fold's images are scored, each left out of the Gaussians. A new image will be scored by a Π from
    all folds; if one from fewer folds differs, then on the safe side.

    The backbone runs once; its feature maps are held in memory.

    Args:
        detector: fitted, and left as it is; its device computes.
        batches: ``image`` (B,3,h,w) of all N training images, in the order of the fit.
        scored: indices of the images to score; None: all.

    Raises:
        InputError: fewer than 3 images.

    >>> from padim_lit import Fisher
    >>> fisher = Fisher(detector.backbone.embedding_dim, dim=4)
    >>> other = Detector(detector.backbone, fisher, image_shape=(64, 64))
    >>> cross_fit(other, [{"image": torch.rand(6, 3, 64, 64)}]).scores.shape
    threshold, each time learnt anew ...
    torch.Size([6])
    """
    device, sizes, paths = detector.projection.matrix.device, [1], list[str]()

    def seen() -> Iterator[Tensor]:
        for batch in batches:
            paths.extend(batch.get("path", ()))
            sizes.append(len(batch["image"]))
            yield batch["image"].to(device)

    remembered = Remembered(detector.backbone, seen(), detector.turned)
    count = remembered.count

    def numbered(numbers: Sequence[int]) -> list[dict[str, Tensor]]:
        return [{"image": part.to(device)} for part in torch.tensor(numbers).split(max(sizes))]

    scored, found = range(count) if scored is None else scored, []
    folds = [scored[i::FOLDS] for i in range(min(FOLDS, len(scored)))]
    for fold in tracked(folds, "threshold, each time learnt anew"):
        held = set(fold)
        others = [i for i in range(count) if i not in held]
        other = _blank(detector, remembered)
        other.turned = remembered.turned

        def some(images: int, rest: Sequence[int] = others) -> list[dict[str, Tensor]]:
            return numbered([rest[i] for i in evenly_spaced(len(rest), images)])

        learn(other, some, again=True)  # w stays: scores must be of the same formula
        state = other.empty_state()
        for batch in numbered(range(count)):
            state = other.update_state(state, batch)
        other.set_state(state)
        found.append(measure(other, numbered(fold)))
    scores, maxima = [f.scores for f in found], [f.map_maxima for f in found]
    names = [paths[i] for i in chain(*folds)] if paths else ()
    unreliable = sum(f.unreliable for f in found)
    return Measured(torch.cat(scores), torch.cat(maxima), unreliable, paths=names)


class Remembered(Backbone):
    """A backbone that has run over N images once, and takes their indices (B,) instead.

    Args:
        backbone: the one that it stands for.
        batches: of images (B,3,h,w).
        turned: gives images in each direction, as the attribute does of indices.

    >>> images = torch.rand(5, 3, 64, 64)
    >>> both_ways = lambda images: [images, images.flip(-1, -2)]
    >>> remembered = Remembered(detector.backbone, images.split(2), both_ways)
    >>> upside_down = list(remembered.turned(torch.tensor([4, 0])))[1]
    >>> maps = detector.backbone(images[[4, 0]].flip(-1, -2))
    >>> remembered.count, torch.allclose(remembered(upside_down)[0], maps[0], rtol=1e-3)
    (5, True)
    """

    def __init__(self, backbone: Backbone, batches: Iterable[Tensor], turned: Turned):
        self.__dict__.update(vars(backbone))  # it shares the layers and all attributes
        seen = [[[x.cpu() for x in backbone(one)] for one in turned(some)] for some in batches]
        # All images in one direction, then in the next.
        layers = zip(*chain(*zip(*seen, strict=True)), strict=True)
        self.maps = [torch.cat(maps) for maps in layers]
        ways, count = len(seen[0]), len(self.maps[0]) // len(seen[0])
        self.count, self.turned = count, lambda numbers: (numbers + count * i for i in range(ways))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [x[images.cpu()].to(images.device) for x in self.maps]

    def require_images(self, images: Tensor, image_shape: tuple[int, int]) -> None:
        """Indices are none, and were images of the right shape before."""

    def grids(self, image_shape: tuple[int, int]) -> list[tuple[int, int]]:
        return [(x.shape[2], x.shape[3]) for x in self.maps]


def _blank(detector: Detector, backbone: Backbone) -> Detector:
    """Return an unfitted detector of the same spec on `backbone`, with a Π of its own."""
    spec = spec_of(detector)
    for part in ("backbone", "proj", "dim", "seed", "proj_options", "density_options"):
        del spec[part]
    projection, spec["density"] = deepcopy(detector.projection), deepcopy(detector.density)
    spec["alignment"] = None  # its map is the detector's
    other = Detector(backbone, projection, **spec).to(projection.matrix.device)
    other.anomaly_map = detector.anomaly_map  # with its region of interest
    return other


def measure_training(
    detector: Detector, dataset: Dataset, images: int, loop: Loop, in_order: bool = True
) -> Measured:
    """Score training images under fits that do not know them, in the cheapest valid way.

    Args:
        detector: fitted on all of `dataset`.
        dataset: samples with ``image``, and where it is known ``path``.
        images: how many are scored, at most.
        loop: how the images are read.
        in_order: `dataset` is in the fit's order, which tells what was learnt from which images.

    >>> samples = [{"image": torch.rand(3, 64, 64)}] * 6
    >>> measure_training(detector, samples, 4, Loop(torch.device("cpu"), 8)).scores.shape
    threshold ...
    torch.Size([4])
    """
    count = len(dataset)
    unseen = _alone(detector, count) if in_order or not learners(detector) else None
    if unseen is not None:
        part = Subset(dataset, [unseen[i] for i in evenly_spaced(len(unseen), images)])
        work = partial(measure, detector)
    else:
        kept = min(count, _that_fit(detector))
        scored = evenly_spaced(kept, images)
        log.info(
            "%s learnt from images that set the threshold, too: %d more fits, each of which scores "
            "images that it did not learn from",
            " and ".join(f"{key}={name}" for key, name in learners(detector).items()),
            min(FOLDS, len(scored)),
        )
        if kept < count:
            log.warning(
                "memory holds the feature maps of %d of %d good images in %d direction(s): these "
                "alone set the threshold",
                kept,
                count,
                detector.rotations,
            )
        part = Subset(dataset, evenly_spaced(count, kept))
        work = partial(cross_fit, detector, scored=scored)
    found = over_images(detector, part, work, loop, "threshold")
    if found.unseen:
        raise InputError(OTHER_PIXELS)
    return found


def met_again(detector: Detector, dataset: Dataset) -> int:
    """Return how many images `measure_training` will embed again, each direction counted.

    >>> met_again(detector, [None] * 6)
    6
    """
    count = count_of(dataset)
    return 0 if count is None or _alone(detector, count) is None else count * detector.rotations


def count_of(dataset: Dataset) -> int | None:
    """Return N of a data set that gives images by their indices; None for any other.

    >>> count_of([1, 2]), count_of(iter([1, 2]))
    (2, None)
    """
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        return None
    return len(dataset)


def _alone(detector: Detector, count: int) -> list[int] | None:
    """Return the indices of the images that nothing was learnt from; None: they are too few."""
    parts = (detector.projection, detector.density)
    seen = {i for one in parts for i in evenly_spaced(count, one.fit_images)}
    unseen = [i for i in range(count) if i not in seen]
    return unseen if not seen or len(unseen) >= MIN_UNSEEN else None


def _that_fit(detector: Detector) -> int:
    """Return how many images have feature maps that fit into half of the free memory."""
    shapes = detector.backbone.grids(detector.image_shape)
    numbers = sum(c * h * w for c, (h, w) in zip(detector.backbone.channels, shapes, strict=True))
    free = available_bytes(torch.device("cpu"))
    return sys.maxsize if free is None else free // (2 * 4 * numbers * detector.rotations)
