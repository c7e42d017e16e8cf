"""A rival in our dress: the start of our layer, which is no Gaussian mixture, so that a table shows its worth."""

from __future__ import annotations

import torch
from torch import Tensor

from gmvq.quantizers.start import Pool, held

from .base import BaselineQuantizer, Step

#: Training batches without codes, as in our layer.
_AFTER = 50


def dress(quantizer: BaselineQuantizer) -> BaselineQuantizer:
    """Make the first 50 training batches of a rival run without codes, in the frame of a running Gaussian; return it.

    The decoder reads latents as our layer has it read them before its start (``gmvq.quantizers.start``); then the rival
    starts, by k-means or as it does, on the latents of the last batches.
    """
    pool, step, batches = Pool(quantizer.codebook_size), quantizer._step, 0

    def dressed(rows: Tensor) -> Step:
        nonlocal batches
        if batches == _AFTER:
            return step(rows)
        batches += 1
        pool.add(rows)
        latest = pool.rows()
        if batches == _AFTER and latest is not None:
            with torch.no_grad():
                step(latest)
        nothing = rows.new_zeros(len(rows), dtype=torch.int64)
        return Step(held(rows, None, pool), nothing, rows.new_zeros(()))

    quantizer._step = dressed
    return quantizer
