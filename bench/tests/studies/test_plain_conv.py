"""The study of a plain network: the rate is chosen by validation error, and diverged runs choose nothing."""

from __future__ import annotations

from typing import Any

import pytest

from gmvq_bench.studies.plain_conv import best_rate


def record(lr: float, validation: float, **rest: Any) -> dict[str, Any]:
    tuned = {
        "phase": "tune",
        "codes": 256,
        "method": "ema",
        "lr": lr,
        "validation_mse": validation,
        "error": None,
    }
    return tuned | rest


def test_the_rate_is_that_of_the_least_validation_error_of_the_same_method_and_size() -> None:
    others = [record(4.0, 0.1, method="gm-vq"), record(5.0, 0.1, codes=1024), record(6.0, 0.1, phase="final")]
    records = [record(1.0, 0.3), record(2.0, 0.2), record(3.0, 0.1, error="diverged"), *others]
    assert best_rate(records, 256, "ema") == 2.0
    with pytest.raises(ValueError, match="diverged at every rate"):
        best_rate(records, 256, "simvq")
