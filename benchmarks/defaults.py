"""What each default of ``GaussianMixtureVQ`` is worth: one change at a time, photographs and Fashion-MNIST.

    python benchmarks/defaults.py                       # run what is missing, then print the table

Short runs (32 px, tiny network, K = 256, 400 steps of 32 images) on the validation split, so that the test split stays
untouched by tuning. The support of the posterior is 8 codes throughout; ``support.py`` compares supports. The mean over
seeds of the MSE, its 95 % t-interval, and the codebook's perplexity.
"""

from __future__ import annotations

from gmvq import (
    Constant,
    Exponential,
    GumbelSoftmax,
    Objective,
    Precision,
    ReinMax,
    StraightThroughGumbel,
    Variance,
)
from gmvq.quantizers.config import part_to_dict
from harness import Run, arguments, run_all, spread

COMMON: Run = {
    "size": 32, "network": "tiny", "downsample": 4, "dim": 16, "codebook_size": 256, "steps": 400, "batch_size": 32,
    "lr": 4e-3, "method": "gm-vq",
    "splits": ["validation"],
}  # fmt: skip
DATA: dict[str, Run] = {
    "photos": {"data": "photos", "channels": 3},
    "fashion_mnist": {"data": "fashion_mnist", "channels": 1},
}


def _parts(**parts: object) -> Run:
    return {"parts": {name: part_to_dict(value) for name, value in parts.items()}}


#: One change to the defaults each; parts that are not named keep ``SUPPORT``.
SUPPORT = {"support": 8}
VARIANTS: dict[str, Run] = {
    "defaults": {},
    "drop-in loss: MSE + out.loss": {"loss": "drop-in"},
    "the trap: MSE + out.nats": {"loss": "naive"},
    "schedules never advanced": {"advance": False},
    "ELBO": _parts(objective=Objective("elbo")),
    "no KL": _parts(objective=Objective("none")),
    "ALBO, gamma = 1": _parts(objective=Objective("albo", gamma=Constant(1.0))),
    "literal ALBO, gamma = beta = 1": _parts(objective=Objective("literal", Constant(1.0), Constant(1.0))),
    "beta = 1": _parts(objective=Objective(beta=Constant(1.0))),
    "beta = 5": _parts(objective=Objective(beta=Constant(5.0))),
    "posterior on all codes": _parts(support=None),
    "sharpening 1": _parts(precision=Precision(sharpening=Constant(1.0))),
    "precision learned": _parts(precision=Precision(fit="learned")),
    "no noise": _parts(variance=Variance("none")),
    "temperature 1 to 0.1": _parts(estimator=GumbelSoftmax(Exponential(1.0, 0.1))),
    "straight-through Gumbel": _parts(estimator=StraightThroughGumbel()),
    "mixture at the network's rate": {"mixture_rate": 0.1},
    "ReinMax": _parts(estimator=ReinMax()),
    "not standardised": _parts(standardize=False),
    "learning rate 2e-3": {"lr": 2e-3},
    "learning rate 8e-3": {"lr": 8e-3},
    "VectorQuantize, EMA, 2e-3": {"method": "ema-vq", "lr": 2e-3},
    "VectorQuantize, EMA, 4e-3": {"method": "ema-vq", "lr": 4e-3},
}

#: What Fashion-MNIST is run for: the choices between objectives, and the rival.
FASHION_MNIST = (
    "defaults",
    "drop-in loss: MSE + out.loss",
    "ELBO",
    "no KL",
    "ALBO, gamma = 1",
    "posterior on all codes",
    "VectorQuantize, EMA, 2e-3",
    "VectorQuantize, EMA, 4e-3",
)


def _variant(name: str) -> Run:
    variant = VARIANTS[name]
    if variant.get("method", "gm-vq") != "gm-vq":
        return variant
    return {**variant, "parts": {**SUPPORT, **variant.get("parts", {})}}


def main() -> None:
    options = arguments(__doc__, "benchmarks/results/defaults.json")
    runs = [
        {**COMMON, **DATA[data], **_variant(name), "name": name, "seed": seed}
        for data, names in (("photos", VARIANTS), ("fashion_mnist", FASHION_MNIST))
        for seed in range(options.seeds)
        for name in names
    ]
    results = run_all(runs, options.json, workers=options.workers, report=options.report)
    print("\n| variant | " + " | ".join(f"{d}: MSE x 1e-3 | perplexity" for d in DATA) + " |")
    print("| --- |" + " --- | --- |" * len(DATA))
    for name in VARIANTS:
        cells = [name]
        for data in DATA:
            mine = [r for r in results if r["name"] == name and r["data"] == data and "error" not in r]
            mark = "" if len(mine) in (0, options.seeds) else f" ({len(mine)} seeds)"
            cells.append(spread([r["validation_mse"] * 1e3 for r in mine]) + mark if mine else "not run")
            cells.append(f"{sum(r['validation_perplexity'] for r in mine) / len(mine):.0f}" if mine else "-")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
