"""Whole data sets as tokens: encode to shards, decode, verify, count, and read them for training."""

from __future__ import annotations

from ..data import DataRecipe
from .dataset import TokenDataset
from .decode import DecodedBatch, decode_tokens
from .encode import EncodeResult, encode_dataset
from .manifest import Manifest
from .manifest_file import read_manifest
from .pictures import write_images
from .recordings import write_signals
from .statistics import TokenStatistics, statistics
from .stream import TokenStream
from .verify import Verification, verify

__all__ = [
    "DataRecipe",
    "DecodedBatch",
    "EncodeResult",
    "Manifest",
    "TokenDataset",
    "TokenStatistics",
    "TokenStream",
    "Verification",
    "decode_tokens",
    "encode_dataset",
    "read_manifest",
    "statistics",
    "verify",
    "write_images",
    "write_signals",
]
