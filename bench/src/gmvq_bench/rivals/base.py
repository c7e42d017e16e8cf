"""What the baselines share: training on valid rows alone, eval as a look-up of the indices, terms, options, starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gmvq.errors import check_positive
from gmvq.functional.divergences import code_counts, perplexity
from gmvq.functional.kmeans import kmeans, nearest_code
from gmvq.functional.schedules import Exponential, Linear
from gmvq.quantizers.base import Quantizer
from gmvq.quantizers.start import Pool, held
from gmvq.types import QuantizerOutput

Units = Literal["mse", "nats"]
#: Training batches without codes of a rival that starts as our layer does.
_AFTER = 50


@dataclass(frozen=True)
class Step:
    """What a training step makes of rows (n, D): quantized (n, D), indices (n,), loss, further terms."""

    quantized: Tensor
    indices: Tensor
    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


class BaselineQuantizer(Quantizer):
    """A rival method behind the contract of the quantizers.

    ``units`` says how it is trained: ``"mse"``: mean squared error over all values plus ``out.loss``; ``"nats"``:
    ``negative_evidence(GaussianLikelihood(), reconstruction, images, out)``. ``out.nats`` is ``out.loss``: nats per
    position for ``"nats"``, and only the same number, in units of a mean squared error, for ``"mse"``.

    In eval ``quantized`` is ``get_codes_from_indices`` of the indices by construction, loss is 0 and no state changes.
    Statistics are those of the process at hand: nothing is pooled over processes unless a subclass says so.

    A subclass gives ``_step``, ``codebook`` or ``codewords``, and ``_search`` where the code is not the nearest.
    """

    units: ClassVar[Units] = "mse"
    #: The name in ``BASELINES`` and all options: ``build_baseline`` notes them.
    name: str
    options: dict[str, Any]
    #: Whether a codeword is compared with latents as they are, so that distances between the two mean something.
    codewords_are_latents: bool = True
    codebook: Tensor

    def codewords(self) -> Tensor:
        """The codebook that decoding uses, (K, D), in units of the latents."""
        return self.codebook

    def _step(self, rows: Tensor) -> Step:
        raise NotImplementedError

    def _quantize(self, latents: Tensor, mask: Tensor | None) -> QuantizerOutput:
        indices = latents.new_zeros(latents.shape[0], dtype=torch.int64)
        if not self.training:
            indices = self._search(latents)
            quantized, loss, terms = self._lookup(indices).to(latents.dtype), latents.new_zeros(()), {}
        elif mask is None:
            step = self._step(latents)
            quantized, indices, loss, terms = step.quantized, step.indices, step.loss, step.terms
        elif bool(mask.any()):
            at = (mask.nonzero()[:, 0],)
            step = self._step(latents[at])
            quantized = torch.zeros_like(latents).index_put(at, step.quantized.to(latents.dtype))
            indices = indices.index_put(at, step.indices)
            loss, terms = step.loss, step.terms
        else:
            quantized, loss, terms = latents * 0.0, latents.sum() * 0.0, {}
        counts = code_counts(indices, self.codebook_size, mask)
        terms = {
            "perplexity": perplexity(counts),
            "usage": (counts > 0).float().mean(),
            **{name: value.detach().clone() for name, value in terms.items()},
        }
        zeros = latents.new_zeros(latents.shape[0])
        return QuantizerOutput(quantized, indices, loss, loss, zeros, terms)

    def _search(self, latents: Tensor) -> Tensor:
        codewords = self.codewords().detach()
        return nearest_code(latents.detach().to(codewords.dtype), codewords)[0]

    def _lookup(self, indices: Tensor) -> Tensor:
        # Always of the whole table: products of some of its rows may round differently.
        return F.embedding(indices, self.codewords())

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """One group at the network's rate ``lr``, without decay; without parameters where the method has none."""
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": 0.0}]

    def to_config(self) -> dict[str, Any]:
        """``build_baseline``'s arguments, with ``type``: "baseline"."""
        sizes = {"dim": self.dim, "codebook_size": self.codebook_size}
        return {"type": "baseline", "name": self.name, **sizes, **self.options}

    def extra_repr(self) -> str:
        return ", ".join([self.name, super().extra_repr(), *(f"{k}={v}" for k, v in self.options.items())])


class AnnealedQuantizer(BaselineQuantizer):
    """A rival with a temperature tau, which ``set_progress`` moves from 1 to a final one.

    Args:
        schedule: how it falls.
        temperature: tau while ``set_progress`` was never called.
        final_temperature: tau at the end of training.
    """

    temperature: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        schedule: type[Exponential | Linear],
        temperature: float,
        final_temperature: float,
    ) -> None:
        check_positive("temperature", temperature)
        check_positive("final_temperature", final_temperature)
        super().__init__(dim, codebook_size)
        self._schedule = schedule(1.0, final_temperature)
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def set_progress(self, progress: float) -> None:
        """Anneal tau to ``progress`` in [0, 1] of training."""
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is the fraction of training done, 0 to 1, got {progress}")
        self.temperature.fill_(self._schedule(progress))


@torch.no_grad()
def start_by_kmeans(codebook: Tensor, rows: Tensor, started: Tensor) -> None:
    """Write k-means of rows (n, D) to ``codebook`` the first time, unless it is frozen; ``started`` is a 0-d buffer."""
    if codebook.requires_grad and not bool(started):
        codebook.copy_(kmeans(rows.detach().to(codebook.dtype), codebook.shape[0]))
        started.fill_(True)


def dress(quantizer: BaselineQuantizer) -> BaselineQuantizer:
    """Give a rival the start of our layer, which is no Gaussian mixture, so that a table shows its worth; return it.

    The first 50 training batches run without codes, in the frame of a running Gaussian (``gmvq.quantizers.start``);
    then the rival starts, by k-means or as it does, on the latents of the last batches.
    """
    pool, step, batches = Pool(quantizer.codebook_size), quantizer._step, 0

    def dressed(rows: Tensor) -> Step:
        nonlocal batches
        if batches == _AFTER:
            return step(rows)
        batches += 1
        pool.add(rows)
        latest = pool.latents()
        if batches == _AFTER and latest is not None:
            with torch.no_grad():
                step(latest)
        nothing = rows.new_zeros(len(rows), dtype=torch.int64)
        return Step(held(rows, None, pool, (batches - 1) / _AFTER), nothing, rows.new_zeros(()))

    quantizer._step = dressed
    return quantizer
