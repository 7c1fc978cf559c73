"""What a fit asks of a Lightning Trainer, as nothing is trained, and of its ranks and loaders."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader

from padim_lit.data.loaders import of_all_ranks, require_as_many, require_each_once
from padim_lit.errors import InputError
from padim_lit.system.console import showing_bars

log = logging.getLogger(__name__)


@contextmanager
def as_it_runs(trainer: Trainer) -> Iterator[None]:
    """For what a fit does beside its epoch: the Trainer's precision, and bars if it shows any.

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

    Of a fit also for EarlyStopping, and warn where a ModelCheckpoint would save nothing; its
    min_epochs and min_steps are dropped. What Lightning warns of by design (a frozen backbone, its
    own use of PyTorch) is hushed.

    >>> require_trainer(Trainer(accelerator="cpu", logger=False))
    """
    strategy, precision = trainer.strategy, trainer.precision
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        raise InputError(
            f"trainer.strategy={type(strategy).__name__}: it shards what is trained, and here "
            "nothing is; the backbone and the moments are whole on every rank; use trainer=ddp"
        )
    if getattr(strategy, "_start_method", "popen") != "popen":
        raise InputError("ranks that are forked or spawned take the fit with them; use ddp")
    require_float64(strategy.root_device)
    if precision.endswith("true") and precision != "32-true":
        raise InputError(
            f"trainer.precision={precision}: would round the moments; use 32-true or bf16-mixed "
            "(backbone in bf16, moments in float32)"
        )
    if torch.is_autocast_enabled(strategy.root_device.type):
        raise InputError(
            "torch.autocast around a Trainer: no result would tell of it; leave it out, or give "
            "Trainer(precision='bf16-mixed')"
        )
    if trainer.training and trainer.early_stopping_callbacks:
        raise InputError(
            "EarlyStopping has nothing to stop: a fit is one pass, without losses or metrics; "
            "leave it out of the Trainer's callbacks, and judge by trainer.test"
        )
    chosen = any(map(_chosen, trainer.checkpoint_callbacks))
    if trainer.training and chosen and trainer.is_global_zero:
        log.warning(
            "ModelCheckpoint saves nothing, as a fit takes no steps and has no metrics: leave it "
            "out, and call trainer.save_checkpoint('model.ckpt') after the fit"
        )
    if trainer.training:  # one pass is all, whatever they ask for
        trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
    if trainer.state.fn is not None:  # it runs
        trainer.callbacks.append(_Hushed(trainer))


class _Hushed(Callback):
    """Without what Lightning warns of by design, until the run of `trainer` ends."""

    def __init__(self, trainer: Trainer) -> None:
        # Filters are the process's, and its program is to have its own back.
        (filters := ExitStack()).enter_context(warnings.catch_warnings())
        self._filters = filters
        # So narrow that they hush no other model's warning meanwhile.
        warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree$")
        if trainer.training:
            still = sum(not module.training for module in trainer.lightning_module.modules())
            found = rf"Found {still} module\(s\) in eval mode at the start"
            warnings.filterwarnings("ignore", found)

    def teardown(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._filters.close()
        # Another list, because Lightning is going through this one.
        trainer.callbacks = [one for one in trainer.callbacks if one is not self]

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        self.teardown(trainer)


def nothing_fitted(trainer: Trainer) -> InputError:
    """What to raise where a fit ended without an epoch of its own.

    >>> nothing_fitted(Trainer(accelerator="cpu", logger=False))
    InputError('nothing was fitted: no epoch or batches are left; use a new Trainer')
    """
    if trainer.ckpt_path is None:
        return InputError("nothing was fitted: no epoch or batches are left; use a new Trainer")
    return InputError(
        f"nothing was fitted: the fit of ckpt_path={trainer.ckpt_path} is done; read it with "
        "PaDiM.load_from_checkpoint to test it, or padim_lit.load to score images"
    )


def _chosen(callback: Checkpoint) -> bool:
    """Whether it is a ModelCheckpoint that is to save, and not the one each Trainer brings."""
    if not isinstance(callback, ModelCheckpoint):
        return False
    if callback.save_last and "on_train_end" in vars(ModelCheckpoint):  # since Lightning 2.5.6
        return False
    # Its folder is set by now, to what Lightning calls it where none was given.
    elsewhere = callback.dirpath is not None and Path(callback.dirpath).name != "checkpoints"
    asked = callback.save_last or callback.save_weights_only or callback.save_top_k != 1
    return asked or elsewhere or callback.monitor is not None or callback.filename is not None


def loader_of_fit(trainer: Trainer) -> tuple[DataLoader, Sequence[Any] | None]:
    """The loader of a fit, which gives each image once, as the model will see it.

    With the numbers of the images that all ranks' loaders give, where they are known.

    Raises InputError for several loaders, or one of another kind, or without batches, and where
    images come more than once, a hook changes them, or ranks have other numbers of batches.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"the images to learn from come from a {type(loader).__name__}; give one DataLoader"
        )
    if loader.batch_sampler is None:
        raise InputError(
            "the DataLoader has batch_size=None: its Dataset gives batches, and what learns before "
            "the fit and the threshold read images; let the Dataset give images, and set batch_size"
        )
    numbers = require_each_once(loader, trainer.world_size)
    require_as_many(of_all_ranks(trainer.num_training_batches, trainer.world_size))
    _require_no_hooks(trainer.lightning_module, trainer.datamodule)
    return loader, numbers


def _require_no_hooks(*given: Any) -> None:
    """Raise InputError where a module or data module changes batches between loader and model.

    What learns before the fit, the threshold, and all that scores later read images themselves.
    """
    for one in given:
        for name in ("on_before_batch_transfer", "on_after_batch_transfer"):
            if one is not None and is_overridden(name, one):
                raise InputError(
                    f"{type(one).__name__}.{name} would change the images of the fit alone, not "
                    "those that are scored later; change them in the Dataset, for both"
                )
