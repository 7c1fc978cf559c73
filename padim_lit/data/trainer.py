"""What a fit asks of a Lightning Trainer, as nothing is trained, and of its loader."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader

from padim_lit.data.loaders import of_all_ranks, require_as_many, require_each_once
from padim_lit.errors import InputError
from padim_lit.system.console import showing_bars


@contextmanager
def as_it_runs(trainer: Trainer) -> Iterator[None]:
    """Work beside an epoch as the Trainer does: at its precision, with its progress bars.

    >>> with as_it_runs(Trainer(accelerator="cpu", logger=False, precision="bf16-mixed")):
    ...     torch.is_autocast_enabled("cpu")
    True
    """
    bars = trainer.progress_bar_callback is not None
    with showing_bars(bars), trainer.precision_plugin.forward_context():
        yield


def require_float64(device: torch.device) -> None:
    """Raise InputError for a device that has none.

    >>> require_float64(torch.device("mps"))
    Traceback (most recent call last):
    padim_lit.errors.InputError: trainer.accelerator=mps has no float64, which the means need; ...
    """
    if device.type == "mps":  # Apple's GPUs
        raise InputError("trainer.accelerator=mps has no float64, which the means need; use cpu")


def require_trainer(trainer: Trainer) -> None:
    """Raise InputError for a device, a strategy or a precision that the sums do not survive.

    What Lightning warns of by design is hushed.

    >>> require_trainer(Trainer(accelerator="cpu", logger=False))
    """
    strategy, precision = trainer.strategy, trainer.precision
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        raise InputError(
            f"trainer.strategy={type(strategy).__name__}: it shards what is trained, and here "
            "nothing is; the backbone and the moments are whole on every rank; use trainer=ddp"
        )
    if (start := getattr(strategy, "_start_method", "popen")) != "popen":
        raise InputError(
            f"trainer.strategy=ddp_{start}: ranks that are forked or spawned take the fit with "
            "them; use trainer=ddp"
        )
    require_float64(strategy.root_device)
    if precision.endswith("true") and precision != "32-true":
        raise InputError(
            f"trainer.precision={precision}: would round the moments; use 32-true or bf16-mixed "
            "(backbone in bf16, moments in float32)"
        )
    # By design: a frozen backbone, and Lightning's own use of PyTorch.
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start")
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree$")


def loader_of_fit(trainer: Trainer) -> tuple[DataLoader, Sequence[Any] | None]:
    """Return a fit's loader, which gives each image once, as the model will see it.

    With the numbers of the images that all ranks' loaders give, where they are known.

    Raises InputError for several loaders, or one of another kind, and where images come more than
    once, a hook changes them, or ranks have other numbers of batches.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"the images to learn from come from a {type(loader).__name__}; give one DataLoader"
        )
    # What learns before the fit, the threshold, and all that scores later read images themselves.
    for one in filter(None, (trainer.lightning_module, trainer.datamodule)):
        for name in ("on_before_batch_transfer", "on_after_batch_transfer"):
            if is_overridden(name, one):
                raise InputError(
                    f"{type(one).__name__}.{name} would change the images of the fit alone, not "
                    "those of its threshold; change them in the Dataset, and give the predictor "
                    "what that gives (docs/library.md)"
                )
    numbers = require_each_once(loader, trainer.world_size)
    require_as_many(of_all_ranks(trainer.num_training_batches, trainer.world_size))
    return loader, numbers
