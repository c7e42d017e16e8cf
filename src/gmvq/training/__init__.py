"""Training with Lightning: module, data module, callbacks, checkpoints.

What is known without Lightning, such as how a checkpoint is read, is imported without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .averaging import AveragedWeights
    from .checkpoint import load_model, read_checkpoint
    from .data import ImageDataModule
    from .module import TokenizerModule
    from .sharding import ShardedStrategy
    from .stage import Adversarial

_WHERE = {
    "Adversarial": "stage",
    "AveragedWeights": "averaging",
    "ImageDataModule": "data",
    "ShardedStrategy": "sharding",
    "TokenizerModule": "module",
    "load_model": "checkpoint",
    "read_checkpoint": "checkpoint",
}

__all__ = [
    "Adversarial",
    "AveragedWeights",
    "ImageDataModule",
    "ShardedStrategy",
    "TokenizerModule",
    "load_model",
    "read_checkpoint",
]
__getattr__, __dir__ = on_first_use(__name__, _WHERE, "train")
