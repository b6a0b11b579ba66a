"""Progress of a training run: a bar with the time left and the latest validation Dice."""

import sys
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl

from hlfd.progress import Advance, console, progress


class TrainingProgress(pl.Callback):
    """Counts steps over the whole run, not per epoch, so that the time left is the run's."""

    def __init__(self, name: str):
        self.name = name
        self._stack = ExitStack()
        self._advance: Advance | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._advance = self._stack.enter_context(
            progress(f"training {self.name}", int(trainer.estimated_stepping_batches))
        )
        self._advance(trainer.global_step)
        self._done = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if self._advance is not None and trainer.global_step > self._done:
            self._advance(trainer.global_step - self._done)
            self._done = trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        every = max(epochs // 10, 1)
        if epoch == epochs or epoch % every == 0 or not sys.stderr.isatty():
            dice = float(trainer.callback_metrics["val/dice"])
            console.print(f"  epoch {epoch}/{epochs}, validation Dice {dice:.3f}", highlight=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stack.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stack.close()
