r"""More codes or fewer in a trained layer: codes are split by the error in their cells, and merged by closeness.

A split moves two codes into the cell of one, at mu +- sqrt(v) u with u the direction in which the cell's latents spread
most and v their variance along it; cells with the largest sum of squared errors come first. A merge replaces codes a
and b by their mean, weighted by use, which adds

.. math:: \frac{n_a n_b}{n_a + n_b} |\mu_a - \mu_b|^2

to the sum of squared errors (Ward, 1963); the cheapest pairs come first. Steps of k-means follow.
"""

# pyright: reportPrivateUsage=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import check_size
from ..functional.distributed import gather_rows
from ..functional.divergences import code_counts
from ..functional.kmeans import lloyd, nearest_code
from ..functional.search import rows_per_tile
from .gaussian_mixture import GaussianMixtureVQ
from .start import fit_mixture

#: k-means steps after each round of splits or merges, and at the end.
_BETWEEN, _AT_THE_END = 1, 10
#: Tensors of a layer that have one entry for each code.
_OF_CODES = ("codebook", "share", "weight_logits")


@dataclass(frozen=True)
class Fit:
    """How well codes fit latents.

    Attributes:
        mse: mean squared error per feature, in the units of the latents; of a layer with maps (``codebook_dim``) of the
            d features between them, so without what the maps drop.
        log_likelihood: mean log-density of the standardised latents under the mixture at its best precision, nats.
        perplexity: of the codes' use.
    """

    mse: float
    log_likelihood: float
    perplexity: float


@dataclass(frozen=True)
class Resized:
    """What ``resize_codebook`` returns.

    Attributes:
        layer: a new layer; the one that was given stays as it is.
        before, after: how the former and the new codes fit the latents.
    """

    layer: GaussianMixtureVQ
    before: Fit
    after: Fit


@torch.no_grad()
def resize_codebook(
    layer: GaussianMixtureVQ,
    latents: Tensor,
    codebook_size: int,
    *,
    optimizer: torch.optim.Optimizer | None = None,
) -> Resized:
    """A layer with more or fewer codes, in the same coordinates, and what that does to its fit.

    Mean, scale, projections and schedules are the former layer's; the precision is fitted anew. Learned mixture weights
    become the codes' shares.

    Args:
        layer: trained, with codes that may all move.
        latents: (..., D), what the codes should fit, those of all ranks; more than ``codebook_size`` vectors.
        codebook_size: the new K.
        optimizer: in training, the one with the layer's parameters: it gets the new layer's in their place, and keeps
            what it knows of those whose shape stays.

    Raises:
        TypeError: a composition: resize its mixtures one by one, and build it anew.
        ValueError: no codebook yet, frozen codes, or too few latents.

    Example:
        >>> quantizer = GaussianMixtureVQ(dim=4, codebook_size=16)
        >>> latents = torch.randn(2048, 4)
        >>> quantizer.init_codebook(latents)
        >>> resized = resize_codebook(quantizer, latents, 64)
        >>> resized.layer.codebook_size, resized.after.mse < resized.before.mse
        (64, True)
    """
    if not isinstance(layer, GaussianMixtureVQ):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"resize_codebook takes one GaussianMixtureVQ, got {type(layer).__name__}")
    check_size("codebook_size", codebook_size)
    pooled = gather_rows(layer._flat(latents, None)[0])
    if not layer.started or layer.frozen is not None:
        why = "has frozen codes" if layer.started else "has no codebook yet; train it first"
        raise ValueError(f"this layer {why}")
    if len(pooled) <= codebook_size:
        raise ValueError(f"{codebook_size} codes need more latent vectors than codes, got {len(pooled)}")
    layer.settle()
    with torch.autocast(pooled.device.type, enabled=False):
        z = layer.standardized(pooled)
        codebook = layer.codebook.detach().to(z.dtype).clone()
        codebook = _grown(z, codebook, codebook_size) if len(codebook) < codebook_size else codebook
        codebook = _shrunk(z, codebook, codebook_size) if len(codebook) > codebook_size else codebook
        codebook = lloyd(z, codebook, _AT_THE_END) if codebook_size != layer.codebook_size else codebook
        new = _with_codes(layer, z, codebook)
        if optimizer is not None:
            _hand_over(optimizer, layer, new)
        scale = float(layer._divisor(z)) ** 2
        return Resized(new, _fit(z, layer.codebook.to(z.dtype), scale), _fit(z, codebook, scale))


def _grown(z: Tensor, codebook: Tensor, size: int) -> Tensor:
    # Below this a sum of squared errors is rounding.
    least = 1e-5 * float(z.square().sum(-1).mean())
    while len(codebook) < size:
        index, distance = nearest_code(z, codebook)
        errors = _sums(distance, index, len(codebook))
        count = min(size - len(codebook), int((errors > least).sum()))
        if count == 0:
            raise ValueError(f"the latents have fewer than {size} distinct values")
        chosen = errors.topk(count).indices
        offset = _main_direction(z - codebook[index], distance, index, codebook)[chosen]
        codebook = torch.cat([codebook, codebook[chosen] + offset])
        codebook[chosen] -= offset
        codebook = lloyd(z, codebook, _BETWEEN)
    return codebook


def _main_direction(left: Tensor, distance: Tensor, index: Tensor, codebook: Tensor) -> Tensor:
    """sqrt(v) u of every cell, (K, d), by a step of the power method from the cell's farthest latent."""
    size = len(codebook)
    farthest = distance.new_zeros(size).scatter_reduce(0, index, distance, "amax")
    at = torch.zeros(size, dtype=torch.int64, device=index.device)
    is_it = (distance >= farthest[index]).nonzero()[:, 0]
    at[index[is_it]] = is_it
    along = torch.nn.functional.normalize(left[at], dim=-1)
    along = torch.zeros_like(codebook).index_add(0, index, left * (left * along[index]).sum(-1, keepdim=True))
    along = torch.nn.functional.normalize(along, dim=-1)
    variance = _sums((left * along[index]).sum(-1).square(), index, size)
    return along * (variance / code_counts(index, size).clamp_min(1)).sqrt()[:, None]


def _shrunk(z: Tensor, codebook: Tensor, size: int) -> Tensor:
    while len(codebook) > size:
        index, _ = nearest_code(z, codebook)
        counts = code_counts(index, len(codebook)).to(z.dtype)
        order = counts.argsort(descending=True)
        # Codes that nothing uses go at once.
        order = order[: max(size, int((counts > 0).sum()))]
        codebook, counts = codebook[order], counts[order]
        if len(codebook) == size:
            break
        cost, partner = _cheapest(codebook, counts)
        numbers = torch.arange(len(codebook), device=z.device)
        first = ((partner[partner] == numbers) & (numbers < partner)).nonzero()[:, 0]
        first = first[cost[first].argsort()][: len(codebook) - size]
        second = partner[first]
        weights = (counts[first] / (counts[first] + counts[second]))[:, None]
        codebook[first] = weights * codebook[first] + (1 - weights) * codebook[second]
        kept = torch.ones(len(codebook), dtype=torch.bool, device=z.device)
        kept[second] = False
        codebook = lloyd(z, codebook[kept], _BETWEEN)
    return codebook


def _cheapest(codebook: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """What merging each code with the best other one costs, (K,), and which that is; ties go to the lowest."""
    costs, partners = [], []
    step = rows_per_tile(len(codebook), codebook.device)
    for start in range(0, len(codebook), step):
        own = slice(start, start + step)
        shares = counts[own, None] * counts / (counts[own, None] + counts)
        cost = shares * torch.cdist(codebook[own], codebook).square()
        cost[:, own].fill_diagonal_(torch.inf)
        best = cost.min(-1)
        costs.append(best.values)
        partners.append(best.indices)
    return torch.cat(costs), torch.cat(partners)


def _with_codes(layer: GaussianMixtureVQ, z: Tensor, codebook: Tensor) -> GaussianMixtureVQ:
    new = type(layer).from_config({**layer.to_config(), "codebook_size": len(codebook)}).to(layer.codebook)
    state = {name: value for name, value in layer.state_dict().items() if name not in _OF_CODES}
    new.load_state_dict(state, strict=False)
    new.codebook.copy_(codebook)
    new.codebook.requires_grad_(layer.codebook.requires_grad)
    fit_mixture(new, z, keep_codebook=True)
    index, _ = nearest_code(z, codebook)
    counts = code_counts(index, len(codebook)).to(z.dtype)
    new.share.copy_(counts / len(z))
    if layer.mixture_weights == "learned":
        new.weight_logits.copy_((counts + 1).log())
    new.straight_through, new.births = layer.straight_through, layer.births
    return new.train(layer.training)


def _hand_over(optimizer: torch.optim.Optimizer, layer: GaussianMixtureVQ, new: GaussianMixtureVQ) -> None:
    """Parameters of the new layer in place of the former one's."""
    pairs = dict(zip(layer.parameters(), new.parameters(), strict=True))
    for group in optimizer.param_groups:
        group["params"] = [pairs.get(parameter, parameter) for parameter in group["params"]]
    for before, after in pairs.items():
        state = optimizer.state.pop(before, None)
        if state and before.shape == after.shape:
            optimizer.state[after] = state


def _fit(z: Tensor, codebook: Tensor, scale: float) -> Fit:
    index, distance = nearest_code(z, codebook)
    error = float(distance.mean()) / z.shape[1]
    shares = code_counts(index, len(codebook)).to(z.dtype) / len(z)
    w = torch.tensor(1.0 / max(error, 1e-12)).to(z)
    bias, total = -0.5 * w * codebook.square().sum(-1), 0.0
    for part in z.split(rows_per_tile(len(codebook), z.device)):
        logits = torch.addmm(bias, w * part, codebook.T).logsumexp(-1) - 0.5 * w * part.square().sum(-1)
        total += float(logits.double().sum())
    normaliser = 0.5 * z.shape[1] * float((w / (2 * torch.pi)).log()) - float(
        torch.tensor(len(codebook)).log()
    )
    perplexity = float(torch.special.entr(shares).sum().exp())
    return Fit(error * scale, total / len(z) + normaliser, perplexity)


def _sums(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sums of values (N,) over the cells (K,) that ``index`` names."""
    return values.new_zeros(size).index_add(0, index, values)
