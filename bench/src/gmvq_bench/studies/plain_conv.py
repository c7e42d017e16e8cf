"""A plain convolutional network, without normalisation and without a path from patch to latent: the best of four rates.

For every method the same rates of Adam, 600 steps, one validation seed; then three seeds at the best of them, for 600
and for 3,000 steps, on the test split. ``-dressed`` rivals start as our layer does (``rivals.base.dress``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..results import read
from ..robust.design import Setting
from ..robust.train import train
from .records import cells_of, make_records, study_parser

METHODS = ("gm-vq", "ema", "rotation", "ema-dressed", "simvq")
CODES, STEPS, RATES = (256, 1024), (600, 3000), (3e-4, 6e-4, 1.2e-3, 2.4e-3)
#: Seed of the runs that choose the rate.
TUNING = 1000


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    options = study_parser("plain_conv", "A plain network at its best rate.", METHODS, range(3)).parse_args(
        list(argv)
    )
    lengths = STEPS if options.steps is None else (options.steps,)
    methods = {"codes": CODES, "method": options.methods}
    cells = cells_of(phase=["tune"], steps=lengths[:1], seed=[TUNING], **methods, lr=RATES)
    cells += cells_of(phase=["final"], steps=lengths, seed=options.seeds, **methods)
    return make_records("plain_conv", argv, options, ("steps",), cells, measure)


def measure(
    *, phase: str, codes: int, method: str, steps: int, seed: int, lr: float | None = None, options: Any
) -> dict[str, Any]:
    """Train and measure one run; a final one at the rate that was best in tuning."""
    rate = best_rate(read(options.json, "gmvq plain_conv")["records"], codes, method) if lr is None else lr
    setting = Setting(
        number=0, network="conv", endings=(), dim=64, codebook_size=codes, downsample=4, width=32, data="photos",
        size=32, channels=3, batch=16, steps=steps, lr=rate, optimizer="adam", loss="mse",
    )  # fmt: skip
    figures = train(setting, method, seed)
    del figures["seconds"]
    return {**figures, "rate": rate}


def best_rate(records: list[dict[str, Any]], codes: int, method: str) -> float:
    """The rate with the least validation error among the tuning runs of a method that did not diverge."""
    tried = [
        record
        for record in records
        if (record["phase"], record["codes"], record["method"]) == ("tune", codes, method)
        and record["error"] is None
    ]
    if not tried:
        raise ValueError(f"{method} diverged at every rate with {codes} codes")
    return min(tried, key=lambda record: record["validation_mse"])["lr"]
