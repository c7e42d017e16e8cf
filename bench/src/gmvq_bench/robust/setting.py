"""One network and recipe of a robust suite, as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

NETWORKS = ("conv", "conv-group", "conv-batch", "vit", "mlp", "tokenizer", "sound")
#: In the order in which they apply: a zero-initialised last layer, LayerNorm, tanh, times 100, plus 10.
ENDINGS = ("zero", "layernorm", "tanh", "scale", "shift")
LOSSES = ("mse", "sum", "l1", "perceptual")


@dataclass(frozen=True)
class Setting:
    """One network and recipe; the quantizer is what is compared.

    Attributes:
        number: in the design; even: for decisions, odd: for reports.
        network: of ``NETWORKS``.
        endings: of ``ENDINGS``: what the encoder ends in.
        dim, codebook_size: D and K.
        downsample: image pixels (or samples) per latent position, along each side.
        width: channels of the network.
        data, size, channels: the data, its side in pixels or its length in samples, its channels.
        batch, steps, lr, optimizer: "adam", "adamw" (weight decay of 0.05 on everything) or "sgd" (momentum of 0.9).
        loss: "mse", "sum" (squared error summed over an example), "l1" or "perceptual".
    """

    number: int
    network: str
    endings: tuple[str, ...]
    dim: int
    codebook_size: int
    downsample: int
    width: int
    data: str
    size: int
    channels: int
    batch: int
    steps: int
    lr: float
    optimizer: str
    loss: str

    @property
    def name(self) -> str:
        return f"{self.number:02d}-{self.network}-{self.data}"

    @property
    def parity(self) -> str:
        return "odd" if self.number % 2 else "even"

    @property
    def spatial_dims(self) -> int:
        return 1 if self.network == "sound" else 2

    @property
    def stages(self) -> int:
        """How often the size is halved."""
        return round(math.log2(self.downsample))

    @property
    def positions(self) -> int:
        """Latent positions of an example."""
        return (self.size // self.downsample) ** self.spatial_dims

    @property
    def more_rivals(self) -> bool:
        """Whether further rivals run here: a quarter of the settings."""
        return self.number % 8 in (0, 1)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "endings": list(self.endings)}


def from_dict(values: dict[str, Any]) -> Setting:
    """The inverse of ``Setting.to_dict``."""
    return Setting(**{**values, "endings": tuple(values["endings"])})
