"""What the report shows of whole photographs, and of single items: pictures, or the waves of signals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.interface import device_of, evaluating
from . import plots
from .batches import Images, image_batches, known_of
from .maps import ERROR_MAP, UNCERTAINTY_MAP, Seen, code_colours, limits, look, token_map, uncertainty_map
from .pictures import Picture, colour_map, to_picture
from .signals import SignalMetrics

#: Photographs shown, and their longer side in pixels.
_MOST, _SIDE = 3, 512
#: Lines of the plot of a signal, and samples drawn.
_LINES = ("original", "reconstruction", "error")
_SAMPLES = 1024


def photographs(model: nn.Module, dataset: Images) -> dict[str, Any] | None:
    """What the section of whole photographs shows; None where the items of the set are not cut from any."""
    whole: Any = getattr(dataset, "whole_pictures", None)
    pictures = whole(_MOST, _SIDE) if whole is not None else []
    if not pictures:
        return None
    seen = [look(model, name, image) for name, image in pictures]
    bars, maps = _maps(seen)
    colours = code_colours(model)
    explanation = (
        f"Pictures of the set as a whole, scaled to {_SIDE} pixels along the longer side where they are larger, with "
        "the PSNR at that size. In the map of tokens each code has a colour of its own; like codewords have like "
        "colours."
    )
    cards = []
    for one, more in zip(seen, maps, strict=True):
        tokens = token_map(one.indices, colours, *one.image.shape[1:])
        cards.append(_card(one, _pair(one), {"error": more.pop("error"), "tokens": tokens, **more}))
    return {"explanation": explanation, "bars": bars, "cards": cards}


def samples(model: nn.Module, dataset: Images, count: int) -> dict[str, Any] | None:
    """What the section of single images or signals shows; None for ``count`` = 0."""
    if count < 1:
        return None
    names, images = _pick(dataset, count)
    if images.ndim == 3:
        return waveforms(model, dataset, names, images)
    seen = [look(model, name, image) for name, image in zip(names, images, strict=True)]
    bars, maps = _maps(seen)
    cards = [_card(one, {**_pair(one), **more}) for one, more in zip(seen, maps, strict=True)]
    text = "Images spread evenly over the set, with the PSNR of each. All error maps share one scale"
    if any(one.log_variance is not None for one in seen):
        text += ", and so do all uncertainty maps, log s² of the chosen code at each latent position."
    else:
        text += ". The quantizer gives no uncertainty that varies from place to place."
    return {"explanation": text, "bars": bars, "cards": cards}


def _card(seen: Seen, *rows: dict[str, Picture]) -> dict[str, Any]:
    """What is shown of one picture: rows of pictures with their captions."""
    return {"name": seen.name, "decibels": f"{seen.decibels:.2f} dB", "rows": rows, "plot": ""}


def _pair(seen: Seen) -> dict[str, Picture]:
    return {"original": to_picture(seen.image), "reconstruction": to_picture(seen.reconstruction)}


def _maps(seen: list[Seen]) -> tuple[list[dict[str, Any]], list[dict[str, Picture]]]:
    """Error and uncertainty of several pictures, on scales that they share, and the legends of these scales."""
    top = max(limits([one.error for one in seen], high=0.995)[1], 1e-6)
    bars = [_legend(ERROR_MAP, "error: root mean square over channels, data range 1", "0", f"{top:.3g}")]
    maps = [{"error": colour_map(one.error, 0.0, top, name=ERROR_MAP)} for one in seen]
    unsure = [one.log_variance for one in seen if one.log_variance is not None]
    if unsure:
        low, high = limits(unsure)
        label = "uncertainty: log s², s in standard deviations of the latents at the start"
        bars.append(_legend(UNCERTAINTY_MAP, label, f"{low:.2f}", f"{high:.2f}"))
        for one, found in zip(seen, maps, strict=True):
            if one.log_variance is not None:
                found["uncertainty"] = uncertainty_map(one.log_variance, low, high, *one.image.shape[1:])
    return bars, maps


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


def _legend(name: str, label: str, low: str, high: str) -> dict[str, Any]:
    """The legend of a colour map: a strip of it, what it shows, and the values at its ends."""
    strip = colour_map(torch.linspace(0.0, 1.0, 256)[None].expand(8, -1), 0.0, 1.0, name=name)
    return {"strip": strip, "label": label, "low": low, "high": high}


def waveforms(model: nn.Module, dataset: Images, names: list[str], signals: Tensor) -> dict[str, Any]:
    """What the section shows of windows (B, C, T) on the scale [0, 1]: ``explanation`` and ``cards``.

    Drawn is the first channel, its first samples, in the dataset's own units where it has a ``scale``.
    """
    tokenizer: Any = model
    with evaluating(model):
        out = tokenizer(signals.to(device_of(model)))
    reconstructions = out.reconstruction.detach().float().cpu()
    scale, rate = known_of(dataset, "scale"), known_of(dataset, "sample_rate")
    cards = []
    for name, signal, reconstruction in zip(names, signals.float(), reconstructions, strict=True):
        metrics = SignalMetrics()
        metrics.update(reconstruction[None], signal[None])
        curves = torch.stack([signal[0], reconstruction[0].clamp(0.0, 1.0)])[:, :_SAMPLES]
        if scale is not None:
            curves = scale.from_unit(curves)
        times = [number / (rate or 1) for number in range(curves.shape[1])]
        lines = torch.stack([*curves, curves[1] - curves[0]]).tolist()
        chart = plots.waveform_chart(
            [(label, times, line) for label, line in zip(_LINES, lines, strict=True)],
            time="seconds" if rate else "sample",
            label="amplitude" if rate else "value",
        )
        decibels = f"SNR {metrics.compute()['snr']:.2f} dB" if metrics.windows else "silence"
        cards.append({"name": name, "decibels": decibels, "rows": (), "plot": chart})
    length = min(_SAMPLES, signals.shape[-1])
    text = (
        f"Windows spread evenly over the set, each with its signal-to-noise ratio over all {signals.shape[-1]:,} "
        f"samples; drawn are the first {length:,}"
        + (", of the first channel." if signals.shape[1] > 1 else ".")
    )
    return {"explanation": text, "bars": [], "cards": cards}
