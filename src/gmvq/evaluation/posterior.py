"""What of an evaluation needs the mixture: entropies of q(c|x), and the bounds if there is a likelihood."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..models.interface import decode_latents, device_of
from ..objectives import (
    AggregatePosterior,
    LatentModel,
    Likelihood,
    MixtureQuantizer,
    bits_per_dimension,
    importance_weighted_bound,
)
from ..objectives.bounds import elbo_with_and_without_noise

_BLOCK_VALUES = 1 << 16  # entries of one block of the N x K posterior: half a megabyte stays in the cache


class Posterior:
    """Sums over a set of what needs the mixture: q(c|x), and the bounds if there is a likelihood."""

    def __init__(
        self, tokenizer: Any, likelihood: Likelihood | None, samples: int, seed: int, device: torch.device
    ) -> None:
        self.model = LatentModel.of(tokenizer.quantizer).in_float64()
        self.likelihood, self.samples = likelihood, samples
        self._decode = partial(decode_latents, tokenizer)
        self._aggregate = AggregatePosterior(self.model.codebook_size, device)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._sums: dict[str, float] = dict.fromkeys(("elbo", "elbo_discrete", "importance_weighted"), 0.0)
        self._images, self._dimensions = 0, 1

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        likelihood: Likelihood | None,
        samples: int,
        seed: int,
        skipped: dict[str, str],
        spend: dict[str, Any],
    ) -> Posterior | None:
        """Decide what can be measured; the rest goes to ``skipped`` with its reason."""
        bounds = ("elbo", "albo", "elbo_discrete", *(("importance_weighted",) if samples else ()))
        reason = ""
        if not isinstance(tokenizer.quantizer, MixtureQuantizer):
            reason = f"{type(tokenizer.quantizer).__name__} is no mixture: it has no q(c|x)"
        elif spend:
            reason = f"with a {' or '.join(spend)} blocks share codes, and q(c|x) is of single positions"
        if reason:
            entropies = ("conditional_entropy", "aggregate_entropy", "information", "kl_aggregate")
            skipped.update(dict.fromkeys((*entropies, *bounds), reason))
            return None
        if likelihood is None:
            reason = "no likelihood: the model has none; pass evaluate(..., likelihood=...)"
        elif likelihood.scale == "ml" and int(likelihood.observations) == 0:
            reason = "the likelihood's scale was never set; call likelihood.observe(...) on training data"
        if reason:
            skipped.update(dict.fromkeys(bounds, reason))
        return cls(tokenizer, None if reason else likelihood, samples, seed, device_of(tokenizer))

    def update(self, latents: Tensor, x: Tensor, indices: Tensor) -> None:
        mask = indices >= 0
        block = max(1, _BLOCK_VALUES // self.model.codebook_size)
        self._images += x.shape[0]
        self._dimensions = x[0].numel()
        if self.likelihood is None:
            z = self.model.standardized(latents)[mask].to(self.model.codebook)
            for part in z.split(block):
                self._aggregate.update(self.model.log_responsibilities(part))
            return
        shared = (latents, x, self._decode, self.likelihood.to(x.device))
        options = {"generator": self._generator, "block": block, "mask": None if bool(mask.all()) else mask}
        bounds = elbo_with_and_without_noise(self.model, *shared, aggregate=self._aggregate, **options)
        for name, bound in zip(("elbo", "elbo_discrete"), bounds, strict=True):
            self._sums[name] += float(bound.value.sum())
        if self.samples:
            bound = importance_weighted_bound(self.model, *shared, samples=self.samples, **options)
            self._sums["importance_weighted"] += float(bound.sum())

    def compute(self) -> dict[str, float]:
        aggregate = self._aggregate
        values = {
            "conditional_entropy": float(aggregate.conditional_entropy),
            "aggregate_entropy": float(aggregate.aggregate_entropy),
            "information": float(aggregate.information),
            "kl_aggregate": float(aggregate.kl(self.model.log_weights)),
        }
        if self.likelihood is None:
            return values
        sums = dict(self._sums)
        # The mean ALBO over the set that qbar was taken over is the mean ELBO plus P I_q.
        sums["albo"] = sums["elbo"] + aggregate.count * values["information"]
        if not self.samples:
            del sums["importance_weighted"]
        bits = {k: bits_per_dimension(-v / self._images, self._dimensions) for k, v in sums.items()}
        return {**values, **bits}
