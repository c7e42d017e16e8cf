"""``LoggedPictures``: what a tokenizer makes of some validation images, as a picture in TensorBoard or W&B."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from ..evaluation.pictures import sheet, to_picture

#: Under which name the picture is logged.
NAME = "validation/reconstructions"
_IMAGES = 8


class LoggedPictures(Callback):
    """Log the first images of every validation, above their reconstructions; loggers of figures get nothing.

    Signals, and what has no ``reconstruct``, are left out.
    """

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        reconstruct = getattr(getattr(pl_module, "model", None), "reconstruct", None)
        loggers = [log for log in trainer.loggers if isinstance(log, TensorBoardLogger | WandbLogger)]
        if batch_idx or not loggers or not trainer.is_global_zero or reconstruct is None or batch.ndim != 4:
            return
        images = batch[:_IMAGES]
        picture = sheet([to_picture(image) for image in (*images, *reconstruct(images))], len(images))
        for logger in loggers:
            if isinstance(logger, TensorBoardLogger):
                writer: Any = logger.experiment
                writer.add_image(NAME, picture, trainer.global_step, dataformats="HWC")
            else:
                logger.log_image(NAME, [picture], step=trainer.global_step)
