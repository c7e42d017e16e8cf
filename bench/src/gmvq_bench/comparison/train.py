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
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor

from gmvq.data import make_loader, open_images
from gmvq.errors import NotFiniteError
from gmvq.functional.autocast import autocast_dtype
from gmvq.models import VQAutoencoder
from gmvq.objectives import GaussianLikelihood, negative_evidence
from gmvq.training.optimizer import channels_last, in_fastest_format, learning_rate_factor, seed_step

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

    They are validation, test, curve (the step and the mean training MSE of each of its points) and seconds.

    Raises:
        DivergedError: the loss is no finite number.
    """
    started = time.perf_counter()
    model, curve = _fit(run, device)
    result = {"validation": measure_validation(model, _open(run, "validation")), "curve": curve}
    if run["phase"] == "final":
        result |= measure_test(model, _open(run, "test"))
    return {**result, "seconds": time.perf_counter() - started}


def train_model(run: Run, device: str = "cpu") -> VQAutoencoder:
    """Train as ``run`` says; the model, in eval mode."""
    return _fit(run, device)[0].eval()


def _fit(run: Run, device: str) -> tuple[VQAutoencoder, dict[str, list[Any]]]:
    torch.set_flush_denormal(True)
    torch.manual_seed(run["seed"])
    encoder, decoder = build_pair(run["network"], run["channels"], run["dim"], run["downsample"])
    for net in (encoder, decoder):
        channels_last(net)
    model = VQAutoencoder(encoder, build_quantizer(run), decoder).to(device)
    return model, _train(model.train(), run, torch.device(device))


def _train(model: VQAutoencoder, run: Run, device: torch.device) -> dict[str, list[Any]]:
    """The training loop; returns the learning curve."""
    steps: int = run["steps"]
    quantizer: Any = model.quantizer
    optimizer, schedule = _optimizer(model, run)
    loader = make_loader(_open(run, "train"), batch_size=run["batch_size"], shuffle=True, seed=run["seed"])
    batches, objective = chain.from_iterable(repeat(loader)), _objective(model, run, device)
    curve: dict[str, list[Any]] = {"step": [], "mse": []}
    every, total = max(1, steps // _POINTS), torch.zeros((), device=device)
    for step in range(1, steps + 1):
        x = in_fastest_format(next(batches).to(device))
        seed_step(run["seed"], 0, step - 1, device)
        if run.get("advance", True) and hasattr(quantizer, "set_progress"):
            quantizer.set_progress((step - 1) / steps)
        optimizer.zero_grad(set_to_none=True)
        try:
            mse, loss = objective(x)
            loss.backward()
        except NotFiniteError as error:
            raise DivergedError(f"{error} (step {step} of {steps})") from error
        optimizer.step()
        schedule.step()
        total += mse.detach()
        # Nothing waits for the device but the points of the curve.
        if step % every == 0:
            curve["step"].append(step)
            curve["mse"].append(float(total) / every)
            if not math.isfinite(curve["mse"][-1]):
                raise DivergedError(f"the loss is no finite number at step {step} of {steps}")
            total.zero_()
    return curve


def _optimizer(
    model: VQAutoencoder, run: Run
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The optimizer and its schedule; see the head of this file."""
    networks = [*model.encoder.parameters(), *model.decoder.parameters()]
    groups: list[dict[str, Any]] = [{"params": networks, "lr": run["lr"]}]
    groups += [g for g in model.quantizer.parameter_groups(run["lr"]) if g["params"]]  # pyright: ignore
    optimizer, warmup, final = torch.optim.Adam(groups, betas=(0.9, 0.99)), 50, 0.02
    if run.get("recipe") == "published":
        parameters = [parameter for group in groups for parameter in group["params"]]
        optimizer = torch.optim.AdamW(parameters, run["lr"], betas=(0.9, 0.95), weight_decay=1e-4)
        warmup, final = run["steps"] // 9, 0.0
    factor = partial(learning_rate_factor, total=run["steps"], warmup=warmup, final=final)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _objective(
    model: VQAutoencoder, run: Run, device: torch.device
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A batch -> its MSE, and the objective."""
    likelihood, dtype, kind = GaussianLikelihood(), autocast_dtype(device), run["loss"]
    in_nats = kind == "own" and getattr(model.quantizer, "units", "nats") != "mse"

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            out = model(x)
        reconstruction = out.reconstruction.float()
        mse = (reconstruction - x).square().mean()
        if in_nats:
            return mse, negative_evidence(likelihood, reconstruction, x, out.quantizer) / x[0].numel()
        loss = mse + (out.quantizer.nats if kind == "naive" else out.quantizer.loss)
        return mse, loss / mse.detach() if kind == "relative" else loss

    return objective


def _open(run: Run, split: str) -> Any:
    return open_images(run["data"], split=split, size=run["size"], channels=run["channels"], flip=run["flip"])
