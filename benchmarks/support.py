"""What a truncated posterior costs in quality: k codes of each position instead of all, from the first step or later.

    python benchmarks/support.py                        # run what is missing, then print the table

Short runs as in ``defaults.py``, at the learning rate that ``against_vq.py`` chose, on the validation split. "After
warm-up": all codes for the first quarter of training, then k.
"""

from __future__ import annotations

from typing import Any

from harness import Run, arguments, run_all, spread

COMMON: Run = {
    "size": 32, "network": "tiny", "downsample": 4, "dim": 16, "steps": 400, "batch_size": 32, "lr": 8e-3,
    "method": "gm-vq", "splits": ["validation"],
}  # fmt: skip
SETTINGS: dict[str, Run] = {
    "photos, K = 256": {"data": "photos", "channels": 3, "codebook_size": 256},
    "photos, K = 1024": {"data": "photos", "channels": 3, "codebook_size": 1024},
    "fashion_mnist, K = 256": {"data": "fashion_mnist", "channels": 1, "codebook_size": 256},
}


def _variants() -> dict[str, Run]:
    variants: dict[str, Run] = {"all": {"parts": {"support": None}}}
    for k in (4, 8, 16, 32):
        variants[f"{k}"] = {"parts": {"support": k}}
    for k in (8, 16, 32):
        variants[f"{k} after warm-up"] = {"parts": {"support": k}, "dense_until": 0.25}
    return variants


VARIANTS = _variants()


def main() -> None:
    options = arguments(__doc__, "benchmarks/results/support.json", seeds=3)
    runs = [
        {**COMMON, **setting, **VARIANTS[name], "name": f"{where}: {name}", "seed": seed}
        for seed in range(options.seeds)
        for where, setting in SETTINGS.items()
        for name in VARIANTS
    ]
    results = run_all(runs, options.json, workers=options.workers, report=options.report)
    print("\n| support | " + " | ".join(f"{where}: MSE x 1e-3 | perplexity" for where in SETTINGS) + " |")
    print("| --- |" + " --- | --- |" * len(SETTINGS))
    for name in VARIANTS:
        cells = [name]
        for where in SETTINGS:
            mine: list[Any] = [r for r in results if r["name"] == f"{where}: {name}" and "error" not in r]
            cells.append(spread([r["validation_mse"] * 1e3 for r in mine]) if mine else "not run")
            cells.append(spread([r["validation_perplexity"] for r in mine]) if mine else "-")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
