"""The tokenizer and the images of ``hand_tokenizer`` as fixtures."""

from __future__ import annotations

from hand_tokenizer import codebook, dataset, images_of, plain_tokenizer, tokenizer

__all__ = ["codebook", "dataset", "images_of", "plain_tokenizer", "tokenizer"]
