"""``TokenDataModule``: a folder of tokens as training, validation and test batches, in loaders that resume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ..data.loader import ResumableLoader, StatelessSampler
from ..errors import check_positive
from ..tokens import TokenDataset
from ..training.data import ResumableData
from .spec import TokenSpec

_HELD_OUT = 0.05


class TokenRows(Dataset[dict[str, Tensor]]):
    """Some rows of a ``TokenDataset``, fetched a batch at a time: {"indices": (B, *shape), "label": (B,)}."""

    def __init__(self, tokens: TokenDataset, start: int, stop: int) -> None:
        self.tokens, self._start, self._length = tokens, start, stop - start

    def __len__(self) -> int:
        return self._length

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        batch = self.tokens.rows(np.array([index for index, _ in pairs], dtype=np.int64) + self._start)
        return {name: batch[name] for name in ("indices", "label")}


class TokenDataModule(ResumableData):
    """Tokens written by ``gmvq encode``.

    Their own splits are used. Where there is no ``validation`` split, the last 5 % of the rows of ``train`` are held
    out; ``test`` falls back on ``validation``. Without a ``train`` split all rows are trained on but the last 5 %.

    Args:
        path: folder of the tokens.
        batch_size: images per step and process.
        labels: give the network the images' labels, where the tokens have them.
        seed: of the order.

    Raises:
        FileNotFoundError: no folder of tokens.
        ValueError: the run of ``gmvq encode`` has not ended, or there are too few rows.
    """

    def __init__(self, path: str, batch_size: int = 128, labels: bool = True, seed: int = 0) -> None:
        super().__init__()
        check_positive("data.batch_size", batch_size)
        self.path, self.batch_size, self.seed = path, batch_size, seed
        self._rows = self._divide()
        self.manifest = self._rows["train"].tokens.manifest
        spec = self.manifest.indices
        self.spec = TokenSpec(
            *(spec.shape, spec.codebook_size, spec.levels),
            labels=self._count_labels() if labels else 0,
            pyramid=spec.pyramid,
            scales=spec.scales,
            codebook_sizes=spec.codebook_size_per_level,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Where the tokens are, and what made them."""
        return {
            "path": self.path,
            "tokenizer": self.manifest.checkpoint.path,
            "tokenizer_sha256": self.manifest.checkpoint.sha256,
        }

    def rows(self, split: str) -> TokenRows:
        """The rows of "train", "validation" or "test"."""
        return self._rows[split]

    dataset = rows

    def _open(self, dataset: TokenRows, **order: Any) -> ResumableLoader:
        return token_loader(dataset, **order)

    def _divide(self) -> dict[str, TokenRows]:
        whole = TokenDataset(self.path)
        names = [split.name for split in whole.manifest.splits]
        train = TokenDataset(self.path, split="train") if "train" in names else whole
        count = len(train)
        if "validation" in names and train is not whole:
            tokens = TokenDataset(self.path, split="validation")
            validation, end = TokenRows(tokens, 0, len(tokens)), count
        else:
            end = count - max(1, round(count * _HELD_OUT))
            validation = TokenRows(train, end, count)
        test = validation
        if "test" in names and train is not whole:
            tokens = TokenDataset(self.path, split="test")
            test = TokenRows(tokens, 0, len(tokens))
        if end < 1 or not len(validation):
            raise ValueError(
                f"{self.path} holds {count} rows to train on and {len(validation)} to validate with; encode more images"
            )
        return {"train": TokenRows(train, 0, end), "validation": validation, "test": test}

    def _count_labels(self) -> int:
        tokens = TokenDataset(self.path)
        largest = -1
        for start in range(0, len(tokens), 1 << 16):
            rows = tokens.rows(np.arange(start, min(start + (1 << 16), len(tokens))))
            largest = max(largest, int(rows["label"].max()))
        return largest + 1


def token_loader(rows: Any, *, seed: int, **order: Any) -> ResumableLoader:
    """Rows that are fetched a batch at a time, in the ``order`` of a ``StatelessSampler``."""
    sampler = StatelessSampler(len(rows), seed=seed, drop_last=None, **order)
    return ResumableLoader(rows, sampler, seed=seed, collate_fn=lambda batch: batch)
