"""The handwritten digits that come inside scikit-learn, enlarged: images that no tokenizer of clothes has seen."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

from gmvq.errors import check_choice, check_positive


class Digits(Dataset[Tensor]):
    """1,797 digits of 8 x 8 pixels, 17 levels, as images (channels, size, size) in [0, 1].

    They are enlarged bilinearly, so they are smoother than pictures taken at that size: what tells them apart may be
    that, and not what they show.
    """

    def __init__(self, size: int, channels: int) -> None:
        check_positive("size", size)
        check_choice("channels", str(channels), ("1", "3"))
        found: Any = load_digits()
        images = torch.from_numpy(found.images).float()[:, None] / 16.0
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
        self._images = images.expand(-1, channels, -1, -1)
        self.description = f"digits of scikit-learn, 8x8 enlarged to {size}x{size}: {len(self)} images"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index]
