r"""Counter-based noise: a function of (row key, number), so that it is recomputed where needed and never stored.

Every row n has random 32-bit words, drawn once from torch's generator. With two of them, k = (k_0, k_1), the Gumbel
noise of code c is

.. math:: g_{nc} = -\log(-\log u_{nc}), \qquad
          u_{nc} = (\lfloor h(c\,\phi + k_0, k_1) / 2^9 \rfloor + \tfrac12) / 2^{23}

with h a bijection of 32-bit words: two rounds of xor-shift and odd multiplication (the constants of "lowbias32", public
domain), k_1 entering between the rounds, and phi the odd golden-ratio constant. Every device computes the same
words. Philox, the usual choice on GPUs, has no torch operator that takes a counter; emulated, its ten rounds
of 64-bit products are about 140 operations a word where this takes 17 on 32 bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """A 32-bit word as torch's int32 holds it."""
    return word - (1 << 32) if word >= 1 << 31 else word


GOLDEN = _signed(0x9E3779B1)
FIRST = _signed(0x21F0AAAD)
SECOND = _signed(0x735A2D97)


def noise_keys(rows: int, device: torch.device) -> Tensor:
    """Row keys (N, 4), int32, from torch's default generator of the device: ``torch.manual_seed`` repeats them.

    The first two words are for the Gumbel noise of codes, the others for the Gaussian noise of features.
    """
    return torch.randint(-(1 << 31), 1 << 31, (rows, 4), dtype=torch.int32, device=device)


def gumbel_noise(keys: Tensor, codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard Gumbel noise, (N, k), of rows with keys (N, 4) and codes (N, k), int32.

    ``dtype`` is float32 or float64: both get the same u.
    """
    return _uniform(keys[:, :2], codes, dtype).log_().neg_().log_().neg_()


def gaussian_noise(keys: Tensor, like: Tensor) -> Tensor:
    """Standard Gaussian noise of the shape (N, D) and dtype of ``like``, from pairs of u by Box and Muller's map."""
    dim = like.shape[1]
    pairs = (dim + 1) // 2
    features = torch.arange(2 * pairs, dtype=torch.int32, device=like.device)
    u = _uniform(keys[:, 2:], features, like.dtype)
    radius, angle = u[:, :pairs].log_().mul_(-2.0).sqrt_(), u[:, pairs:].mul_(2.0 * math.pi)
    sine = angle.sin().mul_(radius)
    radius.mul_(angle.cos_())
    angle.copy_(sine)
    return u[:, :dim]


def _uniform(keys: Tensor, numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """u in (0, 1) of rows and numbers, (k,) or (N, k), a multiple of 2^-24, (N, k)."""
    x = torch.add(numbers * GOLDEN, keys[:, :1])
    shifted = torch.empty_like(x)
    _xor_shift(x, 16, shifted).mul_(FIRST).bitwise_xor_(keys[:, 1:])
    _xor_shift(x, 15, shifted).mul_(SECOND)
    _xor_shift(x, 15, shifted)
    return x.bitwise_right_shift_(9).bitwise_and_((1 << 23) - 1).to(dtype).add_(0.5).mul_(2.0**-23)


def _xor_shift(x: Tensor, count: int, buffer: Tensor) -> Tensor:
    """x ^= x >> count, a logical shift: torch shifts int32 arithmetically, so the sign's copies are masked off."""
    torch.bitwise_right_shift(x, count, out=buffer)
    return x.bitwise_xor_(buffer.bitwise_and_((1 << (32 - count)) - 1))
