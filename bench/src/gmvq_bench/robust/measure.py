"""The figures of a trained run over unseen examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .data import Data
from .setting import Setting

_POSITIONS = 5000
_PER_CODE = 4
_BATCH = 64


@torch.no_grad()
def measure(model: nn.Module, examples: Tensor, setting: Setting) -> dict[str, float]:
    """``mse``, and of the codes ``perplexity`` and ``usage``, the share of them that occurs, in eval mode.

    The examples are spread over those given: enough for 5,000 positions, and for four per code.
    """
    chosen = _spread(examples, setting)
    model.eval()
    counts = torch.zeros(setting.codebook_size, dtype=torch.int64)
    squared = 0.0
    for x in chosen.split(_BATCH):
        reconstruction, indices, _ = model(x)
        squared += float((reconstruction - x).double().square().sum())
        counts += torch.bincount(indices.reshape(-1), minlength=setting.codebook_size)
    share = counts.double() / counts.sum()
    return {
        "mse": squared / chosen.numel(),
        "perplexity": float(torch.exp(-torch.xlogy(share, share).sum())),
        "usage": float((counts > 0).double().mean()),
        "positions": int(counts.sum()),
    }


def _spread(examples: Tensor, setting: Setting) -> Tensor:
    wanted = -(-max(_POSITIONS, _PER_CODE * setting.codebook_size) // setting.positions)
    wanted = min(len(examples), max(64, wanted))
    return examples[torch.arange(wanted) * len(examples) // wanted]


def mse_of_mean(data: Data) -> float:
    """The test MSE of the mean training example, the least that any network reaches."""
    return float((data.test - data.train.mean(0)).square().mean())
