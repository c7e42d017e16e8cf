"""Encoders and decoders of a setting: latents are channels first, (B, D, *spatial), images and sounds (B, C, *size)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..comparison.networks import Residual, conv, conv_norm
from .design import Setting

#: Heads and blocks of the transformers.
_HEADS, _BLOCKS = 4, 2


def build(setting: Setting) -> tuple[nn.Module, nn.Module]:
    """The encoder, with the endings of the setting, and the decoder."""
    encoder, last, decoder = _BUILDERS[setting.network](setting)
    if "zero" in setting.endings:
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    return nn.Sequential(encoder, Ending(setting.dim, setting.endings)), decoder


class Ending(nn.Module):
    """What stands between the encoder's last layer and the quantizer: LayerNorm, tanh, times 100, plus 10."""

    def __init__(self, dim: int, endings: tuple[str, ...]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim) if "layernorm" in endings else None
        self.tanh = "tanh" in endings
        self.scale = 100.0 if "scale" in endings else 1.0
        self.shift = 10.0 if "shift" in endings else 0.0

    def forward(self, latents: Tensor) -> Tensor:
        if self.norm is not None:
            latents = self.norm(latents.movedim(1, -1)).movedim(-1, 1)
        if self.tanh:
            latents = torch.tanh(latents)
        return latents * self.scale + self.shift


Parts = tuple[nn.Module, nn.Module, nn.Module]


def _conv(norm: str) -> Callable[[Setting], Parts]:
    """Strided convolutions and as many transposed ones; nothing but them, the norm and ReLU."""

    def build_conv(setting: Setting) -> Parts:
        width, dims = setting.width, setting.spatial_dims
        down: list[nn.Module] = []
        for stage in range(setting.stages):
            down += conv_norm(setting.channels if stage == 0 else width, width, norm, dims, stride=2)
        down += conv_norm(width, width, norm, dims)
        last = conv(dims)(width, setting.dim, 1)
        up = conv_norm(setting.dim, width, norm, dims)
        for _ in range(setting.stages):
            up += conv_norm(width, width, norm, dims, stride=2, transposed=True)
        up.append(conv(dims)(width, setting.channels, 3, padding=1))
        return nn.Sequential(*down, last), last, nn.Sequential(*up)

    return build_conv


def _sound(setting: Setting) -> Parts:
    """Dilated residual units and strided convolutions over time, ELU, no norm: the kind of neural sound codecs."""
    width = setting.width
    down: list[nn.Module] = [nn.Conv1d(setting.channels, width, 7, padding=3)]
    up: list[nn.Module] = [nn.Conv1d(setting.dim, width, 7, padding=3)]
    for stage in range(setting.stages):
        down += [_sound_unit(width, 3**stage), nn.ELU(), nn.Conv1d(width, width, 4, stride=2, padding=1)]
        up += [nn.ELU(), nn.ConvTranspose1d(width, width, 4, stride=2, padding=1)]
        up.append(_sound_unit(width, 3**stage))
    last = nn.Conv1d(width, setting.dim, 3, padding=1)
    up += [nn.ELU(), nn.Conv1d(width, setting.channels, 7, padding=3)]
    return nn.Sequential(*down, nn.ELU(), last), last, nn.Sequential(*up)


def _sound_unit(width: int, dilation: int) -> nn.Module:
    dilated = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
    return Residual(nn.ELU(), dilated, nn.ELU(), nn.Conv1d(width, width, 1))


def _tokenizer(setting: Setting) -> Parts:
    """Residual blocks, GroupNorm, SiLU, attention in the middle: the kind of image tokenizers, small."""
    width, channels = setting.width, setting.channels
    down: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
    up: list[nn.Module] = [nn.Conv2d(setting.dim, width, 3, padding=1), *_middle(width)]
    for _ in range(setting.stages):
        down += [nn.Conv2d(width, width, 3, stride=2, padding=1), _residual(width)]
        up += [_residual(width), nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)]
    last = nn.Conv2d(width, setting.dim, 3, padding=1)
    encoder = nn.Sequential(*down, *_middle(width), *_norm_silu(width), last)
    up += [*_norm_silu(width), nn.Conv2d(width, channels, 3, padding=1)]
    return encoder, last, nn.Sequential(*up)


def _norm_silu(width: int) -> list[nn.Module]:
    return [nn.GroupNorm(8, width), nn.SiLU()]


def _residual(width: int) -> nn.Module:
    convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
    return Residual(*_norm_silu(width), convs[0], *_norm_silu(width), convs[1])


def _middle(width: int) -> list[nn.Module]:
    """Residual block, attention, residual block."""
    return [_residual(width), Attention(width), _residual(width)]


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


def _mlp(setting: Setting) -> Parts:
    """The same MLP on every patch: no patch knows of another."""
    patch, width = setting.downsample, 4 * setting.width
    values = setting.channels * patch * patch

    def layers(inputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, width, 1), nn.GELU(), nn.Conv2d(width, width, 1), nn.GELU()]

    last = nn.Conv2d(width, setting.dim, 1)
    encoder = nn.Sequential(nn.PixelUnshuffle(patch), *layers(values), last)
    decoder = nn.Sequential(*layers(setting.dim), nn.Conv2d(width, values, 1), nn.PixelShuffle(patch))
    return encoder, last, decoder


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        inputs = self.inputs(self.norm(x)).view(batch, count, 3, _HEADS, width // _HEADS)
        q, k, v = inputs.permute(2, 0, 3, 1, 4)
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


def _vit(setting: Setting) -> Parts:
    """Patch embedding and pre-norm transformer blocks on both sides."""
    encoder = VitEncoder(setting)
    return encoder, encoder.head, VitDecoder(setting)


_BUILDERS: dict[str, Callable[[Setting], Parts]] = {
    "conv": _conv("none"),
    "conv-group": _conv("group"),
    "conv-batch": _conv("batch"),
    "vit": _vit,
    "mlp": _mlp,
    "tokenizer": _tokenizer,
    "sound": _sound,
}
