"""Whole data sets as tokens: encode to shards, decode, verify, count, and read them for training."""

from __future__ import annotations

from ..errors import require

require("msgspec", "data")

from ..data import DataRecipe  # noqa: E402
from .dataset import TokenDataset, TokenStream  # noqa: E402
from .decode import DecodedBatch, decode_tokens  # noqa: E402
from .encode import EncodeResult, encode_dataset  # noqa: E402
from .folder import Verification, verify  # noqa: E402
from .manifest import Manifest  # noqa: E402
from .reading import read_manifest  # noqa: E402
from .statistics import TokenStatistics, statistics  # noqa: E402
from .writing import write_images, write_signals  # noqa: E402

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
