"""One run: a plain training loop, as a stranger to the layer writes it.

One optimizer over all parameters, the quantizer's among them, at one constant rate; the loss is the reconstruction
loss plus the layer's. No parameter groups, no warm-up, no call of ``set_progress`` unless the layer asks for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .data import Data, load
from .design import SGD_FACTOR
from .losses import reconstruction_loss
from .measure import measure, mse_of_mean
from .methods import RATES, Build, build_method
from .networks import build
from .setting import Setting


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


class Autoencoder(nn.Module):
    """Encoder, quantizer and decoder; (reconstruction, indices, the quantizer's loss)."""

    def __init__(self, encoder: nn.Module, quantizer: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latents = self.encoder(x).movedim(1, -1).contiguous()
        quantized, indices, *loss = self.quantizer(latents)
        total = loss[0].sum() if loss else quantized.new_zeros(())
        return self.decoder(quantized.movedim(-1, 1).contiguous()), indices, total


def train(setting: Setting, method: str | Build, seed: int = 0, steps: int | None = None) -> dict[str, Any]:
    """Train and measure one run.

    Args:
        method: a name of ``methods.METHODS``, or (dim, codebook_size) -> a module of latents (..., D) that returns
            (quantized, indices, loss). Has it a true attribute ``wants_progress``, ``set_progress(step / steps)`` is
            called before each step.
        seed: of weights, batches and noise.
        steps: instead of the setting's.

    Returns:
        ``mse``, ``perplexity``, ``usage`` of the test part, ``validation_mse``, ``train_loss`` (mean over the last
        twentieth of the steps), ``seconds`` of the training, ``steps``, ``mse_of_mean`` (what the mean training
        example would have), ``error``: None, or why there are no figures.
    """
    data = load(setting.data, setting.size)
    setting = setting if steps is None else replace(setting, steps=steps)
    head = {"steps": setting.steps, "mse_of_mean": mse_of_mean(data)}
    try:
        if method == "ema-best-rate":
            return {**head, **_best_rate(setting, seed, data), "error": None}
        return {**head, **_run(setting, method, seed, data), "error": None}
    except Exception as error:
        return {**head, "error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}


def _best_rate(setting: Setting, seed: int, data: Data) -> dict[str, Any]:
    """The run of the rate with the lowest validation MSE; test figures have no part in the choice."""
    runs: list[dict[str, Any]] = []
    for factor in RATES:
        tried = replace(setting, lr=setting.lr * factor)
        try:
            runs.append({**_run(tried, "ema-best-rate", seed, data), "rate": factor})
        except DivergedError:
            continue
    if not runs:
        raise DivergedError("the loss is no finite number at any rate")
    best = min(runs, key=lambda run: run["validation_mse"])
    return {**best, "seconds": sum(run["seconds"] for run in runs)}


def _run(setting: Setting, method: str | Build, seed: int, data: Data) -> dict[str, Any]:
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    encoder, decoder = build(setting)
    torch.manual_seed(seed + 1)
    quantizer = (
        build_method(method, setting)
        if isinstance(method, str)
        else method(setting.dim, setting.codebook_size)
    )
    model = Autoencoder(encoder, quantizer, decoder)
    started = time.perf_counter()
    loss = fit(model, setting, data.train, seed)
    seconds = time.perf_counter() - started
    figures = measure(model, data.test, setting)
    if not math.isfinite(figures["mse"]):
        raise DivergedError("the test MSE is no finite number")
    validation = measure(model, data.validation, setting)["mse"]
    return {**figures, "validation_mse": validation, "train_loss": loss, "seconds": seconds}


def fit(model: Autoencoder, setting: Setting, examples: Tensor, seed: int) -> float:
    """Train in place; the mean loss of the last twentieth of the steps.

    Raises:
        DivergedError: the loss is no finite number.
    """
    optimizer = _optimizer(model, setting)
    loss_of = reconstruction_loss(setting)
    generator = torch.Generator().manual_seed(seed)
    progress = getattr(model.quantizer, "wants_progress", False)
    last: list[float] = []
    model.train()
    torch.manual_seed(seed + 2)
    for step in range(setting.steps):
        if progress:
            model.quantizer.set_progress(step / setting.steps)  # pyright: ignore[reportCallIssue]
        x = examples[torch.randint(len(examples), (setting.batch,), generator=generator)]
        loss = _step(model, optimizer, loss_of, x)
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is no finite number at step {step + 1} of {setting.steps}")
        if step >= setting.steps - max(1, setting.steps // 20):
            last.append(loss)
    return sum(last) / len(last)


def _step(
    model: Autoencoder,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
) -> float:
    from gmvq.errors import NotFiniteError

    optimizer.zero_grad()
    try:
        reconstruction, _, quantizer_loss = model(x)
    except NotFiniteError as error:
        raise DivergedError(str(error)) from error
    loss = loss_of(reconstruction, x) + quantizer_loss
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _optimizer(model: nn.Module, setting: Setting) -> torch.optim.Optimizer:
    if setting.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=SGD_FACTOR * setting.lr, momentum=0.9)
    if setting.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=setting.lr, weight_decay=0.05)
    return torch.optim.Adam(model.parameters(), lr=setting.lr)
