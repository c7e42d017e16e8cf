"""GM-VQ's defaults against ``VectorQuantize`` (EMA, k-means start, dead codes below 2 replaced) on the demo's setting.

    python benchmarks/against_vq.py

Both methods get the same network, data, order, batch size, steps and optimizer. Each one's learning rate is chosen
from the same grid by its validation MSE at seed 0; the test split is looked at once, for the chosen rate. GM-VQ's
likelihood amounts to a reconstruction loss divided by its own value; the third row gives EMA VQ that advantage too.
"""

from __future__ import annotations

from harness import Run, arguments, run_all, spread

SETTING: Run = {
    "data": "photos", "size": 32, "channels": 3, "network": "tiny", "downsample": 4,
    "dim": 16, "codebook_size": 256, "steps": 1500, "batch_size": 64,
}  # fmt: skip
RATES = (4e-3, 2e-3, 8e-3, 1e-3)
METHODS: dict[str, Run] = {
    "gm-vq": {"method": "gm-vq"},
    "ema-vq": {"method": "ema-vq"},
    "ema-vq, relative loss": {"method": "ema-vq", "loss": "relative"},
}


def main() -> None:
    options = arguments(__doc__, "benchmarks/results/against_vq.json")
    grid = [
        {**SETTING, **method, "name": name, "lr": lr, "seed": 0}
        for name, method in METHODS.items()
        for lr in RATES
    ]
    tuned = run_all(grid, options.json, workers=options.workers, report=options.report)
    best = {
        name: min(
            (run for run in tuned if run["name"] == name and "error" not in run),
            key=lambda run: run["validation_mse"],
        )["lr"]
        for name in METHODS
    }
    runs = [
        {**SETTING, **method, "name": name, "lr": best[name], "seed": seed}
        for seed in range(options.seeds)
        for name, method in METHODS.items()
    ]
    results = run_all(grid + runs, options.json, workers=options.workers, report=options.report)
    results = [run for run in results if run["lr"] == best[run["name"]] and "error" not in run]
    results = list({(run["name"], run["seed"]): run for run in results}.values())
    print("\n| method | learning rate | test MSE x 1e-3 | perplexity | usage | s per run |")
    print("| --- | --- | --- | --- | --- | --- |")
    for method in METHODS:
        mine = [r for r in results if r["name"] == method]
        print(
            f"| {method} | {best[method]:g} | {spread([r['test_mse'] * 1e3 for r in mine])} | "
            f"{spread([r['test_perplexity'] for r in mine])} | {spread([r['test_usage'] for r in mine])} | "
            f"{sum(r['seconds'] for r in mine) / len(mine):.0f} |"
        )


if __name__ == "__main__":
    main()
