"""Checkpoint files: what they hold beside Lightning's own keys, read without running any code."""

import os
from pathlib import Path
from typing import Any

import torch

from padim_lit import digests
from padim_lit.checkpoint.content import require_content
from padim_lit.errors import InputError, naming, refusing
from padim_lit.system.atomic import atomically
from padim_lit.system.paths import typed_path
from padim_lit.system.torch_file import damage, foreign

#: Version of the layout that is written; no other is read.
VERSION = 6
#: The key of a Lightning checkpoint under which all of padim_lit's lies.
KEY = "padim_lit"
#: The key under which `read` adds the file's `sha256_of`; other files name the model by it, too.
SHA256 = "model_sha256"
#: Keys under `KEY` in every checkpoint.
NEEDED = {"version", "spec", "provenance", "count", "roi"}


def read(path: str | Path, key: str = "ckpt") -> dict[str, Any]:
    """Return a checkpoint's content, ``content[KEY]`` of the present `VERSION`, and its `SHA256`.

    Args:
        path: of the file.
        key: by which it was given, for errors.

    Raises:
        InputError: no such file, not readable, damaged (if only in one bit), not a checkpoint of
            padim_lit or not of this version, or with NaN or infinity in it.
    """
    path = typed_path(path)
    with naming(path, key):
        with refusing("cannot be read", "check its rights", PermissionError):
            if not path.is_file():
                if (inside := path / "model.ckpt").is_file():
                    raise InputError(f"a folder and no file; give {inside}")
                raise InputError("no such file; give the model.ckpt of an earlier run")
            file = path.open("rb")
        # Opened once, so that all comes from one file, even if it is replaced meanwhile.
        with file:
            try:
                if (reason := foreign(file)) is None:
                    file.seek(0)
                    content = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # a foreign file fails in as many ways as there are formats
                raise InputError(
                    f"not a readable checkpoint ({type(error).__name__}); give the model.ckpt of a "
                    "finished run"
                ) from error
            if reason is not None or (reason := damage(file, content)) is not None:
                raise InputError(
                    f"damaged since it was written ({reason}); copy it again, or fit again"
                )
            require_content(content, state_of(content), os.fstat(file.fileno()).st_size)
            file.seek(0)
            content[SHA256] = digests.sha256_of(file)[:12]
    return content


def sha256_of(path: Path) -> str:
    """Return what identifies a model: the first 12 hex digits of its file's SHA-256.

    Takes about a second for each GB.
    """
    with path.open("rb") as file:
        return digests.sha256_of(file)[:12]


def write(path: Path, content: dict[str, Any]) -> None:
    """Save `content` whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with atomically(path) as temporary:
        try:
            # An open file, because torch would write a path's name into the content.
            with temporary.open("wb") as file:
                torch.save(content, file)
        except RuntimeError as error:  # torch tells of a full disk so, while it handles the cause
            cause = error.__context__
            line = str(error).partition("\n")[0]
            raise (cause if isinstance(cause, OSError) else OSError(line)) from error


def forget_arguments(content: dict[str, Any]) -> None:
    """Take out what Lightning keeps of a user's data module: objects that `read` would refuse."""
    for key in ("hyper_parameters", "hparams_name", "hparams_type"):
        content.pop(key, None)
        content.pop(f"datamodule_{key}", None)


def state_of(content: Any) -> dict[str, Any]:
    """Return ``content[KEY]`` if it has this version.

    Keys: ``version``; ``spec``, the arguments of `Detector`; ``provenance``, what was fitted (data,
    preprocessing), primitives; ``count``, N, 0 before a fit; ``offset`` (down, right), pixels by
    which the map is moved back; ``roi``, the region of interest (h,w) bool, or None. After a fit
    also ``mean`` (G,D), ``layer_means`` (L,G,D), ``whitening`` and ``scatter``, the bands of a
    `Triangle`, or packed, and ``patches`` (G,), the moments' counts; a
    slim checkpoint has no scatter and no counts, and where its whitening is int8 the ``scales`` of
    `padim_lit.checkpoint.rounding.to_int8`; ``digests`` (N,16) of the images, or None where
    they are unknown; ``calibration``, fields of `padim_lit.model.calibration.Calibration`, or None.

    Raises:
        InputError: not a checkpoint of padim_lit, or of another version.
    """
    state = content.get(KEY) if isinstance(content, dict) else None
    if (
        not isinstance(state, dict)
        or not state.keys() >= NEEDED
        or "state_dict" not in content
        or type(state["version"]) is not int
        or not isinstance(state["spec"], dict)
    ):
        raise InputError("not a padim_lit checkpoint; give the model.ckpt of an earlier run")
    if state["version"] != VERSION:
        raise InputError(
            f"written by another padim_lit (checkpoint version {state['version']}, this one reads "
            f"{VERSION}); use the padim_lit that wrote it, or fit again"
        )
    return state


def differences(saved: dict[str, Any], given: dict[str, Any], prefix: str = "") -> str:
    """Return in which keys two nested dicts differ, as ``dim is 100 there and 50 here, …``."""
    found = []
    for key in {**saved, **given} if prefix else given:  # options may be in one alone
        there, here = saved.get(key), given.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            typed = key.removesuffix("_options")  # the group whose keys they are
            found.append(differences(there, here, f"{prefix}{typed}."))
        elif there != here:
            found.append(f"{prefix}{key} is {there} there and {here} here")
    return ", ".join(f for f in found if f)
