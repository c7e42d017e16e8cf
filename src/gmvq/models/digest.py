"""One number for what a tokenizer computes: the digest that tokens, exports and model cards name a model by."""

from __future__ import annotations

from .interface import Tokenizer
from .weights import described_digest


def model_digest(model: Tokenizer) -> str:
    """SHA-256 over the quantizer's configuration, the layout, and name, dtype, shape and bytes of every tensor.

    The same for a model in memory, its folder and its .ckpt, on any device; another one after any change of a weight.

    Example:
        >>> model_digest(model)
        'sha256:...'
    """
    config = {"layout": model.layout, "quantizer": model.quantizer.to_config()}
    return f"sha256:{described_digest(config, model.state_dict())}"
