r"""A built-in series: synthetic electrocardiograms, for which no file is needed. They are made up, not measured.

The form of a beat is that of McSharry, Clifford, Tarassenko and Smith (IEEE Trans. Biomed. Eng. 50, 2003): over the
phase theta of the heart's cycle, the sum of five bells, one for each of the waves P, Q, R, S and T,

.. math:: z(\theta) = \sum_i a_i \exp(-(\theta - \theta_i)^2 / 2 b_i^2).

(They integrate an equation of motion whose solution is close to it.) The rate of the heart wanders with the breath;
the base line drifts with it; there is white noise. Every patient has rate, waves, breath and noise of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PATIENTS = 160
RATE = 128
"""Samples per second."""
_SECONDS = 64
#: Angles (degrees), heights (mV) and widths (radians) of the waves P, Q, R, S, T.
_ANGLES = np.radians([-70.0, -15.0, 0.0, 15.0, 100.0])
_HEIGHTS = np.array([0.15, -0.12, 1.1, -0.25, 0.3])
_WIDTHS = np.array([0.25, 0.1, 0.1, 0.1, 0.4])


def synthetic_ecg() -> list[tuple[str, NDArray[np.float32]]]:
    """Make 160 patients of 64 s at 128 Hz: (name, millivolts of shape (1, 8192)), always the same."""
    return [(f"patient-{number:03d}", _patient(number)) for number in range(PATIENTS)]


def _patient(number: int) -> NDArray[np.float32]:
    random = np.random.default_rng(number)
    time = np.arange(_SECONDS * RATE) / RATE
    breath = 2 * np.pi * (random.uniform(0.15, 0.35) * time + random.uniform())
    wander = np.convolve(random.normal(size=time.size + RATE), np.ones(RATE) / RATE, "valid")[: time.size]
    beats = random.uniform(50, 110) / 60 * (1 + random.uniform(0.02, 0.1) * np.sin(breath) + 0.3 * wander)
    phase = 2 * np.pi * (np.cumsum(beats) / RATE + random.uniform())
    heights = _HEIGHTS * random.uniform(0.6, 1.4, 5) * random.uniform(0.7, 1.3)
    angles = _ANGLES + random.normal(scale=0.06, size=5)
    widths = _WIDTHS * random.uniform(0.8, 1.25, 5)
    distance = (phase[:, None] - angles + np.pi) % (2 * np.pi) - np.pi
    signal = (heights * np.exp(-(distance**2) / (2 * widths**2))).sum(1)
    signal += random.uniform(0.02, 0.12) * np.sin(breath + 1) + random.uniform(0.005, 0.02) * random.normal(
        size=time.size
    )
    return signal.astype(np.float32)[None]
