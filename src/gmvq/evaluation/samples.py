"""What the report shows of single images: original, reconstruction, error and uncertainty; of signals, waveforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .batches import Images, device_of, evaluating, image_batches
from .maps import ERROR_MAP, UNCERTAINTY_MAP
from .metrics import per_image_mse, psnr
from .pictures import colour_map, enlarge, to_picture
from .waveforms import waveforms


def samples(model: nn.Module, dataset: Images, count: int) -> dict[str, Any] | None:
    """What the section shows: ``explanation``, ``bars``, ``cards``; None for ``count`` = 0."""
    if count < 1:
        return None
    names, images = _pick(dataset, count)
    if images.ndim == 3:
        return waveforms(model, dataset, names, images)
    images = images.float()
    reconstructions, unsure = _reconstruct(model, images)
    mse = per_image_mse(reconstructions, images)
    clamped = reconstructions.clamp(0.0, 1.0)
    errors = (clamped - images).square().mean(1).sqrt()
    error_top = float(errors.flatten().quantile(0.995)) if errors.numel() < 1 << 24 else float(errors.max())
    error_top = max(error_top, 1e-6)
    bars = [
        colour_bar(ERROR_MAP, "error: root mean square over channels, data range 1", "0", f"{error_top:.3g}")
    ]
    low = high = 0.0
    if unsure is not None:
        low, high = (float(unsure.flatten().quantile(q)) for q in (0.01, 0.99))
        label = "uncertainty: log s², s in standard deviations of the latents"
        bars.append(colour_bar(UNCERTAINTY_MAP, label, f"{low:.2f}", f"{high:.2f}"))
    cards = []
    for i, name in enumerate(names):
        pictures = {
            "original": to_picture(images[i]),
            "reconstruction": to_picture(clamped[i]),
            "error": colour_map(errors[i], 0.0, error_top, name=ERROR_MAP),
        }
        if unsure is not None:
            enlarged = enlarge(unsure[i], *images.shape[2:])
            pictures["uncertainty"] = colour_map(enlarged, low, high, name=UNCERTAINTY_MAP)
        decibels = f"{psnr(float(mse[i])):.2f} dB"
        cards.append({"name": name, "decibels": decibels, "pictures": pictures, "plot": ""})
    return {"explanation": _explanation(errors, unsure), "bars": bars, "cards": cards}


def _reconstruct(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Reconstructions and log-variances of images; None where the uncertainty does not vary."""
    tokenizer: Any = model
    with evaluating(model):
        out = tokenizer(images.to(device_of(model)))
    reconstructions = out.reconstruction.detach().float().cpu()
    if reconstructions.ndim != 4:
        raise ValueError(
            f"the report shows images (B, C, H, W), but the model returns {tuple(reconstructions.shape)}"
        )
    log_variance = out.quantizer.log_variance.detach().float().cpu()
    if log_variance.ndim > 3:  # levels or groups of one position
        log_variance = log_variance.flatten(3).mean(-1)
    known = log_variance.ndim == 3 and bool(log_variance.isfinite().all())
    flat = not known or float(log_variance.max() - log_variance.min()) < 1e-6
    return reconstructions, None if flat else log_variance


def _pick(dataset: Images, count: int) -> tuple[list[str], Tensor]:
    """Images spread evenly over a dataset or tensor; the first ones of anything else."""
    source: Any = getattr(dataset, "dataset", dataset)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, list | tuple):
        count = min(count, len(source))
        if count == 0:
            raise ValueError("there is no image to report on: the dataset is empty")
        numbers = [(2 * k + 1) * len(source) // (2 * count) for k in range(count)]
        items = [source[number] for number in numbers]
        batch = torch.stack([item[0] if isinstance(item, list | tuple) else item for item in items])
        item_name = getattr(source, "item_name", None)
        return [str(item_name(n)) if item_name else f"item {n}" for n in numbers], batch
    parts = list(image_batches(dataset, batch_size=count, device=torch.device("cpu"), limit=count))
    batch = torch.cat(parts)
    return [f"item {number}" for number in range(batch.shape[0])], batch


def colour_bar(name: str, label: str, low: str, high: str) -> dict[str, Any]:
    """The legend of a colour map: a strip of it, what it shows, and the values at its ends."""
    strip = colour_map(torch.linspace(0.0, 1.0, 256)[None].expand(8, -1), 0.0, 1.0, name=name)
    return {"strip": strip, "label": label, "low": low, "high": high}


def _explanation(errors: Tensor, unsure: Tensor | None) -> str:
    text = "Images spread evenly over the set, with the PSNR of each. All error maps share one scale"
    if unsure is None:
        return f"{text}. The quantizer gives no uncertainty that varies from place to place."
    height, width = unsure.shape[1:]
    pooled = nn.functional.adaptive_avg_pool2d(errors.square()[:, None], (height, width))[:, 0]
    pair = torch.stack([pooled.clamp_min(1e-12).log().flatten(), unsure.flatten()]).double()
    correlation = float(torch.corrcoef(pair)[0, 1])
    return (
        f"{text}, and so do all uncertainty maps, log s² of the chosen code at each latent position. Over "
        f"the {unsure.numel():,} positions shown, log s² and the log of the squared error correlate by "
        f"{correlation:.2f}."
    )
