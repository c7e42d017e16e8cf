"""The report's plots of single signals: original and reconstruction over time, and the error between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.interface import device_of, evaluating
from . import plots
from .batches import Images
from .signals import SignalMetrics, sample_rate_of


def waveforms(
    model: nn.Module, dataset: Images, names: list[str], signals: Tensor, shown: int = 1024
) -> dict[str, Any]:
    """What the section shows of windows (B, C, T) on the scale [0, 1]: ``explanation`` and ``cards``.

    Drawn is the first channel, its first ``shown`` samples, in the dataset's own units where it has a ``scale``.
    """
    tokenizer: Any = model
    with evaluating(model):
        out = tokenizer(signals.to(device_of(model)))
    reconstructions = out.reconstruction.detach().float().cpu()
    scale: Any = getattr(dataset, "scale", getattr(getattr(dataset, "dataset", None), "scale", None))
    rate = sample_rate_of(dataset)
    cards = []
    for name, signal, reconstruction in zip(names, signals.float(), reconstructions, strict=True):
        metrics = SignalMetrics()
        metrics.update(reconstruction[None], signal[None])
        curves = torch.stack([signal[0], reconstruction[0].clamp(0.0, 1.0)])[:, :shown]
        if scale is not None:
            curves = scale.from_unit(curves)
        times = [number / (rate or 1) for number in range(curves.shape[1])]
        original, made = curves.tolist()
        error = (curves[1] - curves[0]).tolist()
        chart = plots.waveform_chart(
            [("original", times, original), ("reconstruction", times, made), ("error", times, error)],
            time="seconds" if rate else "sample",
            label="amplitude" if rate else "value",
        )
        decibels = f"SNR {metrics.compute()['snr']:.2f} dB" if metrics.windows else "silence"
        cards.append({"name": name, "decibels": decibels, "pictures": {}, "plot": chart})
    length = min(shown, signals.shape[-1])
    text = (
        f"Windows spread evenly over the set, each with its signal-to-noise ratio over all {signals.shape[-1]:,} "
        f"samples; drawn are the first {length:,}"
        + (", of the first channel." if signals.shape[1] > 1 else ".")
    )
    return {"explanation": text, "bars": [], "cards": cards}
