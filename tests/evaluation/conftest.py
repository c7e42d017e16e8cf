"""The tokenizer and the images of ``hand_tokenizer`` as fixtures."""

from __future__ import annotations

from hand_tokenizer import (
    codebook,
    dataset,
    hand_mixture,
    images_of,
    plain_tokenizer,
    tokenizer,
    tokenizer_of,
)

__all__ = ["codebook", "dataset", "hand_mixture", "images_of", "plain_tokenizer", "tokenizer", "tokenizer_of"]
