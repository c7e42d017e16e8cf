r"""Which rows of a search rounding leaves open.

A matrix product rounds as its shape and the number of threads have it:

.. math:: |\mathrm{fl}(l_c) - l_c| \le e_c = \gamma (|v| |\mu_c| + |b_c|), \qquad \gamma = (D + 8) u + 2 \rho + \rho^2

(u: unit roundoff; rho: rounding of the factors where TF32 or bfloat16 products stand in for float32). A row is open
unless its runner-up is farther from its best than 2 max_c e_c; ``exact`` decides the open ones.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .exact import among_all

#: Rounding of the factors of a float32 product, by the name of torch's setting.
_FACTOR_ROUNDING = {"tf32": 2.0**-10, "bf16": 2.0**-8}
#: For the rounding of the bound itself; where it overflows, logits may.
_MORE = 1.02
#: Logits in float64 at a time.
_LOGITS = 1 << 19


class Referee:
    """Decides what a search of query v (N, D) in codebook mu (K, D) with bias b (K,) leaves open.

    Attributes:
        query, codebook, bias: of the search.
        indices: most probable codes, (N,), int64, once they are known.
        gamma: of the formula above.
        lengths, sizes: a little more than |mu_c| and |b_c|, the latter 0 for a code of weight 0, (K,).
    """

    def __init__(self, query: Tensor, codebook: Tensor, bias: Tensor) -> None:
        self.query, self.codebook, self.bias = query, codebook, bias
        self.lengths = torch.linalg.vector_norm(codebook, dim=1).mul_(_MORE)
        self.sizes = torch.where(bias == -torch.inf, 0.0, bias).abs().mul_(_MORE)
        self.indices = torch.zeros(query.shape[0], dtype=torch.int64, device=query.device)
        numbers, factor = torch.finfo(query.dtype), _factor_rounding(query)
        gamma = (query.shape[1] + 8) * numbers.eps * (1.0 if factor else 0.5) + 2.0 * factor + factor**2
        self.gamma, self._tiny = gamma, query.shape[1] * numbers.tiny
        self._longest, self._largest = self.lengths.amax(), self.sizes.amax()

    def slack(self, query: Tensor) -> Tensor:
        """max_c e_c for each row of (n, D), (n,); infinite or NaN for numbers that are none."""
        reach = torch.linalg.vector_norm(query, dim=1).mul_(self._longest)
        return reach.add_(self._largest).mul_(self.gamma).add_(self._tiny)

    def slack_of(self, query: Tensor, lengths: Tensor, sizes: Tensor) -> Tensor:
        """e_c for codes with such |mu_c| and |b_c|, (C,), and each row of query (n, D), (C, n)."""
        reach = lengths[:, None] * torch.linalg.vector_norm(query, dim=1)
        return reach.add_(sizes[:, None]).mul_(self.gamma).add_(self._tiny)

    def settle(self, codes: Tensor, open_: Tensor) -> Tensor:
        """``indices`` from the best codes that were found, (N,), and which rows are open, (N,).

        A row that is not finite is open, and gets code 0.
        """
        self.indices.copy_(codes)
        rows = open_.nonzero()[:, 0]
        if rows.numel():
            finite = self.query[rows].isfinite().all(-1)
            self.indices[rows[~finite]] = 0
            for some in rows[finite].split(max(1, _LOGITS // self.codebook.shape[0])):
                query = self.query[some]
                self.indices[some] = among_all(query, self.codebook, self.bias, self.slack(query))
        return self.indices


def _factor_rounding(query: Tensor) -> float:
    backend: Any = torch.backends.cuda if query.device.type == "cuda" else torch.backends.mkldnn
    return _FACTOR_ROUNDING.get(backend.matmul.fp32_precision, 0.0) if query.dtype == torch.float32 else 0.0
