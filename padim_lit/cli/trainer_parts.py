"""What a fit hands to Lightning's Trainer: what records its test, writes files, takes Ctrl-C."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from padim_lit.checkpoint import format as checkpoint_format
from padim_lit.data.loaders import of_all_ranks
from padim_lit.errors import InputError
from padim_lit.padim import PaDiM
from padim_lit.visualization.gallery import Gallery
from padim_lit.visualization.predictions import TestScore, predictions_of


class Recorder(Callback):
    """Keeps each test image's prediction, and the few pictures worth looking at.

    Attributes:
        started: when work began, further ranks being there.
        predictions, gallery: of the last test; empty before one, and where there is none.
    """

    started: float
    predictions: list[TestScore]
    gallery: Gallery

    def setup(self, trainer: Trainer, pl_module: PaDiM, stage: str) -> None:
        self.started = time.perf_counter()
        # A test that ran out of memory starts anew.
        self.predictions, self.gallery = [], Gallery()

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        roi = pl_module.detector.anomaly_map.roi
        self.predictions += predictions_of(batch, outputs["score"], roi)
        self.gallery.add(batch, outputs["score"], outputs["map"], roi)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: PaDiM) -> None:
        ranks = of_all_ranks((self.predictions, self.gallery), trainer.world_size)
        self.predictions = [row for rows, _ in ranks for row in rows]
        self.gallery = ranks[0][1]
        for _, gallery in ranks[1:]:
            self.gallery.merge(gallery)


class WholeFile(TorchCheckpointIO):
    """Write checkpoints with our own writer.

    Lightning's takes the memory of the file once more, and room in a temporary folder.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, **_: Any) -> None:
        checkpoint_format.write(Path(path), checkpoint)


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt after Ctrl-C, in whichever way Lightning takes it."""
    try:
        yield
    except SystemExit:
        # Its exit status 1 would say that something failed.
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except MisconfigurationException as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
    # It would let the run go on with half the images; SIGTERM it looks for at batches alone.
    if trainer.interrupted or trainer.received_sigterm:
        raise KeyboardInterrupt
