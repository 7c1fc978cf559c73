"""Which versions and which device a result was made with."""

import platform
from importlib import metadata

import torch

from padim_lit.version import __version__

PACKAGES = ("torch", "torchvision", "lightning", "timm", "torchmetrics", "numpy", "pillow")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads, {platform.machine()}"


def versions() -> dict[str, str]:
    versions = {f"version/{name}": metadata.version(name) for name in PACKAGES}
    return {
        "version/padim_lit": __version__,
        "version/python": platform.python_version(),
        **versions,
    }
