"""``fit_prior``: from tokens in memory to a trained prior, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import Dataset

from ..functional.autocast import recommended_precision
from ..screen import quiet
from .data import token_loader
from .module import PriorModule
from .prior import TokenPrior
from .spec import TokenSpec


class _Tokens(Dataset[dict[str, Tensor]]):
    def __init__(self, indices: Tensor, labels: Tensor) -> None:
        self._indices, self._labels = indices, labels

    def __len__(self) -> int:
        return len(self._indices)

    def __getitems__(self, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        items = torch.tensor([index for index, _ in pairs])
        return {"indices": self._indices[items], "label": self._labels[items]}


def fit_prior(
    indices: Tensor,
    codebook_size: int | Sequence[int],
    *,
    levels: int = 1,
    pyramid: bool = False,
    scales: int = 1,
    labels: Tensor | None = None,
    steps: int = 1000,
    batch_size: int = 128,
    seed: int = 0,
    accelerator: str = "auto",
    **options: Any,
) -> TokenPrior:
    """Train a prior on tokens, (N, *shape); what ``gmvq prior fit`` does, without files.

    Args:
        indices: of images, int64, the levels (if several) on the last axis.
        codebook_size: K, of every level, or that of each.
        levels: codes per position.
        pyramid: whether the levels are the scales of a ``PyramidGMVQ``.
        scales: sizes of blocks, of a ``RaggedGMVQ``.
        labels: (N,), 0 to the number of labels - 1.
        steps, batch_size: of training.
        seed: of weights, order, dropout, masks.
        accelerator: of Lightning's Trainer.
        options: of ``PriorModule``: kind, size, lr, ...

    Raises:
        ValueError: indices or an option out of range.

    Example:
        Two steps; some hundreds make a prior.

        >>> prior = fit_prior(model.encode(images), codebook_size=256, steps=2)
        >>> pictures = model.decode(prior.sample(16))
    """
    sizes = (codebook_size,) * levels if isinstance(codebook_size, int) else tuple(codebook_size)
    spec = TokenSpec(
        *(tuple(indices.shape[1:]), max(sizes), levels),
        codebook_sizes=sizes,
        labels=0 if labels is None else int(labels.max()) + 1,
        pyramid=pyramid,
        scales=scales,
    )
    spec.sequence(indices)  # says what is wrong with them
    spec.label_ids(labels, len(indices), indices.device)
    module = PriorModule(spec, seed=seed, **options)
    tokens = _Tokens(indices.cpu(), torch.full((len(indices),), -1) if labels is None else labels.cpu())
    loader = token_loader(tokens, batch_size=batch_size, shuffle=True, seed=seed)
    with quiet("lightning.pytorch", "lightning.fabric"), torch.random.fork_rng():
        trainer = Trainer(
            max_steps=steps,
            precision=recommended_precision(
                "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
            ),
            accelerator=accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, loader)
    return module.prior.eval()
