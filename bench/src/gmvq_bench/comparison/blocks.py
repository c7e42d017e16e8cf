"""Building blocks of the convolutional networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def conv(dims: int) -> type[nn.Conv1d] | type[nn.Conv2d]:
    """The convolution of 1 or 2 spatial dimensions."""
    return nn.Conv1d if dims == 1 else nn.Conv2d


def conv_norm(
    inputs: int, outputs: int, norm: str, dims: int, *, stride: int = 1, transposed: bool = False
) -> list[nn.Module]:
    """A convolution, of kernel 3, or 4 when it changes the size, a norm ("none", "group", "batch") and ReLU."""
    kind = conv(dims)
    if transposed:
        kind = nn.ConvTranspose1d if dims == 1 else nn.ConvTranspose2d
    kernel = 3 if stride == 1 else 4
    return [kind(inputs, outputs, kernel, stride=stride, padding=1), *_norm(norm, outputs, dims), nn.ReLU()]


def _norm(norm: str, width: int, dims: int) -> list[nn.Module]:
    if norm == "group":
        return [nn.GroupNorm(8, width)]
    if norm == "batch":
        return [nn.BatchNorm1d(width) if dims == 1 else nn.BatchNorm2d(width)]
    return []


def norm_silu(width: int) -> list[nn.Module]:
    return [nn.GroupNorm(8, width), nn.SiLU()]


class Residual(nn.Module):
    """x + conv(act(norm(conv(act(norm(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *norm_silu(width),
            nn.Conv2d(width, width, 3, padding=1),
            *norm_silu(width),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Attention(nn.Module):
    """x + self-attention of one head over all places of the normalised x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.inputs = nn.Conv2d(width, 3 * width, 1)
        self.output = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inputs(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.output(mixed.transpose(1, 2).reshape(x.shape))


def middle(width: int) -> list[nn.Module]:
    """The middle of a tokenizer: residual block, attention, residual block."""
    return [Residual(width), Attention(width), Residual(width)]


class SoundUnit(nn.Module):
    """x + conv1(ELU(dilated conv(ELU(x)))) over time."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ELU(),
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation),
            nn.ELU(),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
