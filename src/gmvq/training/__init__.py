"""Training with Lightning: module, data module, callbacks, checkpoints. The only code that imports Lightning."""

from __future__ import annotations

from ..errors import require

require("lightning.pytorch", "train")

from .averaging import AveragedWeights  # noqa: E402
from .checkpoint import load_model, read_checkpoint  # noqa: E402
from .data import ImageDataModule  # noqa: E402
from .module import TokenizerModule  # noqa: E402
from .sharding import ShardedStrategy  # noqa: E402
from .stage import Adversarial  # noqa: E402

__all__ = [
    "Adversarial",
    "AveragedWeights",
    "ImageDataModule",
    "ShardedStrategy",
    "TokenizerModule",
    "load_model",
    "read_checkpoint",
]
