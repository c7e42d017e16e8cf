"""One run: the same network, data, order, batch size, steps, optimizer and schedule, whatever the quantizer.

The encoder and decoder run under bfloat16 autocast where the device has it natively, the quantizer in float32. Adam
with betas (0.9, 0.99), warm-up over 50 steps, half a cosine down to 2 % of the rate; or, ``published``, as the appendix
of arXiv 2305.08842 has it: AdamW with betas (0.9, 0.95), weight decay 1e-4, warm-up over a ninth, down to 0. The
objective is the method's own (``units`` of the baselines): mean squared error plus its loss, or a negative evidence in
nats with the likelihood's scale at its best value, divided by the number of values of an image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from gmvq.data import make_loader, open_images
from gmvq.errors import NotFiniteError
from gmvq.functional.autocast import autocast_dtype
from gmvq.models import VQAutoencoder
from gmvq.objectives import GaussianLikelihood, negative_evidence
from gmvq.training.optimizer import learning_rate_factor, seed_step

from .measure import measure_test, measure_validation
from .methods import build_quantizer
from .networks import build_pair
from .suite import Run

#: Points of a learning curve; each is the mean over the steps since the one before.
_POINTS = 20


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


def train_run(run: Run, device: str = "cpu") -> dict[str, Any]:
    """Train as ``run`` says; measure the validation split, and in a final run the test split: the record's figures.

    They are validation, test, curve, training_seconds and seconds. A loss that is no finite number is a DivergedError.
    """
    started = time.perf_counter()
    model, curve, seconds = _fit(run, device)
    result: dict[str, Any] = {
        "validation": measure_validation(model, _open(run, "validation")),
        "curve": curve,
        "training_seconds": seconds,
    }
    if run["phase"] == "final":
        result |= measure_test(model, _open(run, "test"))
    return {**result, "seconds": time.perf_counter() - started}


def train_model(run: Run, device: str = "cpu") -> VQAutoencoder:
    """Train as ``run`` says; the model, in eval mode.

    Raises:
        DivergedError: the loss is no finite number.
    """
    return _fit(run, device)[0].eval()


def _fit(run: Run, device: str) -> tuple[VQAutoencoder, dict[str, list[Any]], float]:
    torch.set_flush_denormal(True)
    model = _build(run).to(device)
    return model, *_Trainer(model, run, torch.device(device)).fit()


def _build(run: Run) -> VQAutoencoder:
    torch.manual_seed(run["seed"])
    encoder, decoder = build_pair(run["network"], run["channels"], run["dim"], run["downsample"])
    for net in (encoder, decoder):
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return VQAutoencoder(encoder, build_quantizer(run), decoder)


class _Trainer:
    """The training loop; see the head of this file."""

    def __init__(self, model: VQAutoencoder, run: Run, device: torch.device) -> None:
        self.model, self.run, self.device = model, run, device
        self.quantizer: Any = model.quantizer
        self.likelihood, self.dtype = GaussianLikelihood(), autocast_dtype(device)
        networks = [*model.encoder.parameters(), *model.decoder.parameters()]
        groups: list[dict[str, Any]] = [{"params": networks, "lr": run["lr"]}]
        groups += [g for g in self.quantizer.parameter_groups(run["lr"]) if g["params"]]
        self.optimizer, warmup, final = torch.optim.Adam(groups, betas=(0.9, 0.99)), 50, 0.02
        if run.get("recipe") == "published":
            parameters = [parameter for group in groups for parameter in group["params"]]
            self.optimizer = torch.optim.AdamW(parameters, run["lr"], betas=(0.9, 0.95), weight_decay=1e-4)
            warmup, final = run["steps"] // 9, 0.0
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda i: learning_rate_factor(i, total=run["steps"], warmup=warmup, final=final)
        )

    def fit(self) -> tuple[dict[str, list[Any]], float]:
        """Train; return the learning curve and the seconds."""
        run, steps = self.run, self.run["steps"]
        images = _open(run, "train")
        batches = _endless(make_loader(images, batch_size=run["batch_size"], shuffle=True, seed=run["seed"]))
        curve = Curve(max(1, steps // _POINTS))
        self.model.train()
        started = time.perf_counter()
        for step in range(steps):
            x = next(batches).to(self.device).contiguous(memory_format=torch.channels_last)
            seed_step(run["seed"], 0, step, self.device)
            if run.get("advance", True) and hasattr(self.quantizer, "set_progress"):
                self.quantizer.set_progress(step / steps)
            try:
                mse, terms = self.backward(x)
            except NotFiniteError as error:
                raise DivergedError(f"{error} (step {step + 1} of {steps})") from error
            self.optimizer.step()
            self.schedule.step()
            curve.add(step + 1, mse, terms)
            if curve.diverged:
                raise DivergedError(f"the loss is no finite number at step {step + 1} of {steps}")
        return curve.to_dict(), time.perf_counter() - started

    def backward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of the objective on a batch; its MSE and the quantizer's terms."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            out = self.model(x)
        reconstruction = out.reconstruction.float()
        mse = (reconstruction - x).square().mean()
        kind = self.run["loss"]
        if kind == "own" and getattr(self.quantizer, "units", "nats") != "mse":
            loss = negative_evidence(self.likelihood, reconstruction, x, out.quantizer) / x[0].numel()
        else:
            loss = mse + (out.quantizer.nats if kind == "naive" else out.quantizer.loss)
            if kind == "relative":
                loss = loss / mse.detach()
        loss.backward()
        return mse.detach(), out.quantizer.terms


class Curve:
    """Means of the training MSE and of the quantizer's terms over ``every`` steps."""

    _TERMS = ("perplexity", "conditional_entropy")

    def __init__(self, every: int) -> None:
        self._every, self._sums, self._steps = every, {}, 0
        self._points: dict[str, list[Any]] = {"step": [], "mse": [], **{name: [] for name in self._TERMS}}
        self.diverged = False

    def add(self, step: int, mse: Tensor, terms: dict[str, Tensor]) -> None:
        """Add one step; nothing waits for the device but the last of each ``every`` steps."""
        values = {"mse": mse, **{name: terms[name] for name in self._TERMS if name in terms}}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        self._steps += 1
        if step % self._every:
            return
        means = {name: float(value) / self._steps for name, value in self._sums.items()}
        self.diverged = not math.isfinite(means["mse"])
        self._points["step"].append(step)
        for name in ("mse", *self._TERMS):
            self._points[name].append(means.get(name))
        self._sums, self._steps = {}, 0

    def to_dict(self) -> dict[str, list[Any]]:
        return self._points


def _open(run: Run, split: str) -> Any:
    return open_images(run["data"], split=split, size=run["size"], channels=run["channels"], flip=run["flip"])


def _endless(loader: Iterable[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from loader
