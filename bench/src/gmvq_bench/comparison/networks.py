"""The encoders and decoders that a suite can name: (B, channels, H, W) to latents (B, dim, h, w), and back."""

from __future__ import annotations

from torch import Tensor, nn

from gmvq.models import build_networks

#: Channels of ``conv`` (0.3 M parameters at downsample 4 and dim 64) and ``conv-large`` (1.0 M).
_WIDTHS = {"conv": 64, "conv-large": 128}


def build_pair(name: str, channels: int, dim: int, downsample: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of a name.

    ``conv`` and ``conv-large``: strided convolutions, GroupNorm and ReLU, no path from patch to latent beside them;
    ``published``: of the paper's source; else of ``gmvq.models.build_networks``, which have such a path.

    Raises:
        ValueError: an unknown name, or a size that the network does not have.
    """
    if name in _WIDTHS:
        return _conv(channels, dim, downsample, _WIDTHS[name])
    if name == "published":
        if downsample != 4:
            raise ValueError(f"the published network has a downsample of 4, got {downsample}")
        return _published(channels, dim)
    return build_networks(name, channels=channels, dim=dim, downsample=downsample)


def _conv(channels: int, dim: int, downsample: int, width: int) -> tuple[nn.Module, nn.Module]:
    stages = downsample.bit_length() - 1
    down: list[nn.Module] = []
    up = conv_norm(dim, width, "group", 2)
    for stage in range(stages):
        down += conv_norm(width if stage else channels, width, "group", 2, stride=2)
        up += conv_norm(width, width, "group", 2, stride=2, transposed=True)
    down += [*conv_norm(width, width, "group", 2), nn.Conv2d(width, dim, 1)]
    return nn.Sequential(*down), nn.Sequential(*up, nn.Conv2d(width, channels, 3, padding=1))


def _published(channels: int, dim: int) -> tuple[nn.Module, nn.Module]:
    """The network for 32 px of SQ-VAE (arXiv 2205.07547), as arXiv 2305.08842 has it: dim / 2, then dim channels."""
    half = dim // 2
    encoder = nn.Sequential(
        *conv_norm(channels, half, "batch", 2, stride=2),
        *conv_norm(half, dim, "batch", 2, stride=2),
        nn.Conv2d(dim, dim, 3, padding=1),
        *(_residual(dim) for _ in range(2)),
    )
    decoder = nn.Sequential(
        *(_residual(dim) for _ in range(2)),
        *conv_norm(dim, dim, "batch", 2),
        *conv_norm(dim, half, "batch", 2, stride=2, transposed=True),
        nn.ConvTranspose2d(half, channels, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )
    return encoder, decoder


def _residual(width: int) -> nn.Module:
    return Residual(
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
        nn.BatchNorm2d(width),
    )


class Residual(nn.Module):
    """x + layers(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


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
