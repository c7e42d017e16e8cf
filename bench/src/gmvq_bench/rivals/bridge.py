r"""VQBridge: the codebook that is searched and decoded is a transformer's output on all learned code vectors at once.

Compress, process, recover: P neighbouring code vectors become one token, attention lets every token see all others,
and a linear map makes P codewords of each token again:

.. math:: t = W_{in} \, \mathrm{patch}(E) + p, \qquad
          t \leftarrow t + \mathrm{attention}(\mathrm{norm}(t)), \qquad
          t \leftarrow t + \mathrm{mlp}(\mathrm{norm}(t)), \qquad
          C = \mathrm{unpatch}(W_{out} \, \mathrm{norm}(t))

Every codeword gets a gradient at every step, whichever was chosen. After training C is kept, and the rest dropped.

Source: Chang et al., "Scalable training for vector-quantized networks with 100% codebook utilization", 2025,
arXiv 2509.10140. Its sizes were not to be had: one block, four heads, and the defaults of ``P`` and the width, are
choices made here. The quantizer around it is that of vector-quantize-pytorch (``vq_bridge=``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_HEADS = 4


class VQBridge(nn.Module):
    """E (1, K, D) to C (1, K, D); K is a multiple of ``patch``, P, and ``width`` of the four heads."""

    def __init__(self, dim: int, codebook_size: int, *, patch: int, width: int) -> None:
        super().__init__()
        if patch < 1 or codebook_size % patch or width < 1 or width % _HEADS:
            raise ValueError(
                f"fvq needs a codebook_size that is a multiple of patch, and a width that is a multiple of {_HEADS}, "
                f"got codebook_size={codebook_size}, patch={patch}, width={width}"
            )
        self.patch = patch
        self.compress = nn.Linear(patch * dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(codebook_size // patch, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.to_qkv, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.recover = nn.Linear(width, patch * dim)

    def forward(self, codes: Tensor) -> Tensor:
        """The codebook (1, K, D) of the code vectors (1, K, D)."""
        tokens = self.compress(codes.reshape(-1, self.compress.in_features)) + self.positions
        tokens = tokens + self._attention(self.norms[0](tokens))
        tokens = tokens + self.mlp(self.norms[1](tokens))
        return self.recover(self.norms[2](tokens)).reshape(codes.shape)

    def _attention(self, tokens: Tensor) -> Tensor:
        # Plain products: fused kernels may round differently without gradients, and the look-up has to be exact.
        query, key, value = self.to_qkv(tokens).reshape(len(tokens), 3, _HEADS, -1).permute(1, 2, 0, 3)
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        return self.from_heads((weights @ value).transpose(0, 1).reshape(tokens.shape))
