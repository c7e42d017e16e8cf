"""``ImageDataModule``: any source of images as the train, validation and test sets of a LightningDataModule."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from ..data import ImageDataset, make_loader, open_images
from ..data.loader import ResumableLoader
from ..errors import check_positive


class ImageDataModule(LightningDataModule):
    """Images from ``gmvq.data.open_images``, in loaders that resume in the middle of an epoch.

    Use it with ``Trainer(use_distributed_sampler=False)``: the loaders divide batches among processes themselves.

    Args:
        path: "photos" (built in), "fashion_mnist", "emoji", "hf:NAME", or the path of images of your own.
        size: height and width of the training images, in pixels.
        channels: 3 for RGB, 1 for grey.
        batch_size: images per step and process.
        num_workers: processes that fetch images ahead; 0 fetches them in between.
        column: the table column with the images, where its name is not a usual one.
        flip: show mirror images too; turn it off where left and right differ.
        seed: of the order and of the augmentation.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        path: str = "photos",
        size: int = 32,
        channels: int = 3,
        batch_size: int = 64,
        num_workers: int = 0,
        column: str | None = None,
        flip: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("data.batch_size", batch_size)
        if num_workers < 0:
            raise ValueError(f"data.num_workers must not be negative, got {num_workers}")
        self.path, self.size, self.channels, self.batch_size = path, size, channels, batch_size
        self.num_workers, self.column, self.flip, self.seed = num_workers, column, flip, seed
        self._datasets: dict[str, ImageDataset] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What is needed to open the same images again: path, size, channels, column."""
        return {"path": self.path, "size": self.size, "channels": self.channels, "column": self.column}

    def dataset(self, split: str) -> ImageDataset:
        """Open "train", "validation" or "test", once.

        Raises:
            FileNotFoundError: no such data.
            ValueError: no such split, or no images in it.
        """
        if split not in self._datasets:
            self._datasets[split] = open_images(
                self.path,
                split=split,
                size=self.size,
                channels=self.channels,
                flip=self.flip,
                column=self.column,
                seed=self.seed,
            )
        return self._datasets[split]

    def train_dataloader(self) -> ResumableLoader:
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> ResumableLoader:
        """Take the largest batch size whose short last batch still has an image for every process."""
        _, world_size = self._place()
        length = len(self.dataset(split))
        for batch_size in range(self.batch_size, 0, -1):
            rest = length % (batch_size * world_size)
            if rest == 0 or rest >= world_size:
                return self._loader(split, batch_size)
        raise ValueError(f"{length} {split} images cannot be divided among {world_size} processes")

    def _loader(self, split: str, batch_size: int) -> ResumableLoader:
        rank, world_size = self._place()
        return make_loader(
            self.dataset(split),
            batch_size=batch_size,
            shuffle=split == "train",
            drop_last=None if split == "train" else False,
            seed=self.seed,
            num_workers=self.num_workers,
            rank=rank,
            world_size=world_size,
            pin_memory=torch.cuda.is_available(),
        )

    def _place(self) -> tuple[int, int]:
        """Rank and number of processes; one process where there is no trainer."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size
