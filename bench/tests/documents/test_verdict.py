"""The first table of the results: ratios to the best rival, from made-up results files."""

from __future__ import annotations

from typing import Any

import pytest

from gmvq_bench.documents.verdict import verdict


def robust(*ratios: float) -> dict[str, Any]:
    """Settings 0, 1, ... in which ours has such a ratio to EMA; the rotation trick is worse in all."""
    settings = {str(n): {"number": n, "codebook_size": 4} for n in range(len(ratios))}
    errors = {"gm-vq": 1.0, "ema": 1.0, "rotation": 2.0}
    runs = [
        {
            "setting": str(n), "method": method, "error": None, "mse_of_mean": 1.0,
            "test": {"mse": 0.1 * mse * (ratio if method == "gm-vq" else 1.0), "perplexity": 2.0, "usage": 1.0},
        }
        for n, ratio in enumerate(ratios)
        for method, mse in errors.items()
    ]  # fmt: skip
    return {"settings": settings, "runs": runs}


def plain_conv() -> dict[str, Any]:
    def record(method: str, seed: int, mse: float, error: str | None = None) -> dict[str, Any]:
        figures = {"mse": mse, "perplexity": 10.0 * mse}
        return {
            "phase": "final",
            "steps": 600,
            "codes": 4,
            "method": method,
            "seed": seed,
            "error": error,
            **figures,
        }

    of_ema = [record("ema", 0, 2.0), record("ema", 1, 4.0), record("ema", 2, 100.0, "diverged")]
    ours = [record("gm-vq", 0, 1.0), record("gm-vq", 1, 2.0), record("gm-vq", 2, 50.0)]
    return {"records": [*ours, record("simvq", 0, 9.0), record("simvq", 1, 9.0), *of_ema]}


def lines(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def long(ratio: float) -> dict[str, Any]:
    """A suite of one setting, two seeds, one rival."""
    methods = {name: {"quantizer": name} for name in ("gm-vq", "cvq")}
    runs = [
        {"setting": "a", "method": name, "phase": "final", "seed": seed, "error": None,
         "test": {"mse": mse, "perplexity": 3.0}}
        for name, mse in (("gm-vq", ratio), ("cvq", 1.0))
        for seed in (0, 1)
    ]  # fmt: skip
    settings = {"a": {"codebook_size": 256}}
    return {
        "suite": {"name": "long", "ours": "gm-vq", "seeds": [0, 1], "settings": settings, "methods": methods},
        "runs": runs,
    }


def test_every_study_has_its_lines() -> None:
    studies = {"robust": robust(0.5, 2.0, 0.5), "plain_conv": plain_conv()}
    also = {"rotation": ["ema-dressed"], "ema": ["fsq", "gm-vq-best-rate"], "gm-vq": ["ema-best-rate"]}
    studies["robust"]["runs"] += [
        {**run, "method": name} for run in studies["robust"]["runs"] for name in also[run["method"]]
    ]
    found = lines(verdict(studies, [long(0.8)]))
    assert found["– against rivals started as our layer is"] == ["3", "1", "**0.40**", "1.00", "0", "1.00"]
    assert found["– against SimVQ, CVQ and FSQ"][2:] == ["**0.79**", "2.00", "1", "1.00"]
    assert found["– against EMA VQ, both at the best of three rates"][2:] == ["**1.26**", "2.00", "2", "1.00"]
    apart = found["a conv network without a path from patch to latent, 6,000 steps, tuned alike"]
    assert apart == ["1", "2", "**0.80**", "0.80", "0", "1.00"]
    assert not any(line.startswith("our own networks") for line in found)
    whole = found["random networks and data, nothing tuned"]
    assert whole == ["3", "1", "**0.79**", "2.00", "1", "1.00"]
    assert found["– on which defaults were chosen"] == ["2", "1", "**0.50**", "0.50", "0", "1.00"]
    assert found["– only reported"][2] == "**2.00**"
    assert found["a plain conv network, 600 steps, the best of four rates"] == [
        "1",
        "2",  # the seeds that all have
        "**0.50**",
        "0.50",
        "0",
        "0.50",
    ]


def test_a_rival_with_fewer_seeds_counts_on_those() -> None:
    results = long(0.8)
    results["suite"]["methods"]["fsq"] = {"quantizer": "fsq"}
    figures = {"test": {"mse": 0.5, "perplexity": 6.0}, "phase": "final", "error": None}
    results["runs"].append({"setting": "a", "method": "fsq", "seed": 1, **figures})
    results["runs"].append({"setting": "a", "method": "fsq", "seed": 7, **figures})  # which ours has not
    (line,) = lines(verdict({}, [results])).values()
    assert line == ["1", "1", "**1.60**", "1.60", "1", "0.50"]


@pytest.mark.parametrize("missing", [{}, {"robust": robust(0.5)}])
def test_what_is_missing_has_none(missing: dict[str, Any]) -> None:
    assert len(lines(verdict(missing, []))) == len(missing)


def test_a_setting_with_fewer_seeds_counts() -> None:
    suite = long(0.8)
    suite["suite"]["seeds"] = [0, 1, 2]
    suite["suite"]["settings"]["b"] = {"codebook_size": 256}
    suite["runs"] += [
        {**run, "setting": "b", "seed": seed} for run in suite["runs"][::2] for seed in (0, 1, 2)
    ]
    (line,) = lines(verdict({}, [suite])).values()
    assert line == ["2", "2", "**0.80**", "0.80", "0", "1.00"]
