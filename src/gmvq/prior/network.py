"""``TokenNetwork``: the transformer of a prior, a Llama of the ``transformers`` library over our vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, LlamaConfig, LlamaModel

from ..errors import check_choice
from .spec import TokenSpec

#: name -> width, layers, heads
SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (128, 4, 4),
    "small": (256, 8, 8),
    "base": (512, 12, 8),
}

#: Logit of what cannot be; finite, as guidance takes differences.
NEVER = -1e9


class TokenNetwork(nn.Module):
    """Ids (B, T) to hidden states (B, T, H), and hidden states to logits over the K codes of their place.

    A Llama (RMSNorm, rotary positions, SwiGLU) with two additions: every place of the sequence has a learned
    embedding, as places of an image are not interchangeable; and the output has one K x H matrix per level, so a
    level's codes compete among themselves only. ``causal``: each place sees itself and those before it, else all.
    ``size`` is ``"tiny"`` (for a CPU), ``"small"`` or ``"base"``; ``dropout`` is on the embeddings and the attention.
    """

    def __init__(
        self, spec: TokenSpec, size: str = "tiny", *, causal: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_choice("size", size, tuple(SIZES))
        width, layers, heads = SIZES[size]
        config = LlamaConfig(
            vocab_size=spec.vocabulary,
            hidden_size=width,
            intermediate_size=round(8 * width / 3 / 32) * 32,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=spec.length + 1,
            attention_dropout=dropout,
            use_cache=False,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.spec, self.causal = spec, causal
        self.body = LlamaModel(config)
        self.places = nn.Embedding(spec.length + 1, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Parameter(torch.empty(spec.parts, spec.codebook_size, width))
        sizes = torch.tensor(spec.codebook_sizes or (spec.codebook_size,))
        beyond = torch.arange(spec.codebook_size) >= sizes[:, None]
        self.beyond: Tensor
        self.register_buffer("beyond", beyond, persistent=False)
        for weights in (self.places.weight, self.head):
            nn.init.normal_(weights, std=0.02)

    def forward(self, ids: Tensor, cache: Cache | None = None, places: Tensor | None = None) -> Tensor:
        """Hidden states of ids (B, T); with a cache, of the T ids that come after those in it.

        ``places``, (B, T), are those of the tokens to come; None: one after the other.
        """
        if places is None:
            start = 0 if cache is None else cache.get_seq_length()
            places = torch.arange(start, start + ids.shape[1], device=ids.device)
        embedded = self.dropout(self.body.embed_tokens(ids) + self.places(places))
        # A mask that is given is the one that is used; without one a Llama is causal.
        mask = (
            None if self.causal else torch.ones(1, 1, *ids.shape[1:] * 2, dtype=torch.bool, device=ids.device)
        )
        out: Any = self.body(
            inputs_embeds=embedded, attention_mask=mask, past_key_values=cache, use_cache=cache is not None
        )
        return out.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (B, L, H) of all places of an image, in order -> float32 logits (B, L, K)."""
        batch, length, width = hidden.shape
        levels = self.spec.levels
        if self.spec.pyramid:
            counts = self.spec.levels_of.bincount(minlength=levels).tolist()
            parts = zip(hidden.split(counts, 1), self.head, strict=True)
            logits = torch.cat([part @ head.T for part, head in parts], 1).float()
        else:
            grouped = hidden.view(batch, length // levels, levels, width)
            logits = torch.einsum("bplh,lkh->bplk", grouped, self.head)
            logits = logits.reshape(batch, length, self.spec.codebook_size).float()
        return self._of_levels(logits, self.spec.levels_of)

    def logits_at(self, hidden: Tensor, place: int) -> Tensor:
        """Hidden states (B, H) -> float32 logits (B, K) of the token number ``place``."""
        logits = (hidden @ self.head[int(self.spec.levels_of[place])].T).float()
        return self._of_levels(logits, self.spec.levels_of[place])

    def _of_levels(self, logits: Tensor, levels: Tensor) -> Tensor:
        """Logits (..., K), far down for codes that the level of the place does not have."""
        return logits.masked_fill(self.beyond[levels], NEVER) if self.spec.codebook_sizes else logits
