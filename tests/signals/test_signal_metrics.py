"""Signal-to-noise ratio and spectral distance: closed forms, units, batches, silence."""

from __future__ import annotations

import math

import pytest
import torch

from gmvq.evaluation import SignalMetrics


def measured(reconstruction: torch.Tensor, signals: torch.Tensor) -> dict[str, float]:
    metrics = SignalMetrics()
    metrics.update(reconstruction, signals)
    return metrics.compute()


def sine(amplitude: float, cycles: int, length: int = 1024) -> torch.Tensor:
    time = torch.arange(length, dtype=torch.float64) / length
    return 0.5 + amplitude * torch.sin(2 * math.pi * cycles * time)[None, None]


def test_snr_of_a_smaller_copy_in_closed_form() -> None:
    """x - 0.5 shrunk by 0.9: the error is a tenth of the signal, 20 dB, at every frequency 20 log10 0.9."""
    exact = torch.cat([sine(0.3, 32), sine(0.1, 64)])
    values = measured(0.5 + 0.9 * (exact - 0.5), exact)
    assert values["snr"] == pytest.approx(20.0)
    assert values["snr_per_window"] == pytest.approx(20.0)
    noise = torch.rand(1, 1, 4096, dtype=torch.float64)
    values = measured(0.5 + 0.9 * (noise - 0.5), noise)
    assert values["log_spectral_distance"] == pytest.approx(-20 * math.log10(0.9), rel=0.05)


def test_units_cancel() -> None:
    exact, noise = torch.rand(3, 2, 500).double(), 0.02 * torch.randn(3, 2, 500).double()
    made = (exact + noise).clamp(0, 1)
    wide = measured(made, exact)
    narrow = measured(0.3 + 0.1 * made, 0.3 + 0.1 * exact)
    for name, value in wide.items():
        assert narrow[name] == pytest.approx(value, rel=1e-6), name


def test_batches_add_up_and_silence_counts_once() -> None:
    exact, made = torch.rand(6, 1, 300), torch.rand(6, 1, 300)
    exact[5] = 0.5
    whole = measured(made, exact)
    one, two = SignalMetrics(), SignalMetrics()
    one.update(made[:2], exact[:2])
    two.update(made[2:], exact[2:])
    merged = one.merge(two)
    assert merged.windows == 5
    for name, value in merged.compute().items():
        assert value == pytest.approx(whole[name]), name
    assert all(math.isnan(value) for value in measured(made[5:], exact[5:]).values())


def test_exact_and_short_windows() -> None:
    exact = torch.rand(2, 1, 8)
    values = measured(exact, exact)
    assert values["snr"] == pytest.approx(100.0)
    assert values["log_spectral_distance"] == 0.0
