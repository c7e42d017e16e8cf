"""From nats of a density on [0, 1] data to bits per dimension of the integers behind it."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

from ..errors import check_positive

Number = TypeVar("Number", float, Tensor)


def bits_per_dimension(nats_per_image: Number, n: int, levels: int = 256) -> Number:
    r"""Convert -log p(x) of a density on data k / (levels - 1) to bits per value at the data's resolution.

    .. math:: \frac{\text{nats}}{n \ln 2} + \log_2(\text{levels} - 1)

    The values k / (levels - 1) are a lattice, and the probability of a point is the density there times the spacing; so
    the constant is log2 255 for 8-bit data, not log2 256. *No dequantisation* is done: no noise is added to the data.
    For a Gaussian of standard deviation s_x >= 1 / (levels - 1), an MSE of 1.5e-5 or more, the probabilities sum to 1
    within 1e-8, and the result is a code length. Below, it falls without limit and means nothing (docs/mathematics.md,
    section 8). For a Laplace density of scale b the sum exceeds 1 by about 1 / (12 b^2 (levels - 1)^2) at most.

    Args:
        nats_per_image: -log p(x) or an upper bound on it, nats, all n values summed; a float or a tensor.
        n: number of values of one image (height x width x channels).
        levels: number of levels of one value.

    Returns:
        Bits per value, of the type and shape of ``nats_per_image``.

    Raises:
        ValueError: n < 1 or levels < 2.
    """
    check_positive("n", n)
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    return nats_per_image / (n * math.log(2.0)) + math.log2(levels - 1)
