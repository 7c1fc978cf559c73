"""The one exception that a user's input can cause."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

# C0 and C1: what moves a cursor, sets a window's title, or begins a line.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class InputError(ValueError):
    """A config, file or argument that cannot be used.

    The message is one line: what was given, what is allowed, what to do. The command line prints
    it without a traceback and exits with status 1.
    """


def require_choice(key: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise InputError unless the value of a key is one of those allowed.

    >>> require_choice("mode", ["fit"], {"fit": 1})
    Traceback (most recent call last):
    padim_lit.errors.InputError: mode=['fit']: unknown; allowed: fit
    """
    if value not in [*allowed]:  # and not in a dict, which no list can be looked up in
        raise InputError(f"{key}={value}: unknown; allowed: {', '.join(allowed)}")


def require_kinds(*given: tuple[Any, Any]) -> None:
    """Raise InputError for the first object that is not of the class beside it; T | None: or None.

    >>> require_kinds((1, int), ("jl", float | None))
    Traceback (most recent call last):
    padim_lit.errors.InputError: str is no float: make it one, as docs/own.md shows
    """
    for one, kind in given:
        if not isinstance(one, kind):
            wanted = getattr(kind, "__args__", [kind])[0].__name__
            raise InputError(
                f"{type(one).__name__} is no {wanted}: make it one, as docs/own.md shows"
            )


def as_pair(key: str, value: Any, most: int) -> list[int]:
    """[h, w] of a whole number for both, or of two; InputError for anything else.

    >>> as_pair("tiles", 4, most=64)
    [4, 4]
    """
    sides = isinstance(value, Sequence) and not isinstance(value, str)
    pair = list(value) if sides else [value, value]
    if len(pair) != 2 or not all(type(side) is int and 1 <= side <= most for side in pair):
        raise InputError(f"{key}={value}: must be a whole number or two, [h,w], from 1 to {most}")
    return pair


def visible(text: str) -> str:
    r"""The text without what a terminal would obey; a file's name may hold it, and a line end.

    >>> visible("\x1b[2J a\n.png")
    '\\x1b[2J a\\n.png'
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def told(error: BaseException) -> str:
    """What an error says, on one line; of a file that may not be used, what to do.

    >>> told(PermissionError(13, "Permission denied", "a.txt"))
    'a.txt: Permission denied; check its path and rights'
    """
    if isinstance(error, PermissionError) and error.filename is not None:
        return visible(f"{error.filename}: {error.strerror}; check its path and rights")
    return visible(" ".join(str(error).split())) or type(error).__name__


@contextmanager
def refusing(what: str, todo: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds in the block into an InputError: what is wrong (why); what to do.

    >>> with refusing("a.txt cannot be written", "make room", OSError):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    padim_lit.errors.InputError: a.txt cannot be written (No space left on device); make room
    """
    try:
        yield
    except InputError:  # says it already, and is a ValueError
        raise
    except kinds as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:400]
        raise InputError(f"{what} ({why or type(error).__name__}); {todo}") from error


@contextmanager
def naming(path: object, key: str = "ckpt") -> Iterator[None]:
    """What is refused in the block names the file, and the key that it was given by.

    >>> with naming("a.ckpt"):
    ...     raise InputError("not fitted")
    Traceback (most recent call last):
    padim_lit.errors.InputError: ckpt=a.ckpt: not fitted
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}={path}: {error}") from error.__cause__


def require_tensors(batch: Any, *keys: str) -> None:
    """Raise InputError unless a batch is a dict with a tensor under each of these keys.

    >>> require_tensors([Tensor()], "image")
    Traceback (most recent call last):
    padim_lit.errors.InputError: a batch of the loader is a list without image; it must ...
    """
    given = batch if isinstance(batch, Mapping) else {}
    if missing := [key for key in keys if not isinstance(given.get(key), Tensor)]:
        raise InputError(
            f"a batch of the loader is a {type(batch).__name__} without {', '.join(missing)}; it "
            "must be a dict of tensors, see help(padim_lit.PaDiM); a collate_fn can make it"
        )


def require_scored(score: Tensor, label: Tensor) -> None:
    """Raise InputError unless each image has a score that is finite and a label, 0 or 1.

    Args:
        score, label: (B,).

    >>> require_scored(Tensor(2, 1), Tensor(2))
    Traceback (most recent call last):
    padim_lit.errors.InputError: scores (2, 1) and labels (2,): both must be (B,), one an image
    """
    if score.ndim > 1 or score.shape != label.shape:
        shapes = f"scores {tuple(score.shape)} and labels {tuple(label.shape)}"
        raise InputError(f"{shapes}: both must be (B,), one an image")
    require_labels(label)
    require_order(score, "image scores")


def require_labels(label: Tensor, whole: bool = False) -> None:
    """Raise InputError unless all are 0 or 1; with `whole`, as integers or bool.

    >>> require_labels(Tensor([0, -1]))
    Traceback (most recent call last):
    padim_lit.errors.InputError: label holds [-1.0, 0.0] of torch.float32; it must be 0 for good ...
    """
    if (whole and label.is_floating_point()) or not ((label == 0) | (label == 1)).all():
        raise InputError(
            f"label holds {label.unique().tolist()} of {label.dtype}; it must be 0 for good and 1 "
            "for defective, as whole numbers or bool"
        )


def require_masked(maps: Tensor, mask: Tensor) -> None:
    """Raise InputError unless both are (B,h,w).

    >>> require_masked(Tensor(2, 1, 8, 8), Tensor(2, 8, 8))
    Traceback (most recent call last):
    padim_lit.errors.InputError: maps (2, 1, 8, 8) and masks (2, 8, 8): both must be (B,h,w)
    """
    if maps.ndim != 3 or mask.shape != maps.shape:
        shapes = f"maps {tuple(maps.shape)} and masks {tuple(mask.shape)}"
        raise InputError(f"{shapes}: both must be (B,h,w)")


def require_order(values: Tensor, what: str) -> None:
    """Raise InputError where values hold a NaN or an infinity: no rank is right for it.

    >>> require_order(Tensor([0.0, float("nan")]), "image scores")
    Traceback (most recent call last):
    padim_lit.errors.InputError: image scores that are not finite have no order; look for NaN ...
    """
    if not values.isfinite().all():
        raise InputError(f"{what} that are not finite have no order; look for NaN in the maps")


def require_finite(values: Tensor, batch: Mapping[str, Any]) -> None:
    """Raise InputError for the first image whose values (B,…) hold a NaN or an infinity.

    Args:
        values: features, embeddings or scores of the images of `batch`.
        batch: its ``path``, a list of B names, where there is one.
    """
    # A sum is cheaper than a mask as large as the values; it can only overflow where they are lost.
    finite = values.flatten(1).sum(1).isfinite() if values.ndim > 1 else values.isfinite()
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        path = batch["path"][bad] if "path" in batch else f"image {bad} of the batch"
        raise InputError(
            f"{path}: its features or distances are not finite; check the image and the weights"
        )
