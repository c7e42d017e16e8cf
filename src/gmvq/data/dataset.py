"""`ImageDataset`: any source of pictures as a torch dataset whose randomness depends on the draw alone."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import check_choice, check_positive, require
from .pictures import Crops, Pictures, PictureView, TileView
from .randomness import uniforms
from .scales import ScaleView, are_large
from .skipping import Watch

Index = int | tuple[int, int]
"""An item's number, or the pair (item, draw)."""
#: Largest change of each: an angle of hue, the log of a factor on saturation and on contrast, a share of the range,
#: the log of a factor on each channel.
HUE, SATURATION, CONTRAST, BRIGHTNESS, TINT = 0.15 * math.pi, 0.3, 0.2, 0.1, 0.3
#: Numbers of chance that a picture takes.
CHANCES = 9
_GREY_AXIS = np.full(3, 1 / math.sqrt(3))


class ImageDataset(Dataset[Tensor]):
    """Square images in [0, 1] from any source; build one with ``open_images``.

    ``dataset[i]`` and ``dataset[(i, draw)]`` give a float32 tensor of shape (channels, size, size). ``draw``
    is the number of the draw since training began: all augmentation is a pure function of (seed, draw), so
    a resumed run sees exactly what an uninterrupted one would have seen. Without it, draw = i.

    Args:
        source: where the pictures come from, with ``channels`` channels.
        size, channels, flip, seed, crops, vary: as in ``open_images``.
        augment: draw random crops (where the source allows them) and flips.

    Attributes:
        watch: what happens besides when an item cannot be read.

    Raises:
        ValueError: the size is not positive, channels is neither 1 nor 3, or crops at several scales are asked for of a
            source that does not say how large its pictures are.
    """

    def __init__(
        self,
        source: Pictures,
        *,
        size: int,
        channels: int,
        augment: bool = False,
        flip: bool = True,
        seed: int = 0,
        crops: Crops = "auto",
        vary: bool = False,
    ) -> None:
        check_positive("size", size)
        if channels not in (1, 3):
            raise ValueError(f"channels must be 3 (RGB) or 1 (luminance), got {channels}")
        check_choice("crops", crops, get_args(Crops))
        self.size, self.channels, self.watch = size, channels, Watch()
        self._source, self._augment, self._flip, self._vary, self._seed = source, augment, flip, vary, seed
        self._view: TileView | PictureView | ScaleView
        if crops == "scales" and not source.sized:
            raise ValueError(
                "crops='scales' needs pictures whose sizes their files, tables or shards tell before they are decoded. "
                f"{source.description} does not: leave crops at 'auto', or give the path of a table without stream:"
            )
        #: Whether crops are at random scales and places, and other items tiles.
        self.scales = crops == "scales" or (
            crops == "auto" and source.framing == "crop" and are_large(source, size)
        )
        if self.scales:
            self._view = ScaleView(source, size, channels, seed, training=augment)
        elif source.framing == "tiles":
            self._view = TileView(source, size, copies=augment and vary)
        else:
            self._view = PictureView(source, size, crops=source.cropped)

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, index: Index) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[Index]) -> list[Tensor]:
        """Fetch many items at once; the data loader calls this."""
        items, draws = items_and_draws(indices, len(self))
        chance = uniforms(self._seed, draws, 5 + CHANCES) if self._augment else None
        pixels = self._view.batch(items, draws, None if chance is None else chance[:, 1:5])
        self.watch.look(self.skipped)
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        if chance is not None and self._flip:
            mirrored = chance[:, 0] < 0.5
            pixels[mirrored] = pixels[mirrored][..., ::-1]
        if chance is not None and self._vary:
            pixels = vary(pixels, chance[:, 5:])
        return list(torch.from_numpy(pixels).to(torch.float32).div_(255).unbind())

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """Where every item lies, (N,), where those of a block are best read together; else None."""
        return self._source.blocks if isinstance(self._view, PictureView) else None

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Files that could not be used, each with the reason; one that breaks while it is decoded when it is met.

        In a loader with workers that happens in the worker's copy of the dataset (see ``watch.notes``).
        """
        return self._source.skipped

    @property
    def description(self) -> str:
        """One line: what the images are, how many, and by which rule this split was made."""
        shape = f"{self.size}x{self.size}x{self.channels}"
        if isinstance(self._view, ScaleView):
            of = "" if len(self) == self._view.tiles else f" (of {self._view.tiles})"
            tiles = f"tiles of {self._view.pictures} whole pictures{of}"
            random = f"{self._view.pictures} pictures at random scales and places"
            shape = f"{shape}, {random if self._augment else tiles}"
        skipped = f", {len(self.skipped)} files skipped" if self.skipped else ""
        return f"{self._source.description}: {len(self)} items of {shape}{skipped}"

    def item_name(self, index: int) -> str:
        """Return what item ``index`` is called: its file, row, glyph, or place in a photograph."""
        return self._view.name(position(index, len(self)))

    def label(self, index: int) -> int | None:
        """Return the class of item ``index``, or None where there are no classes."""
        return self._view.label(position(index, len(self)))

    def keep_tiles(self, most: int) -> None:
        """Where the items are tiles of large pictures, make so many of them, spread evenly, the whole set."""
        if isinstance(self._view, ScaleView):
            self._view.keep(most)

    def whole_pictures(self, most: int, side: int) -> list[tuple[str, Tensor]]:
        """Some photographs that items are cut from, spread evenly: name, and picture (channels, H, W) in [0, 1].

        They are ``most`` at most, scaled down to ``side`` pixels or fewer; none where an item is a whole picture.
        """
        if isinstance(self._view, PictureView):
            return []
        pil, count, found = require("PIL.Image", "data"), min(most, self._view.pictures), []
        for number in range(count):
            name, picture = self._view.whole((2 * number + 1) * self._view.pictures // (2 * count))
            image = pil.fromarray(np.squeeze(np.asarray(picture)))
            image.thumbnail((side, side), pil.Resampling.LANCZOS)
            pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, self.channels)
            found.append((name, pixels.permute(2, 0, 1).float() / 255))
        return found


def items_and_draws(indices: Sequence[Index], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """From what a loader asks for to the items' numbers and draws; without a draw, it is the item's number."""
    pairs = [index if isinstance(index, tuple) else (index, None) for index in indices]
    items = [position(number, length) for number, _ in pairs]
    draws = [item if draw is None else draw for item, (_, draw) in zip(items, pairs, strict=True)]
    return np.array(items, dtype=np.int64), np.array(draws, dtype=np.int64)


def position(index: int, length: int) -> int:
    """An item's number from 0 on; negative ones count from the end, as in a list."""
    found = operator.index(index)
    if not -length <= found < length:
        raise IndexError(f"index {found} is out of range for a dataset of {length} items")
    return found % length


def vary(planes: NDArray[np.uint8], chance: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Turn squares (B, C, size, size) and change their colours, each by its own ``CHANCES`` uniforms, (B, CHANCES).

    A colour x becomes t (c (M x - m) + m + b): M turns it around the grey axis by the hue and stretches it away from
    that axis by the saturation, c is the contrast, m the mean of the square, b the brightness, t the tint.
    """
    turned = planes.copy()
    upside_down, transposed = chance[:, 0] < 0.5, chance[:, 1] < 0.5
    turned[upside_down] = turned[upside_down][..., ::-1, :]
    turned[transposed] = turned[transposed].swapaxes(-1, -2)
    values = turned.astype(np.float32)
    sway = 2 * chance[:, 2:] - 1
    if planes.shape[1] == 3:
        matrices = _colour_matrices(HUE * sway[:, 0], np.exp(SATURATION * sway[:, 1])).astype(np.float32)
        flat = values.reshape(len(values), 3, -1)
        values = (matrices @ flat).reshape(values.shape)
    contrast = np.exp(CONTRAST * sway[:, 2]).astype(np.float32)[:, None, None, None]
    shift = (255 * BRIGHTNESS * sway[:, 3]).astype(np.float32)[:, None, None, None]
    means = values.mean((1, 2, 3), keepdims=True)
    tint = np.exp(TINT * sway[:, 4 : 4 + planes.shape[1]]).astype(np.float32)[:, :, None, None]
    return np.rint(np.clip(tint * (contrast * (values - means) + means + shift), 0, 255)).astype(np.uint8)


def _colour_matrices(angle: NDArray[np.float64], saturation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations around the grey axis by Rodrigues' formula, stretched across it: (B, 3, 3)."""
    x, y, z = _GREY_AXIS
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    rotation = np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)
    grey = np.full((3, 3), 1 / 3)
    return grey + saturation[:, None, None] * (rotation - grey)
