"""A small vision transformer as encoder and as decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .setting import Setting

_HEADS, _BLOCKS = 4, 2


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inputs, self.output = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = (
            self.inputs(self.norm(x)).view(batch, count, 3, _HEADS, width // _HEADS).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width)
        x = x + self.output(mixed)
        return x + self.mlp(x)


class Trunk(nn.Module):
    """Learned positions, blocks and a last norm over tokens (B, N, width)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(_BLOCKS)), nn.LayerNorm(width))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.blocks(tokens + self.positions)


class VitEncoder(nn.Module):
    """Patches, embedded linearly, through blocks to a linear head."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        patch, width = setting.downsample, setting.width
        self.embed = nn.Conv2d(setting.channels, width, patch, stride=patch)
        self.trunk = Trunk(setting.positions, width)
        self.head = nn.Linear(width, setting.dim)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images)
        latents = self.head(self.trunk(tokens.flatten(2).transpose(1, 2)))
        return latents.transpose(1, 2).unflatten(2, tokens.shape[2:])


class VitDecoder(nn.Module):
    """Latents, embedded linearly, through blocks to patches."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        patch, width = setting.downsample, setting.width
        self.embed = nn.Linear(setting.dim, width)
        self.trunk = Trunk(setting.positions, width)
        self.head = nn.Linear(width, setting.channels * patch * patch)
        self.shuffle = nn.PixelShuffle(patch)

    def forward(self, latents: Tensor) -> Tensor:
        tokens = self.trunk(self.embed(latents.flatten(2).transpose(1, 2)))
        patches = self.head(tokens).transpose(1, 2).unflatten(2, latents.shape[2:])
        return self.shuffle(patches)
