"""GPU kernels of ``mixture_sample``: ``forward`` and ``backward``, outside autograd.

Importing this file imports triton; only the dispatcher does so, when it has CUDA tensors.

* ``triton_common``: noise, number types, tile sizes, launch;
* ``triton_forward``: rows with running maxima, then column sums;
* ``triton_backward``: recomputes logits and noise, row gradients, then column gradients. Deterministic: no atomics.
"""

from __future__ import annotations

from .triton_backward import backward
from .triton_forward import forward

__all__ = ["backward", "forward"]
