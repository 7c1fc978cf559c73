"""Whether a fit's moments have room, asked before hours of images are read in vain."""

import torch

from padim_lit.errors import InputError
from padim_lit.model.detector import Detector
from padim_lit.model.triangular import triangle_bytes
from padim_lit.system.memory import available_bytes, readable


def fit_bytes(detector: Detector) -> int:
    """Bytes of moments and factors in memory.

    >>> from padim_lit import JL, Backbone
    >>> backbone = Backbone('test_resnet', weights='random')
    >>> fit_bytes(Detector(backbone, JL(backbone.embedding_dim, dim=8), (64, 64)))
    184320
    """
    gaussians, dim = detector.gaussians, detector.projection.dim
    return 2 * triangle_bytes(gaussians, dim) + 8 * gaussians * dim


def require_memory(detector: Detector, device: torch.device, ranks: int) -> None:
    """Raise InputError unless moments and factors fit into what is free on `device`.

    Args:
        ranks: that fit at the same time; on CPUs they share the memory.

    >>> from padim_lit import JL, Backbone
    >>> backbone = Backbone('test_resnet', weights='random')
    >>> detector = Detector(backbone, JL(backbone.embedding_dim, dim=8), (64, 64))
    >>> require_memory(detector, torch.device("cpu"), ranks=1)
    """
    need = (ranks if device.type == "cpu" else 1) * fit_bytes(detector)
    have = available_bytes(device)
    if have is None or need <= have:
        return
    dim, (h, w) = detector.projection.dim, detector.map_grid
    what, less = f"on a {h}×{w} grid", f"grid={max(h, w) // 2} for a quarter"
    mixed = detector.density.options.get("components", 0)
    if 2 * mixed > detector.gaussians:
        what, less = f"with density.components={mixed}", "fewer of these"
    raise InputError(
        f"dim={dim} {what} needs {readable(need)} for moments and factors, {readable(have)} are "
        f"free on {device}; use a smaller dim, or {less}"
    )
