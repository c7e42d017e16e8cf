"""One run: a plain training loop, as a stranger to the layer writes it.

One optimizer over all parameters, the quantizer's among them, at one constant rate; the loss is the reconstruction
loss plus the layer's. No parameter groups, no warm-up, no call of ``set_progress``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq.errors import NotFiniteError

from ..comparison.networks import conv
from ..comparison.train import DivergedError
from ..results import failure
from .data import Data, load
from .design import SGD_FACTOR, Setting
from .methods import RATES, TUNED, build_method
from .networks import build

Loss = Callable[[Tensor, Tensor], Tensor]
_PERCEPTUAL = 0.5
#: Positions that are measured at least, in all and for each code, and how many examples at a time.
_POSITIONS, _PER_CODE, _BATCH = 5000, 4, 64


class Autoencoder(nn.Module):
    """Encoder, quantizer and decoder; (reconstruction, indices, the quantizer's loss)."""

    def __init__(self, encoder: nn.Module, quantizer: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantized, indices, loss = tuple(self.quantizer(self.encoder(x).movedim(1, -1).contiguous()))[:3]
        return self.decoder(quantized.movedim(-1, 1).contiguous()), indices, loss


def train(setting: Setting, method: str, seed: int = 0) -> dict[str, Any]:
    """Train and measure one run; ``seed`` is of weights, batches and noise.

    Returns:
        ``mse``, ``perplexity``, ``usage`` of the test part, ``validation_mse``, ``train_loss`` (mean over the last
        twentieth of the steps), ``seconds`` of the training, ``steps``, ``mse_of_mean`` (that of the mean training
        example, the least that any network reaches), ``error``: None, or why there are no figures.
    """
    data = load(setting.data, setting.size)
    head = {
        "steps": setting.steps,
        "mse_of_mean": float((data.test - data.train.mean(0)).square().mean()),
    }
    run = _best_rate if method in TUNED else _run
    try:
        return {**head, **run(setting, method, seed, data), "error": None}
    except Exception as error:
        return {**head, "error": failure(error)}


def _best_rate(setting: Setting, method: str, seed: int, data: Data) -> dict[str, Any]:
    """The run of the rate with the lowest validation MSE; test figures have no part in the choice."""
    runs: list[dict[str, Any]] = []
    for factor in RATES:
        try:
            run = _run(replace(setting, lr=setting.lr * factor), method, seed, data)
        except DivergedError:
            continue
        runs.append({**run, "rate": factor})
    if not runs:
        raise DivergedError("the loss is no finite number at any rate")
    best = min(runs, key=lambda run: run["validation_mse"])
    return {**best, "seconds": sum(run["seconds"] for run in runs)}


def _run(setting: Setting, method: str, seed: int, data: Data) -> dict[str, Any]:
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    encoder, decoder = build(setting)
    torch.manual_seed(seed + 1)
    model = Autoencoder(encoder, build_method(method, setting), decoder)
    started = time.perf_counter()
    loss = _fit(model, setting, data.train, seed)
    seconds = time.perf_counter() - started
    figures = _measure(model, data.test, setting)
    if not math.isfinite(figures["mse"]):
        raise DivergedError("the test MSE is no finite number")
    validation = _measure(model, data.validation, setting)["mse"]
    return {**figures, "validation_mse": validation, "train_loss": loss, "seconds": seconds}


def _fit(model: Autoencoder, setting: Setting, examples: Tensor, seed: int) -> float:
    """Train in place; the mean loss of the last twentieth of the steps."""
    optimizer = _optimizer(model, setting)
    loss_of = reconstruction_loss(setting)
    generator = torch.Generator().manual_seed(seed)
    last: list[float] = []
    model.train()
    torch.manual_seed(seed + 2)
    for step in range(setting.steps):
        x = examples[torch.randint(len(examples), (setting.batch,), generator=generator)]
        optimizer.zero_grad()
        try:
            reconstruction, _, quantizer_loss = model(x)
        except NotFiniteError as error:
            raise DivergedError(str(error)) from error
        loss = loss_of(reconstruction, x) + quantizer_loss
        loss.backward()
        optimizer.step()
        last = [*last, float(loss.detach())][-max(1, setting.steps // 20) :]
        if not math.isfinite(last[-1]):
            raise DivergedError(f"the loss is no finite number at step {step + 1} of {setting.steps}")
    return sum(last) / len(last)


def _optimizer(model: nn.Module, setting: Setting) -> torch.optim.Optimizer:
    if setting.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=SGD_FACTOR * setting.lr, momentum=0.9)
    if setting.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=setting.lr, weight_decay=0.05)
    return torch.optim.Adam(model.parameters(), lr=setting.lr)


def reconstruction_loss(setting: Setting) -> Loss:
    """(reconstruction, target) -> the loss: mean squared, summed over an example, absolute, or with features."""
    if setting.loss == "mse":
        return F.mse_loss
    if setting.loss == "l1":
        return F.l1_loss
    if setting.loss == "sum":
        return lambda x, y: F.mse_loss(x, y, reduction="sum") / len(y)
    features = _features(setting.channels, setting.spatial_dims)
    return lambda x, y: F.mse_loss(x, y) + _PERCEPTUAL * F.mse_loss(features(x), features(y))


def _features(channels: int, dims: int) -> nn.Module:
    """A fixed network with random weights: what it sees is all that a perceptual loss without a download has."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_240_607)
        kind = conv(dims)
        first, second = kind(channels, 16, 3, padding=1), kind(16, 32, 3, stride=2, padding=1)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU()).requires_grad_(False)


@torch.no_grad()
def _measure(model: nn.Module, examples: Tensor, setting: Setting) -> dict[str, float]:
    """``mse``, and of the codes ``perplexity`` and ``usage``, the share of them that occurs, in eval mode.

    The examples are spread over those given: enough for 5,000 positions, and for four per code.
    """
    wanted = -(-max(_POSITIONS, _PER_CODE * setting.codebook_size) // setting.positions)
    wanted = min(len(examples), max(64, wanted))
    chosen = examples[torch.arange(wanted) * len(examples) // wanted]
    counts, squared = torch.zeros(setting.codebook_size, dtype=torch.int64), 0.0
    model.eval()
    for x in chosen.split(_BATCH):
        reconstruction, indices, _ = model(x)
        squared += float((reconstruction - x).double().square().sum())
        counts += torch.bincount(indices.reshape(-1), minlength=setting.codebook_size)
    share = counts.double() / counts.sum()
    return {
        "mse": squared / chosen.numel(),
        "perplexity": float(torch.exp(torch.special.entr(share).sum())),
        "usage": float((counts > 0).double().mean()),
        "positions": int(counts.sum()),
    }
