"""`DataRecipe`: how the data around a trained model is opened, by every command and on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .opening import open_dataset
from .pictures import Crops
from .scale import SignalScale
from .signals import SignalDataset, TrainingSet, check_sample_rate
from .splits import SPLITS, NoSuchSplitError

#: What ``gmvq fit`` sets aside where a set does not come divided.
_TRAINING_FRACTIONS = (0.1, 0.1)


@dataclass(frozen=True)
class DataRecipe:
    """How to open the images or signals of a run, on this machine or another.

    Args:
        path, size, channels, column: as in ``open_images`` or ``open_signals``.
        split: "train", "validation", "test", or "all": the three one after the other, or, where the set does not
            come divided, everything once, as a split called "all".
        divided: divide a set that does not come divided by the fixed hash of ``gmvq fit``; for the set that a
            model was trained on, so that its tokens keep to the same splits.
        scale: of signals: that of the model's training; None for images.
        crops: of images: "whole" makes one item of every picture, "scales" and "auto" are as in ``open_images``.
    """

    path: str
    split: str = "all"
    size: int = 32
    channels: int = 3
    column: str | None = None
    divided: bool = False
    scale: SignalScale | None = None
    crops: Crops = "whole"

    def open(self) -> dict[str, TrainingSet]:
        """Open the splits, by name.

        Raises:
            FileNotFoundError, ValueError, MissingExtraError: as ``open_one``.
        """
        if self.split != "all":
            return {self.split: self.open_one(self.split)}
        place = Path(self.path).expanduser()
        # One table, array, font or image is one set.
        if place.is_file() and place.suffix.lower() != ".npz":
            whole = self.open_one("all")
            if not self.divided or len(whole) < len(SPLITS):
                return {"all": whole}
        found: dict[str, TrainingSet] = {}
        absent: NoSuchSplitError | None = None
        for split in SPLITS:
            try:
                found[split] = self.open_one(split, undivided=not self.divided)
            except NoSuchSplitError as error:
                absent = error
        if absent is not None and not found:
            raise absent
        return {"all": found["train"]} if list(found) == ["train"] else found

    def open_one(self, split: str, *, undivided: bool = False) -> TrainingSet:
        """Open one split, or with "all" everything that no folder or file name sets aside.

        Args:
            split: "train", "validation", "test" or "all".
            undivided: do not divide a set that does not come divided: it is all train.

        Raises:
            FileNotFoundError, ValueError, MissingExtraError: as ``open_images`` or ``open_signals``; signals of another
                sample rate.
        """
        scale = self.scale
        dataset = open_dataset(
            self.path,
            spatial_dims=2 if scale is None else 1,
            value_range=None if scale is None else (scale.low, scale.high),
            sample_rate=None if scale is None else scale.sample_rate,
            split="train" if split == "all" else split,
            split_fractions=(0.0, 0.0) if undivided or split == "all" else _TRAINING_FRACTIONS,
            size=self.size,
            channels=self.channels,
            augment=False,
            crops=self.crops,
            column=self.column,
        )
        if isinstance(dataset, SignalDataset) and scale is not None:
            check_sample_rate(dataset, scale.sample_rate)
        return dataset
