r"""The study of gradient estimators: is the Gumbel-softmax gradient better where q(c|x) is sharp, and does ALBO help?

The network, small enough to enumerate all codes of an image: 8 x 8 RGB crops of the built-in photographs; encoder
Linear(192, 64), SiLU, Linear(64, P D); P = 2 positions of D = 8 features; ``GaussianMixtureVQ`` of K = 16 codes, hence
256 joint codes; decoder Linear(P D, 64), SiLU, Linear(64, 192). It is trained for 600 steps of 64 crops by Adam at
2e-3 on ``negative_evidence``, everything else at the library's defaults, with every objective of ``OBJECTIVES``, and
with q(c|x) on all codes and on the default support.

At checkpoints the gradient of E_q[-log p(x | mu_c)] with respect to the *encoder's parameters*, and to the logits, is
measured per image, on tiles of photographs not trained on, in float64: exact, and the moments of an estimate from one
sample at a temperature of 0.5 (``error``). A posterior on a support is measured against its own exact gradient. Errors
are root mean squares per image: absolute, in nats per unit of the parameters, and relative to the exact gradient.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gmvq.data import open_images
from gmvq.functional.divergences import entropy_from_logits
from gmvq.functional.estimators import GumbelSoftmax
from gmvq.functional.schedules import Constant
from gmvq.objectives.likelihoods import GaussianLikelihood, negative_evidence
from gmvq.quantizers import GaussianMixtureVQ
from gmvq.quantizers.parts import Objective

from ..markdown import render
from ..results import rounded
from ..statistics import mean_interval
from .error import DecodeLoss, estimator_error

POSITIONS, DIM, CODES, SIZE = 2, 8, 16, 8
OBJECTIVES: dict[str, Objective] = {
    "albo": Objective("albo"),
    "elbo": Objective("elbo"),
    "albo, beta = 1": Objective("albo", beta=Constant(1.0)),
    "elbo, beta = 1": Objective("elbo", beta=Constant(1.0)),
    "none": Objective(beta=Constant(0.0)),
    "literal": Objective("literal", gamma=Constant(1.0), beta=Constant(1.0)),
}
SUPPORTS: dict[str, int | None] = {"all": None, "4": 4}
SAMPLES = 256  # draws of the noise per image, besides two for each joint code
BATCH, RATE, TEMPERATURE = 64, 2e-3, 0.5
MEASURES = ("absolute error", "absolute bias", "relative error")
#: With respect to the encoder's parameters, and to the logits.
CELLS = ("0.5", "0.5, logits")
#: Over images and checkpoints; of mean H and median error over checkpoints alone.
CORRELATIONS = ("pearson", "spearman", "pearson of checkpoints")
#: Images whose exact gradient is smaller than this, in units of the batch's largest, are left out: their posterior is
#: one-hot for every purpose, and a relative error means nothing.
NEGLIGIBLE = 1e-9


class GradientTokenizer(nn.Module):
    """The network of the study; images (B, 3, 8, 8)."""

    def __init__(self, objective: Objective, support: int | None, hidden: int = 64) -> None:
        super().__init__()
        pixels = 3 * SIZE * SIZE
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden), nn.SiLU(), nn.Linear(hidden, POSITIONS * DIM)
        )
        self.quantizer = GaussianMixtureVQ(DIM, CODES, objective=objective, support=support, start_after=0)
        self.decoder = nn.Sequential(nn.Linear(POSITIONS * DIM, hidden), nn.SiLU(), nn.Linear(hidden, pixels))

    def encode(self, images: Tensor) -> Tensor:
        """Latents, (B, P, D)."""
        return self.encoder(images).unflatten(-1, (POSITIONS, DIM))

    def decode(self, quantized: Tensor) -> Tensor:
        """Images (..., 3 * 8 * 8), flat, from (..., P, D)."""
        return self.decoder(quantized.flatten(-2))


def run_study(
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    steps: int = 600,
    checkpoints: int = 10,
    images: int = 32,
    objectives: Sequence[str] = tuple(OBJECTIVES),
) -> dict[str, Any]:
    """Train every objective and support with each seed; measure ``images`` at checkpoints evenly spaced in sqrt(step).

    Returns ``settings``; ``correlations`` of H(q(c|x)) with each measure over all objectives; ``comparisons`` of ALBO
    with ELBO, means over checkpoints: log2 of the ratio of errors, difference of entropies.
    """
    pool, held_out = _images("train", 8192), _images("test", images)
    stops = sorted({math.ceil(steps * (i / checkpoints) ** 2) for i in range(1, checkpoints + 1)})
    parts = [
        measure(model, held_out, SUPPORTS[support], seed).assign(
            objective=objective, support=support, seed=seed, step=step
        )
        for seed in seeds
        for objective in objectives
        for support in SUPPORTS
        for step, model in _train(objective, SUPPORTS[support], seed, steps, pool, stops)
    ]
    settings = {"seeds": list(seeds), "steps": steps, "checkpoints": stops, "images": images, "batch": BATCH}
    network = {"learning_rate": RATE, "positions": POSITIONS, "dim": DIM, "codes": CODES, "size": SIZE}
    return {"settings": settings | network, **rounded(summarise(pd.concat(parts)))}


def _train(
    objective: str, support: int | None, seed: int, steps: int, pool: Tensor, stops: Sequence[int]
) -> Iterator[tuple[int, GradientTokenizer]]:
    """The model at ``stops``, numbers of steps done (at least 1), on its way."""
    torch.manual_seed(seed)
    model, likelihood = GradientTokenizer(OBJECTIVES[objective], support), GaussianLikelihood()
    network = [*model.encoder.parameters(), *model.decoder.parameters()]
    optimizer = torch.optim.Adam([{"params": network}, *model.quantizer.parameter_groups(RATE)], lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        images = pool[torch.randint(len(pool), (BATCH,), generator=generator)]
        model.quantizer.set_progress((step - 1) / steps)
        output = model.quantizer(model.encode(images))
        loss = negative_evidence(likelihood, model.decode(output.quantized), images.flatten(1), output)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step in stops:
            model.quantizer.set_progress(step / steps)
            model.quantizer.settle()
            yield step, model


def _images(split: str, count: int) -> Tensor:
    """Random crops of the training photographs, or tiles evenly spaced over all others."""
    data = open_images("photos", split=split, size=SIZE)
    stride = 1 if split == "train" else len(data) // count
    return torch.stack([data[(i * stride) % len(data), i] for i in range(count)])


def measure(model: GradientTokenizer, images: Tensor, support: int | None, seed: int) -> pd.DataFrame:
    """H(q(c|x)), mean over positions, and the errors at one state of a model: a row for each image and cell.

    ``norm`` is that of the exact gradient. The model stays as it is: a float64 copy is measured.
    """
    model = copy.deepcopy(model).double()
    images, quantizer = images.double(), model.quantizer
    all_logits = quantizer.posterior_logits(model.encode(images).detach()).detach()
    logits, index = all_logits.topk(min(support or CODES, CODES), dim=-1)
    codes, loss = quantizer.codebook.detach()[index], _decode_loss(model, images, all_logits)
    slope = codes * (quantizer.log_precision.detach().exp() * quantizer.sharpening / quantizer.scale)
    metric = torch.einsum("bpkd,bpdqe,bqje->bpkqj", slope, _kernel(model, images), slope)
    entropy, frames = entropy_from_logits(logits).mean(-1), []
    for cell, of in zip(CELLS, (metric, None), strict=True):
        chance = torch.Generator().manual_seed(seed)
        error = estimator_error(logits, codes, loss, GumbelSoftmax(), TEMPERATURE, SAMPLES, chance, metric=of)
        whole, bias = error.error.clamp_min(0.0), error.bias.clamp_min(0.0)
        columns = (entropy, error.exact_norm, whole.sqrt(), bias.sqrt(), error.relative(whole).sqrt())
        names = ("entropy", "norm", *MEASURES)
        values = {name: x.detach().numpy() for name, x in zip(names, columns, strict=True)}
        frames.append(pd.DataFrame({"image": np.arange(len(images)), "cell": cell, **values}))
    return pd.concat(frames)


def _decode_loss(model: GradientTokenizer, images: Tensor, logits: Tensor) -> DecodeLoss:
    """-log p(x|z) in nats up to a constant, s_x^2 the mean squared error of these images at the most probable codes."""
    flat = images.flatten(1)
    codewords = model.quantizer.codebook[logits.argmax(-1)]
    variance = (model.decode(codewords) - flat).square().mean().detach()
    return lambda z: (model.decode(z) - flat).square().sum(-1) / (2 * variance)


def _kernel(model: GradientTokenizer, images: Tensor) -> Tensor:
    r"""J J^T, (B, P, D, P, D), J the Jacobian of an image's latents with respect to the encoder's parameters.

    Of a linear layer h -> a it is (\|h\|^2 + 1) A A^T with A the Jacobian with respect to a; layers add up.
    """
    value, inputs, outputs = images, [], []
    for layer in model.encoder:
        linear = isinstance(layer, nn.Linear)
        inputs += [value.detach()] if linear else []
        value = layer(value)
        outputs += [value] if linear else []
    rows = [torch.autograd.grad(latent, outputs, retain_graph=True) for latent in value.sum(0)]
    kernel = torch.zeros(())
    for number, h in enumerate(inputs):
        slope = torch.stack([row[number] for row in rows], 1)
        kernel = kernel + (h.square().sum(-1) + 1.0)[:, None, None] * (slope @ slope.mT)
    return kernel.unflatten(2, (POSITIONS, DIM)).unflatten(1, (POSITIONS, DIM))


def summarise(frame: Any) -> dict[str, Any]:
    """Correlations and comparisons, from the rows of ``measure`` with objective, support, seed and step."""
    state = ["support", "objective", "seed", "step"]
    norms = frame[frame.cell == CELLS[0]].set_index([*state, "image"])["norm"]
    usable = norms > NEGLIGIBLE * norms.groupby(state).transform("max")
    rows = frame[usable.reindex(pd.MultiIndex.from_frame(frame[[*state, "image"]])).to_numpy()]
    points = frame.groupby([*state, "cell"])[["entropy"]].mean()
    points = points.join(rows.groupby([*state, "cell"])[list(MEASURES)].median()).fillna(0.0).reset_index()
    correlations, comparisons = [], []
    for support in frame.support.unique():
        for cell in CELLS:
            own, means = (f[(f.support == support) & (f.cell == cell)] for f in (rows, points))
            names = {"support": support, "objective": "pooled", "temperature": cell}
            correlations += [names | {"measure": m, **_correlations(own, means, m)} for m in MEASURES]
            if {"albo", "elbo"} <= set(means.objective):
                names["objective"], names["pair"] = "albo", "albo / elbo"
                comparisons.append(names | _comparison(means))
    return {"correlations": correlations, "comparisons": comparisons}


def _correlations(rows: Any, points: Any, measure: str) -> dict[str, Any]:
    """Means over seeds with 95 % intervals: t-intervals of Fisher's z = artanh r, transformed back."""
    found = {name: [] for name in CORRELATIONS}
    for seed in rows.seed.unique():
        own, means = rows[rows.seed == seed], points[points.seed == seed]
        for name, part in zip(CORRELATIONS, (own, own, means), strict=True):
            found[name].append(part.entropy.corr(part[measure], method=name.split()[0]))
    return {name: correlation_interval(values) for name, values in found.items()}


def correlation_interval(values: Iterable[float]) -> dict[str, float | None]:
    """Mean correlation over seeds with its 95 % interval; where a side is constant the correlation counts as 0."""
    centre, half = mean_interval(np.arctanh(np.clip(np.nan_to_num(list(values)), -1 + 1e-9, 1 - 1e-9)))
    low, high = (None, None) if half is None else (math.tanh(centre - half), math.tanh(centre + half))
    return {"mean": math.tanh(centre), "low": low, "high": high}


def _comparison(points: Any) -> dict[str, Any]:
    """ALBO less ELBO at equal seed and step, of errors in log2; mean over steps, interval over seeds."""
    values = points.set_index(["objective", "seed", "step"])[["entropy", *MEASURES]]
    values[["absolute error", "relative error"]] = np.log2(values[["absolute error", "relative error"]])
    gaps = (values.loc["albo"] - values.loc["elbo"]).groupby("seed").mean()
    return {
        name: {"mean": dict(zip(("mean", "half"), mean_interval(gaps[name]), strict=True))} for name in gaps
    }


def table(study: dict[str, Any]) -> str:
    """The findings as Markdown."""
    return render(
        "gradients.md.j2",
        study=study,
        measured={"all": "all codes", "4": "4 codes"},
        correlations=CORRELATIONS,
        pooled=study["correlations"],
        pairs=study["comparisons"],
    )
