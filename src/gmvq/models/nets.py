"""Default convolutional encoders and decoders by name, for images, 1-D signals and volumes alike.

Each network is a linear map of whole patches plus a residual network that corrects it: the linear part is
learned within a few hundred steps, costs next to nothing and spares the residual part from learning it. In
the latter, strided convolutions lead down and transposed ones up (kernel 4, stride 2: every output sees the
same number of inputs), which on a CPU take less time than nearest-neighbour upsampling with a convolution or
pixel shuffle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import check_choice, check_positive

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@dataclass(frozen=True)
class _Size:
    """One named size. Level 0 is the input's resolution, level i has 1/2^i of it along each axis."""

    widths: tuple[int, ...]  # channels at levels 0 to 4; 0: the level is skipped
    blocks: tuple[int, ...]  # residual blocks at levels 0 to 4, in the encoder and in the decoder
    middle: int  # further blocks at the latents' resolution
    kernels: tuple[int, int]  # of the two convolutions of a residual block
    normalise: bool


_SIZES = {
    "tiny": _Size((0, 32, 64, 64, 64), (0, 0, 0, 0, 0), middle=2, kernels=(3, 1), normalise=False),
    "small": _Size((32, 64, 128, 128, 128), (0, 1, 1, 1, 1), middle=2, kernels=(3, 3), normalise=True),
    "base": _Size((64, 128, 256, 256, 256), (1, 2, 2, 2, 1), middle=4, kernels=(3, 3), normalise=True),
}


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))): the identity at initialisation."""

    def __init__(self, width: int, kernels: tuple[int, int], *, normalise: bool, spatial_dims: int) -> None:
        super().__init__()
        first, last = (_CONV[spatial_dims](width, width, k, padding=k // 2) for k in kernels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
        self.body = nn.Sequential(*_activation(width, normalise), first, *_activation(width, normalise), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Encoder(nn.Module):
    """Map inputs (B, channels, *size) in [0, 1] to latents (B, dim, *size / downsample).

    ``config`` holds the arguments; see ``build_networks`` for what they mean.
    """

    def __init__(self, name: str, *, channels: int, dim: int, downsample: int, spatial_dims: int) -> None:
        super().__init__()
        self.config = _checked(name, channels, dim, downsample, spatial_dims)
        size, levels = _SIZES[name], downsample.bit_length() - 1
        conv = _CONV[spatial_dims]
        layers: list[nn.Module] = []
        width = channels
        for level in range(levels + 1):
            wide = size.widths[level]
            if level:
                layers.append(conv(width, wide, 4, stride=2, padding=1))
            elif wide:
                layers.append(conv(width, wide, 3, padding=1))
            width = wide or width
            layers += _blocks(size, width, size.blocks[level], spatial_dims)
        layers += _blocks(size, width, size.middle, spatial_dims)
        self.residual = nn.Sequential(*layers, *_activation(width, size.normalise), conv(width, dim, 1))
        self.linear = conv(channels, dim, downsample, stride=downsample)

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.config)
        x = 2 * x - 1
        return self.linear(x) + self.residual(x)


class Decoder(nn.Module):
    """Map latents (B, dim, *size / downsample) to outputs (B, channels, *size) in [0, 1], unclamped.

    ``config`` holds the arguments; see ``build_networks`` for what they mean.
    """

    def __init__(self, name: str, *, channels: int, dim: int, downsample: int, spatial_dims: int) -> None:
        super().__init__()
        self.config = _checked(name, channels, dim, downsample, spatial_dims)
        size, levels = _SIZES[name], downsample.bit_length() - 1
        conv, up = _CONV[spatial_dims], _CONV_TRANSPOSE[spatial_dims]
        width = size.widths[levels]
        layers: list[nn.Module] = [conv(dim, width, 3, padding=1)]
        layers += _blocks(size, width, size.middle + size.blocks[levels], spatial_dims)
        for level in reversed(range(levels)):
            wide = size.widths[level]
            if not wide:  # straight to the output
                layers += _activation(width, size.normalise)
            layers.append(up(width, wide or channels, 4, stride=2, padding=1))
            width = wide
            layers += _blocks(size, width, size.blocks[level], spatial_dims)
        if width:
            layers += [*_activation(width, size.normalise), conv(width, channels, 3, padding=1)]
        self.residual = nn.Sequential(*layers)
        self.linear = up(dim, channels, downsample, stride=downsample)

    def forward(self, latents: Tensor) -> Tensor:
        return 0.5 * (self.linear(latents) + self.residual(latents)) + 0.5


def build_networks(
    name: str = "tiny", *, channels: int = 3, dim: int = 32, downsample: int = 4, spatial_dims: int = 2
) -> tuple[Encoder, Decoder]:
    """Build the networks of a named size: (B, channels, *size) to (B, dim, *size / downsample) and back.

    Inputs and outputs are on the scale [0, 1]; the decoder does not clamp. Any input size divisible by
    ``downsample`` works.

    Args:
        name: ``"tiny"`` (0.26 M parameters at downsample 4), ``"small"`` (2.3 M) or ``"base"`` (17 M).
        channels: channels of the input.
        dim: channels of the latents.
        downsample: 4, 8 or 16 input samples per latent position along each axis.
        spatial_dims: 1 for signals (B, C, T), 2 for images (B, C, H, W), 3 for volumes (B, C, D, H, W).

    Raises:
        ValueError: an unknown ``name``, ``downsample`` or ``spatial_dims``.

    Example:
        >>> encoder, decoder = build_networks("tiny", dim=32, downsample=4)
        >>> latents = encoder(torch.rand(2, 3, 32, 32))  # (2, 32, 8, 8)
        >>> images = decoder(latents)  # (2, 3, 32, 32)
    """
    options = {"channels": channels, "dim": dim, "downsample": downsample, "spatial_dims": spatial_dims}
    return Encoder(name, **options), Decoder(name, **options)


def build_networks_1d(
    name: str = "tiny", *, channels: int = 1, dim: int = 32, downsample: int = 4
) -> tuple[Encoder, Decoder]:
    """``build_networks`` for signals (B, channels, T) on the scale [0, 1]."""
    return build_networks(name, channels=channels, dim=dim, downsample=downsample, spatial_dims=1)


def check_input(x: Tensor, config: Mapping[str, Any]) -> None:
    """Raise unless x (B, channels, *size) is what an encoder with such a ``config`` takes."""
    channels, downsample = config["channels"], config["downsample"]
    if x.ndim != config["spatial_dims"] + 2 or x.shape[1] != channels:
        axes = {1: "T", 2: "H, W", 3: "D, H, W"}[config["spatial_dims"]]
        raise ValueError(
            f"the encoder was built for inputs of shape (B, {channels}, {axes}), got {tuple(x.shape)}; "
            "change the input, or build the networks with other channels= or spatial_dims="
        )
    if any(size < downsample or size % downsample for size in x.shape[2:]):
        raise ValueError(
            f"every size of the input must be positive and divisible by downsample={downsample}, got sizes "
            f"{tuple(x.shape[2:])}; crop, pad or resize it, or build the networks for another downsample"
        )
    if not x.is_floating_point():
        raise TypeError(
            f"the encoder takes floating-point values in [0, 1], got {x.dtype}; 8-bit images: x.float() / 255"
        )


def _checked(name: str, channels: int, dim: int, downsample: int, spatial_dims: int) -> dict[str, Any]:
    """Check the arguments of ``build_networks`` and return them as a dict."""
    check_choice("name", name, tuple(_SIZES))
    check_positive("channels", channels)
    check_positive("dim", dim)
    if downsample not in (4, 8, 16):
        raise ValueError(f"downsample must be 4, 8 or 16, got {downsample}")
    if spatial_dims not in _CONV:
        raise ValueError(f"spatial_dims must be 1, 2 or 3, got {spatial_dims}")
    sizes = {"channels": channels, "dim": dim, "downsample": downsample, "spatial_dims": spatial_dims}
    return {"name": name, **sizes}


def _blocks(size: _Size, width: int, count: int, spatial_dims: int) -> list[nn.Module]:
    options: dict[str, Any] = {"normalise": size.normalise, "spatial_dims": spatial_dims}
    return [ResidualBlock(width, size.kernels, **options) for _ in range(count)]


def _activation(width: int, normalise: bool) -> list[nn.Module]:
    return [nn.GroupNorm(min(32, width // 4), width), nn.SiLU()] if normalise else [nn.SiLU()]
