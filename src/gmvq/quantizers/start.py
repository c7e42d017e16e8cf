r"""Where a mixture starts: the latents of the last batches, and mean, scale, codebook and precision fitted to them.

Before the start the mixture is one Gaussian N(m, s^2 I / D), which follows the batches as w does later, and the decoder
reads a batch of mean m_B and deviation s_B partly in its frame:

.. math::
    z_n + a \left(m + \min(1, s / s_B) (z_n - m_B) - z_n\right), \qquad s_B^2 = \overline{|z_n - m_B|^2}

Codes hold latents in place by standing still, and so does this: without it, the latents of an untrained encoder grow
twentyfold within ten steps of a high learning rate and fall back to a line. The share a is 1 until the last fifth of
these batches and falls to 0 at the start: what the frame alone held would leave it all at once when codes come.
"""

# pyright: reportPrivateUsage=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..functional.distributed import all_reduce_sum, gather_rows
from ..functional.kmeans import kmeans, nearest_code

if TYPE_CHECKING:
    from .state import MixtureState

#: Latents per code that the start looks at, and how many at most beyond two per code.
_PER_CODE, _MOST = 8, 1 << 16
#: Lloyd steps, and the largest codebook that gets them all; a larger one takes points of the data.
_ITERATIONS, _LARGE = 10, 1 << 14
#: Part of the batches before the start in which the frame lets go.
_FALL = 0.2
#: Weight of one batch in what runs along: m and s^2 before the start, 1/w and shares after it.
RATE = 0.05
#: Least deviation of codes drawn at random, in standardised units.
_LEAST_DEVIATION = 1e-3
#: Least 1/w, as a part of the variance: below it all latents lie on their codes.
MIN_ERROR = 1e-5
_FILLED = (
    "the codebook was filled before the first batch, so it is not started from latents: its entries are codes, in "
    "units of the latents' deviation. If an initialiser of all parameters did this, call quantizer.reset_parameters() "
    "after it; set_codebook takes codes of your own, in the latents' units"
)


class Pool:
    """The most recent latents of the batches before the start, as many as the start looks at, and their Gaussian.

    Attributes:
        mean, variance: m, (D,), and s^2, 0-d, in float32 at least; None before the first batch.
    """

    mean: Tensor | None = None
    variance: Tensor | None = None

    def __init__(self, codebook_size: int) -> None:
        self._size = min(_PER_CODE * codebook_size, max(2 * codebook_size, _MOST))
        self._batches: list[Tensor] = []

    def add(self, y: Tensor) -> None:
        """Keep y, (N, D), and forget what is older than needed; the Gaussian follows."""
        y = y.detach()
        self._follow(y.to(torch.promote_types(y.dtype, torch.float32)))
        # A copy, as the memory of an encoder's output may be written to again, by a captured graph for one.
        self._batches.append(y[-self._size :].clone())
        while sum(len(batch) for batch in self._batches[1:]) >= self._size:
            self._batches.pop(0)

    def latents(self) -> Tensor | None:
        """All of them, (M, D), or None before the first batch."""
        return torch.cat(self._batches)[-self._size :] if self._batches else None

    def is_one_point(self) -> bool:
        """Whether all latents are the same."""
        return all(bool((batch == self._batches[0][0]).all()) for batch in self._batches)

    def _follow(self, y: Tensor) -> None:
        mean = y.mean(0)
        self.mean = mean if self.mean is None else self.mean.lerp(mean, RATE)
        variance = (y - self.mean).square().sum(-1).mean()
        self.variance = variance if self.variance is None else self.variance.lerp(variance, RATE)

    def state(self) -> dict[str, Tensor | None]:
        """What ``restore`` needs to go on as if nothing had happened."""
        return {"rows": self.latents(), "mean": self.mean, "variance": self.variance}

    def restore(self, state: Any, device: torch.device) -> None:
        """Take over what ``state`` gave; of a former version the latents alone."""
        if isinstance(state, Tensor):
            self.add(state.to(device))
            return
        here = {name: None if part is None else part.to(device) for name, part in state.items()}
        self._batches = [] if here["rows"] is None else [here["rows"]]
        self.mean, self.variance = here["mean"], here["variance"]


def held(latents: Tensor, mask: Tensor | None, pool: Pool | None, elapsed: Tensor | float) -> Tensor:
    """Latents, (N, D), partly in the frame of the pool's Gaussian (see above); moments are of all ranks' latents.

    ``mask``, (N,), says which count; ``elapsed``, 0-d, which part of the batches before the start is over.
    """
    if pool is None or pool.mean is None or pool.variance is None or not latents.requires_grad:
        return latents
    offset = latents.to(pool.mean.dtype) - pool.mean
    valid = torch.ones_like(offset[:, 0]) if mask is None else mask.to(offset.dtype)
    sums = all_reduce_sum(torch.cat([valid @ offset, valid.sum()[None]]))
    count = sums[-1].clamp_min(1.0)
    offset = offset - sums[:-1] / count
    variance = all_reduce_sum(valid @ offset.square().sum(-1)) / count
    grown = variance > pool.variance
    ratio = torch.where(grown, pool.variance / torch.where(grown, variance, 1.0), 1.0).sqrt()
    share = ((1.0 - torch.as_tensor(elapsed, device=latents.device)) / _FALL).clamp(0.0, 1.0)
    return latents.lerp((pool.mean + ratio * offset).to(latents.dtype), share.to(latents.dtype))


@torch.no_grad()
def ready(layer: MixtureState, latents: Tensor, mask: Tensor | None, after: int) -> bool:
    """Before a training step without a codebook: keep this rank's latents (N, D), where they are finite and the mask
    (N,) is True, and start once ``after`` batches have run, and with ``after`` not before they have spread. Whether
    there is a codebook now.
    """
    refuse_compiled()
    whole = latents.isfinite().all(-1)
    latents = gather_rows(latents[whole if mask is None else whole & mask])
    if len(latents) == 0:
        return layer.started
    if layer.started:
        if not bool((layer.scale > 0).all()):
            if not layer.keep_codebook:  # else the level before has filled it
                warnings.warn(_FILLED, UserWarning, stacklevel=2)
            fit_frame(layer, latents)
        if not bool(layer.log_precision.any()):  # the codebook was another layer's, or set by hand
            fit_mixture(layer, layer.standardized(latents), keep_codebook=True)
        layer._ready = True
        return True
    layer._pool = layer._pool or Pool(layer.codebook_size)
    layer._pool.add(latents)
    layer.batches += 1
    if int(layer.batches) <= after or (after and layer._pool.is_one_point()):
        return False
    return start_from_pool(layer)


def refuse_compiled() -> None:
    """Raise in compiled code, which cannot look whether there is a codebook, and cannot start one."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "the first training batches start the codebook, which cannot be compiled: call "
            "quantizer.init_codebook(latents) or train some batches before torch.compile; codes that were copied in "
            "are seen by a first call without it"
        )


@torch.no_grad()
def start_from_pool(layer: MixtureState) -> bool:
    """Start on what the pool holds, and a group when its last member does; whether it started."""
    if layer._pool is not None and layer.started:
        # Weights were copied in while the pool waited.
        layer._pool = None
    group: list[MixtureState] = layer.group or [layer]
    pools = [None if one._pool is None else one._pool.latents() for one in group]
    latents = [part.to(layer.codebook.device) for part in pools if part is not None]
    if len(latents) < len(group) or layer is not group[-1]:
        return False
    start_together(group, latents)
    return True


@torch.no_grad()
def start_from(layer: MixtureState, latents: Tensor, seed: int = 0) -> None:
    """Start on latents, (N, D), of all ranks, whatever was before."""
    start_together([layer], [latents], seed)


@torch.no_grad()
def start_together(layers: Sequence[MixtureState], latents: Sequence[Tensor], seed: int = 0) -> None:
    """Start mixtures with one codebook, each on latents of its own, (N_l, D), of all ranks: k-means on all z."""
    with torch.autocast(latents[0].device.type, enabled=False):
        for layer, own in zip(layers, latents, strict=True):
            layer._pending = None
            fit_frame(layer, own)
            fit_projections(layer, own)
        z = [layer.standardized(own) for layer, own in zip(layers, latents, strict=True)]
        fit_mixture(layers[-1], torch.cat(z), seed, keep_codebook=layers[-1].keep_codebook)
        if len(layers) > 1:
            for layer, own in zip(layers, z, strict=True):
                fit_mixture(layer, own, keep_codebook=True)


def fit_frame(layer: MixtureState, latents: Tensor) -> None:
    """m and s of latents, (N, D); s stays unknown where they have no spread."""
    if layer.standardize:
        mean = latents.mean(0)
        layer.mean.copy_(mean)
        layer.scale.fill_((latents - mean).square().mean().sqrt())


def fit_projections(layer: MixtureState, values: Tensor) -> None:
    """A and B, where there are any: the directions along which values, (N, D), spread most."""
    if layer.project_in is not None and layer.project_out is not None:
        layer.project_in.copy_(principal_directions(values, layer.codebook_dim))
        layer.project_out.copy_(layer.project_in.T)


def fit_mixture(layer: MixtureState, z: Tensor, seed: int = 0, *, keep_codebook: bool = False) -> None:
    """mu, unless it is kept, and w of z, (N, d)."""
    if not keep_codebook:
        layer.codebook.copy_(layer._held(fit_codebook(z, layer.codebook_size, seed).to(layer.codebook)))
    begin(layer, fit_log_precision(z, layer.codebook.to(z.dtype)))


def begin(layer: MixtureState, log_precision: Tensor | float) -> None:
    """Start with the codebook that is there, and log w."""
    layer.log_precision.fill_(log_precision)
    layer.share.fill_(1.0 / layer.codebook_size)
    layer._pool, layer._ready = None, True


def fit_codebook(z: Tensor, codebook_size: int, seed: int) -> Tensor:
    """mu, (K, d), by k-means on z, (N, d); a codebook too large for that takes points of z.

    Copies of a code, where z has fewer points than there are codes, are drawn from a Gaussian fitted to z; where z has
    no spread at all its units are not known yet, and the Gaussian is the one that it will have: of deviation 1.
    """
    iterations = _ITERATIONS if codebook_size <= _LARGE else 0
    codebook = kmeans(z, codebook_size, iterations=iterations, seed=seed)
    copies = _copies(codebook)
    if bool(copies.any()):
        generator = torch.Generator("cpu").manual_seed(seed)
        shape = int(copies.sum()), z.shape[1]
        noise = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        deviation = z.std(0, correction=0)
        deviation = torch.where(deviation.any(), deviation.clamp_min(_LEAST_DEVIATION), 1.0)
        codebook[copies] = z.mean(0) + noise.to(z) * deviation
    if not bool(codebook.any()):
        # All latents are at the origin, and zeros would say that nothing has started.
        codebook[0] = torch.finfo(codebook.dtype).tiny
    return codebook


def _copies(codebook: Tensor) -> Tensor:
    """Which codes, (K,), equal one of a lower number."""
    _, group = torch.unique(codebook, dim=0, return_inverse=True)
    numbers = torch.arange(len(codebook), device=codebook.device)
    first = torch.full_like(numbers, len(codebook)).scatter_reduce_(0, group, numbers, "amin")
    return first[group] < numbers


def fit_log_precision(z: Tensor, codebook: Tensor) -> Tensor:
    """log w, 0-d: 1/w is the mean squared error per feature of z, (N, d), to the nearest code."""
    _, distance = nearest_code(z, codebook)
    return -(distance.mean() / z.shape[1]).clamp_min(MIN_ERROR).log()


def principal_directions(latents: Tensor, count: int) -> Tensor:
    """The ``count`` directions along which latents (N, D) spread most, orthonormal, (count, D)."""
    centered = latents.double() - latents.double().mean(0)
    directions = torch.linalg.eigh(centered.T @ centered).eigenvectors  # by growing spread
    return directions.flip(-1)[:, :count].T.to(latents.dtype)
