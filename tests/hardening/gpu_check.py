"""Check on a real GPU what the tests check in Triton's interpreter and on the CPU: the search, and a training step.

    PYTHONPATH=src:bench/src python tests/hardening/gpu_check.py --json bench/results/gpu_check.json

Needs torch and triton alone. The kernel's buffers start as NaN. A figure is an error relative to the largest value of
its kind, tolerances stand in the table. Exit status 1 if anything is out of tolerance; without a GPU nothing is
measured or written, and the status is 0.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmvq.files import write_json
from gmvq.functional.search import best_codes
from gmvq.quantizers import GaussianMixtureVQ
from gmvq_bench.results import environment

#: N, K, D, k.
SIZES = [
    (1, 1, 1, 1),
    (70, 130, 4, 4),
    (65, 70, 16, 2),
    (33, 200, 20, 16),
    (777, 1025, 100, 4),
    (515, 4099, 256, 8),
]
#: torch's setting for float32 products -> tolerance.
PRECISIONS = {"highest": 2e-6, "high": 2e-3}
Row = dict[str, Any]


def checks(device: torch.device, *, large: bool) -> Iterator[Row]:
    """Every check, as lines of the table."""
    for setting, tolerance in PRECISIONS.items():
        torch.set_float32_matmul_precision(setting)
        for n, k, d, best in SIZES:
            query, codebook, bias = problem(n, k, d, device)
            yield row(f"{setting} N={n} K={k} D={d} k={best}", kernel(query, codebook, bias, best), tolerance)
            yield row(f"{setting} N={n} K={k} D={d}, midpoints", exact(codebook, best), 0.0)
    torch.set_float32_matmul_precision("highest")
    yield row("a training step", step(device), 1e-4)
    if large:
        yield row("N K > 2^31", kernel(*problem((1 << 16) + 1, (1 << 15) + 9, 16, device), 4), 2e-6)
        query, codebook, bias = problem((1 << 23) + 3, 64, 256, device)
        yield row("N D > 2^31", kernel(query, codebook, bias, 4), 2e-6)


def row(name: str, errors: dict[str, float], tolerance: float) -> Row:
    """A line of the table. NaN is out of any tolerance."""
    worst = max(errors, key=lambda n: errors[n] if errors[n] == errors[n] else float("inf"))
    good = all(error <= tolerance for error in errors.values())
    return {"case": name, "errors": errors, "worst": worst, "tolerance": tolerance, "ok": good}


def problem(n: int, k: int, d: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """query, codebook, bias."""
    torch.manual_seed(n + k + d)
    query, codebook = torch.randn(n, d, device=device), torch.randn(k, d, device=device)
    return query, codebook, -0.5 * codebook.square().sum(-1)


def kernel(query: Tensor, codebook: Tensor, bias: Tensor, k: int, rows: int = 1024) -> dict[str, float]:
    """The kernel's values and the logits of its codes against float64, on the first and the last rows; and twice."""
    from gmvq.functional import triton_topk

    values, codes = triton_topk.topk(query, codebook, bias, k)
    again = triton_topk.topk(query, codebook, bias, k)
    errors = {
        "differs the second time": float(not (torch.equal(values, again[0]) and torch.equal(codes, again[1])))
    }
    for name, part in (("first rows", slice(rows)), ("last rows", slice(-rows, None))):
        logits = bias.double() + query[part].double() @ codebook.double().T
        size = float(logits.abs().max())
        expected = logits.topk(k, -1).values
        errors[f"values, {name}"] = float((values[part] - expected).abs().max()) / size
        errors[f"codes, {name}"] = float((logits.gather(1, codes[part]) - expected).abs().max()) / size
    return errors


def exact(codebook: Tensor, k: int) -> dict[str, float]:
    """The share of latents midway between two codes of integers, on which float64 is exact, with the wrong code."""
    codebook = (4 * codebook).round()
    query = 0.5 * (codebook + codebook.roll(1, 0))
    bias = -0.5 * codebook.square().sum(-1)
    expected = (bias.double() + query.double() @ codebook.double().T).argmax(-1)
    return {"indices": float((best_codes(query, codebook, bias, k)[2] != expected).float().mean())}


def step(device: torch.device) -> dict[str, float]:
    """A training step of the layer on the device against the CPU in float64."""
    torch.manual_seed(0)
    layer, latents = GaussianMixtureVQ(16, 100), torch.randn(600, 16)
    layer.init_codebook(latents)
    here, there = copy.deepcopy(layer).to(device), layer.double()
    found = [gradients(one, latents.to(one.codebook)) for one in (here, there)]
    pairs = ((name, found[0][name].cpu().double(), value) for name, value in found[1].items())
    return {name: float((x - y).abs().max() / y.abs().max().clamp_min(1e-9)) for name, x, y in pairs}


def gradients(layer: GaussianMixtureVQ, latents: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients, and the codebook after the M-step."""
    latents = latents.requires_grad_()
    out = layer(latents)
    loss = (out.quantized - 0.9 * latents.detach()).square().mean() + out.loss
    found = torch.autograd.grad(loss, [latents, layer.codebook])
    layer.settle()
    named = {"quantized": out.quantized, "latents": found[0], "codebook": found[1], "learned": layer.codebook}
    return {name: value.detach() for name, value in named.items()}


def poison() -> None:
    """What the kernel does not write shows: NaN, or an index out of range."""
    from gmvq.functional import triton_topk

    def empty(*shape: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        fill = float("nan") if dtype.is_floating_point else -(1 << 30)
        return torch.full(shape, fill, dtype=dtype, device=like.device)

    triton_topk.empty = empty


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="results file")
    path: Path | None = parser.parse_args().json
    if not torch.cuda.is_available():
        print("not measured: no GPU")
        return 0
    poison()
    rows = []
    for found in checks(torch.device("cuda"), large=True):
        rows.append(found)
        mark, error = "ok  " if found["ok"] else "FAIL", found["errors"][found["worst"]]
        print(
            f"{mark} {found['case']:44s} {error:9.1e} <= {found['tolerance']:.0e}  {found['worst']}",
            flush=True,
        )
    failed = sum(not found["ok"] for found in rows)
    print(f"{len(rows)} checks, {failed} failed")
    if path is not None:
        head = {**environment(torch.device("cuda")), "command": " ".join(["python", *sys.argv])}
        write_json(path, {"environment": head, "checks": rows})
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
