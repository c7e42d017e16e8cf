"""``ImageDataModule``: images or signals as the train, validation and test sets of a LightningDataModule."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule

from ..data import ImageDataset, SignalDataset, TrainingSet, make_loader, open_dataset
from ..data.loader import ResumableLoader
from ..data.signals import check_sample_rate
from ..environment import cores
from ..errors import check_positive

#: The most tiles of large pictures that are looked at whenever training is interrupted for validation, and at its end.
MOST_TILES = {"validation": 1 << 12, "test": 1 << 16}


class ResumableData(LightningDataModule):
    """Train, validation and test sets in loaders that resume in the middle of an epoch; ``_open`` makes one."""

    batch_size: int
    seed: int

    def dataset(self, split: str) -> Any:
        raise NotImplementedError

    def _open(self, dataset: Any, **order: Any) -> ResumableLoader:
        raise NotImplementedError

    def train_dataloader(self) -> ResumableLoader:
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader("test")

    def _place(self) -> tuple[int, int]:
        """Rank and number of processes; one process where there is no trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _evaluation_loader(self, split: str) -> ResumableLoader:
        """With the largest batches whose short last one still has an item for every process."""
        length, world_size = len(self.dataset(split)), self._place()[1]
        for size in range(self.batch_size, 0, -1):
            rest = length % (size * world_size)
            if rest == 0 or rest >= world_size:
                return self._loader(split, size)
        raise ValueError(f"{length} items cannot be divided among {world_size} processes")

    def _loader(self, split: str, batch_size: int) -> ResumableLoader:
        rank, world_size = self._place()
        order = {"batch_size": batch_size, "shuffle": split == "train", "seed": self.seed}
        return self._open(self.dataset(split), rank=rank, world_size=world_size, **order)


class ImageDataModule(ResumableData):
    """Images or signals from ``gmvq.data.open_dataset``, in loaders that resume in the middle of an epoch.

    Use it with ``Trainer(use_distributed_sampler=False)``: the loaders divide batches among processes themselves.

    Args:
        path: "photos" or "all_photos" (built in), "fashion_mnist", "emoji", "hf:NAME", or the path of images of your
            own; "stream:PATH" and "stream:hf:NAME" read Parquet in place. With spatial_dims=1: "speech",
            "synthetic_ecg", or a path of .wav, .npy, .npz or .csv files.
        size: height and width of the training images, in pixels; of signals: samples.
        channels: 3 for RGB, 1 for grey; of signals: as many as they have, or 1 for the mean of a recording's.
        batch_size: images per step and process.
        num_workers: processes that fetch images ahead; 0 fetches them in between. Default: two where large pictures are
            decoded (see ``crops``), one on a single core, else 0.
        column: the table column with the images, where its name is not a usual one; the columns of a .csv file.
        flip: show mirror images too; turn it off where left and right differ.
        crops: what a crop shows of a picture: "scales", parts of it at random scales and places (and tiles of it in
            evaluation); "whole", nearly all of it, scaled down; "auto", the first for pictures much larger than a crop.
        vary: show quarter turns, changed colours and, of tiles, smaller copies too: more out of few photographs.
        seed: of the order and of the augmentation.
        spatial_dims: 2 for images, 1 for signals.
        value_range: of signals: the values that become 0 and 1; default: -1 and 1 for recordings, for series the range
            of the training split, a tenth wider at either end.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        path: str = "photos",
        size: int = 32,
        channels: int = 3,
        batch_size: int = 64,
        num_workers: int | None = None,
        column: str | None = None,
        flip: bool = True,
        crops: Literal["auto", "scales", "whole"] = "auto",
        vary: bool = False,
        seed: int = 0,
        spatial_dims: Literal[1, 2, 3] = 2,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        check_positive("data.batch_size", batch_size)
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"data.num_workers must not be negative, got {num_workers}")
        self.path, self.size, self.channels, self.batch_size = path, size, channels, batch_size
        self.num_workers, self.column, self.flip, self.seed = num_workers, column, flip, seed
        self.crops: Literal["auto", "scales", "whole"] = crops
        self.vary = vary
        self.spatial_dims, self.value_range = spatial_dims, value_range
        self._datasets: dict[str, TrainingSet] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What is needed to open the same data again: path, size, channels, column, crops; of signals their scale."""
        same = {"path": self.path, "size": self.size, "channels": self.channels, "column": self.column}
        train = self.dataset("train")
        if isinstance(train, ImageDataset):
            return {**same, "crops": self.crops_of(train)}
        return {**same, **train.scale.to_settings()}

    def crops_of(self, train: ImageDataset) -> Literal["auto", "scales", "whole"]:
        """What ``crops`` comes to for all splits: what it came to for the training split."""
        return "scales" if train.scales else "whole" if self.crops == "auto" else self.crops

    def dataset(self, split: str) -> TrainingSet:
        """Open "train", "validation" or "test", once.

        Raises:
            FileNotFoundError: no such data.
            ValueError: no such split, or nothing in it; or another sample rate than that of the training split.
        """
        if split not in self._datasets:
            train = None if split == "train" else self.dataset("train")
            found = open_dataset(
                self.path,
                spatial_dims=self.spatial_dims,
                split=split,
                size=self.size,
                channels=self.channels,
                flip=self.flip,
                crops=self.crops_of(train) if isinstance(train, ImageDataset) else self.crops,
                vary=self.vary,
                column=self.column,
                seed=self.seed,
                value_range=self.value_range,
            )
            if isinstance(found, SignalDataset) and isinstance(train, SignalDataset):
                check_sample_rate(found, train.sample_rate)
            if isinstance(found, ImageDataset) and split in MOST_TILES:
                found.keep_tiles(MOST_TILES[split])
            self._datasets[split] = found
        return self._datasets[split]

    @property
    def workers(self) -> int:
        """Processes of each loader."""
        if self.num_workers is not None:
            return self.num_workers
        train = self.dataset("train")
        return min(2, cores()) if isinstance(train, ImageDataset) and train.scales else 0

    def _open(self, dataset: TrainingSet, **order: Any) -> ResumableLoader:
        return make_loader(dataset, num_workers=self.workers, pin_memory=torch.cuda.is_available(), **order)
