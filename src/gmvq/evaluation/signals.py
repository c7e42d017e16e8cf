"""Figures of signals, whatever their units: signal-to-noise ratio and spectral distance in dB; bits per second."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from .batches import Images, known_of

_FRAME = 256  # samples of a spectrum, a quarter of them from one to the next
_FLOOR = 1e-6  # of the loudest bin of a window: what is 60 dB below it counts as silence


class SignalMetrics:
    r"""Signal-to-noise ratios and log-spectral distance over a set of windows (B, C, T).

    With s a window less its mean (per channel), e the error of its reconstruction (clamped to [0, 1]), both summed
    over channels and samples:

    .. math:: \text{snr} = 10 \log_{10} \frac{\sum_b |s_b|^2}{\sum_b |e_b|^2}, \qquad
              \text{snr_per_window} = \operatorname{mean}_b 10 \log_{10} \frac{|s_b|^2}{|e_b|^2},

    in dB. Units and offset of the signal cancel, so that both are those of the signal in volts or degrees. The
    log-spectral distance is the root mean square over frequencies of the difference of two power spectra in dB, of
    Hann frames of 256 samples, 64 apart, each spectrum no lower than 60 dB below the window's loudest bin; averaged
    over frames and windows. Windows that do not vary (silence) count in ``snr`` alone.
    """

    def __init__(self) -> None:
        self.windows = 0
        self._sums = torch.zeros(4, dtype=torch.float64)  # |s|^2, |e|^2, dB per window, spectral distance

    def update(self, reconstruction: Tensor, signals: Tensor) -> None:
        """Add a batch: (B, C, T) twice, the reconstruction is clamped to [0, 1] here."""
        exact = signals.double()
        error = (reconstruction.double().clamp(0.0, 1.0) - exact).square().sum((1, 2))
        centred = exact - exact.mean(-1, keepdim=True)
        energy = centred.square().sum((1, 2))
        heard = energy > 1e-12 * exact[0].numel()
        decibels = 10 * (energy[heard] / error[heard].clamp_min(1e-10 * energy[heard])).log10()
        distance = _spectral_distance(reconstruction.clamp(0.0, 1.0)[heard], signals[heard])
        self._sums += torch.stack([energy.sum(), error.sum(), decibels.sum(), distance.sum()]).cpu()
        self.windows += int(heard.sum())

    def merge(self, other: SignalMetrics) -> Self:
        """Add the sums of another accumulator, for example another process's."""
        self.windows += other.windows
        self._sums += other._sums
        return self

    def compute(self) -> dict[str, float]:
        """Return ``snr``, ``snr_per_window`` and ``log_spectral_distance``, all in dB; NaN where all is silence."""
        if not self.windows:
            return dict.fromkeys(("snr", "snr_per_window", "log_spectral_distance"), math.nan)
        energy, error, decibels, distance = self._sums.tolist()
        return {
            "snr": snr(energy, error),
            "snr_per_window": decibels / self.windows,
            "log_spectral_distance": distance / self.windows,
        }


def snr(energy: float, error: float) -> float:
    """10 log10 of energy / error in dB, 100 at most."""
    return 10 * math.log10(max(energy, 1e-300) / max(error, 1e-10 * energy, 1e-300))


def signal_figures(
    metrics: SignalMetrics | None, images: Images, bits: Mapping[str, float]
) -> dict[str, float | int | None]:
    """Everything about signals that an ``Evaluation`` has; empty for images."""
    if metrics is None:
        return {}
    rate = known_of(images, "sample_rate")
    figures = {**metrics.compute(), "sample_rate": rate}
    if rate is not None:
        for kind in ("fixed", "entropy"):
            figures[f"bits_per_second_{kind}"] = rate * bits[f"bits_per_pixel_{kind}"]
    return figures


def _spectral_distance(reconstruction: Tensor, signals: Tensor) -> Tensor:
    """Log-spectral distance of each window, (B,), float64, in dB."""
    if not signals.shape[0]:  # the transform refuses to do nothing
        return signals.new_zeros(0, dtype=torch.float64)
    ours, exact = (_power(x - signals.mean(-1, keepdim=True)) for x in (reconstruction, signals))
    floor = _FLOOR * exact.amax((1, 2, 3), keepdim=True)
    decibels = 10 * (ours.clamp_min(floor) / exact.clamp_min(floor)).log10()
    return decibels.square().mean(-1).sqrt().mean((1, 2))


def _power(x: Tensor) -> Tensor:
    """Power spectra (B, C, frames, frequencies) of signals (B, C, T), float64."""
    frame = min(_FRAME, x.shape[-1])
    frames = x.double().unfold(-1, frame, max(1, frame // 4))
    window = torch.hann_window(frame, dtype=torch.float64, device=x.device)
    return torch.fft.rfft(frames * window).abs().square()
