"""Check the Triton kernels on a real GPU against the definition in float64: outputs, gradients, limits, determinism.

    PYTHONPATH=src:bench/src python tests/hardening/gpu_check.py --json bench/results/gpu_check.json

Needs torch and triton alone. Every buffer a kernel writes starts as NaN. A figure is a relative error in the Frobenius
norm, |x - y| / |y| with y the definition's; tolerances stand in the table. Exit status 1 if anything is out of
tolerance; without a GPU nothing is measured or written, and the status is 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmvq.files import write_json
from gmvq.functional.estimators import GumbelSoftmax, StraightThroughGumbel
from gmvq.functional.noise import noise_keys
from gmvq.functional.sampling.reference import Inputs, mixture_sample_reference
from gmvq_bench.results import environment

ESTIMATORS = {"soft": GumbelSoftmax(), "hard": StraightThroughGumbel(), "none": None}
OUTPUTS = ("mean", "second", "entropy", "aggregate")
INPUTS = ("query", "codebook", "bias", "extra")
SIZES = [
    (1, 1, 1),
    (7, 5, 3),
    (33, 70, 16),
    (65, 130, 20),
    (1000, 333, 64),
    (777, 1025, 100),
    (515, 259, 256),
]
#: torch's setting for float32 products -> tolerance, and the modes compared (a drawn code may flip by rounding)
PRECISIONS = {
    "highest": (2e-5, ("soft", "hard", "none")),
    "high": (1e-2, ("soft", "none")),
    "medium": (5e-2, ("soft", "none")),
}
Row = dict[str, Any]


def problem(
    N: int, K: int, D: int, device: torch.device, *, tau: float = 0.5, noise: float = 1.0
) -> list[Any]:
    """Inputs of the operation: logits with a standard deviation of about 2 and some rows masked."""
    torch.manual_seed(N + K + D)
    query, codebook = torch.randn(N, D, device=device), torch.randn(K, D, device=device)
    codebook *= 2.0 / D**0.5
    bias, extra = torch.randn(K, device=device), codebook.square().sum(1)
    present = (torch.rand(N, device=device) < 0.7).float()
    scalars = [torch.tensor(x, device=device) for x in (tau, noise)]
    return [query, codebook, bias, extra, present, noise_keys(N, device), *scalars]


def gradients(inputs: list[Any], mode: str) -> list[Tensor]:
    """Random gradients of mean, second, entropy and aggregate; zeros for a sample that is not drawn."""
    query, codebook = inputs[:2]
    grads = [torch.randn_like(x) for x in (query, query[:, 0], query[:, 0], codebook[:, 0])]
    return [g.zero_() for g in grads[:2]] + grads[2:] if mode == "none" else grads


def kernels(inputs: list[Any], mode: str, grads: list[Tensor]) -> tuple[Tensor, ...]:
    """Four outputs, four gradients and the indices, by the kernels."""
    from gmvq.functional.sampling import triton_kernels

    out = triton_kernels.forward(*inputs, mode)  # pyright: ignore[reportCallIssue]
    found = triton_kernels.backward(tuple(grads), *inputs, (out[2], *out[5:]), mode)  # pyright: ignore
    return (*out[:4], *found, out[4])


def definition(inputs: list[Any], mode: str, grads: list[Tensor], rows: int = 1024) -> list[Tensor]:
    """The same, from the definition in float64, ``rows`` rows at a time: rows are independent, the rest are sums."""
    shared = [x.detach().double().requires_grad_() for x in inputs[1:4]]
    per_row: list[list[Tensor]] = []
    sums = [torch.zeros_like(x, dtype=torch.float64) for x in (inputs[2], *inputs[1:4])]
    for start in range(0, len(inputs[0]), rows):
        part = slice(start, start + rows)
        query = inputs[0][part].double().requires_grad_()
        codebook, bias, extra = shared
        present, keys, (tau, noise) = (
            inputs[4][part].double(),
            inputs[5][part],
            [x.double() for x in inputs[6:]],
        )
        own = Inputs(query, codebook, bias, extra, present, keys, tau, noise)
        out = mixture_sample_reference(own, ESTIMATORS[mode])
        weights = [g[part].double() for g in grads[:3]] + [grads[3].double()]
        loss = sum((o * w).sum() for o, w in zip(out[:4], weights, strict=True))
        found = torch.autograd.grad(loss, [query, *shared], materialize_grads=True)  # pyright: ignore
        per_row.append([*(x.detach() for x in out[:3]), found[0], out[4]])
        for total, x in zip(sums, [out[3].detach(), *found[1:]], strict=True):
            total += x
    mean, second, entropy, grad_query, indices = (torch.cat(x) for x in zip(*per_row, strict=True))
    return [mean, second, entropy, sums[0], grad_query, *sums[1:], indices]


def compare(
    name: str,
    inputs: list[Any],
    mode: str,
    tolerance: float,
    grads: list[Tensor] | None = None,
    floor: float = 0.0,
) -> Row:
    """One line of the table: the worst figure of all outputs and gradients, and its name."""
    grads = gradients(inputs, mode) if grads is None else grads
    got, want = kernels(inputs, mode, grads), definition(inputs, mode, grads)
    names = [*OUTPUTS, *(f"grad_{x}" for x in INPUTS)]
    errors = {n: relative(x, y, floor) for n, x, y in zip(names, got[:8], want[:8], strict=True)}
    errors["indices"] = shortfall(inputs, got[8], want[8])
    return line(f"{name}, {mode}", errors, tolerance)


def relative(x: Tensor, y: Tensor, floor: float = 0.0) -> float:
    """|x - y| / |y|, where y counts for no less than ``floor`` per value; of y = 0 the absolute error."""
    size = max(float(torch.linalg.vector_norm(y)), floor * y.numel() ** 0.5)
    return float(torch.linalg.vector_norm(x.double() - y)) / (size if size > 1e-9 else 1.0)


def shortfall(inputs: list[Any], got: Tensor, want: Tensor) -> float:
    """By how much the chosen codes' logits miss the maximum, relative to their size; rounding may swap equals."""
    query, codebook, bias = (x.double() for x in inputs[:3])
    a, b = ((query * codebook[i]).sum(1) + bias[i] for i in (got, want))
    return float((b - a).max()) / max(1.0, float(b.abs().max()))


def line(name: str, errors: dict[str, float], tolerance: float) -> Row:
    worst = max(errors, key=lambda n: errors[n] if errors[n] == errors[n] else float("inf"))
    good = all(error <= tolerance for error in errors.values())  # NaN is not
    return {"case": name, "errors": errors, "worst": worst, "tolerance": tolerance, "ok": good}


def checks(device: torch.device, sizes: list[tuple[int, int, int]], *, large: bool) -> Iterator[Row]:
    """Every check, as lines of the table."""
    for setting, (tolerance, modes) in PRECISIONS.items():
        torch.set_float32_matmul_precision(setting)
        for size in sizes:
            for mode in modes:
                yield compare(f"float32 {setting} {size}", problem(*size, device), mode, tolerance)
    torch.set_float32_matmul_precision("highest")
    for dtype, tolerance in ((torch.bfloat16, 5e-2), (torch.float16, 1e-2)):
        inputs = problem(*sizes[-1], device)
        inputs[:2] = [x.to(dtype) for x in inputs[:2]]
        grads = [g.float() for g in gradients(inputs, "soft")]
        yield compare(f"{dtype} {sizes[-1]}".removeprefix("torch."), inputs, "soft", tolerance, grads)
    for mode in ESTIMATORS:
        for tau in (1.0, 1e-4):
            yield compare(f"logits to 1e4, tau {tau}", *extreme(device, mode, tau))
        yield compare("strided inputs", strided(problem(65, 130, 20, device)), mode, 2e-5)
    yield repeated(problem(*sizes[-1], device))
    if not large:
        return
    yield without_waiting(problem(*sizes[-1], device))
    inputs = problem((1 << 16) + 1, (1 << 15) + 9, 16, device)
    for mode in ESTIMATORS:
        yield compare("N K > 2^31", inputs, mode, 1e-4)
    del inputs
    if torch.cuda.get_device_properties(device).total_memory > 75 << 30:
        yield long_offsets(device)


def extreme(device: torch.device, mode: str, tau: float) -> tuple[list[Any], str, float, list[Tensor], float]:
    """Integers, for which float32 logits are exact, with ties; gradients too, so that 1 / tau amplifies nothing.

    Most gradients vanish: errors are relative to 10, the size of the codes.
    """
    inputs = problem(130, 140, 20, device, tau=tau, noise=0.0)
    inputs[:4] = [(20 * x).round() for x in inputs[:4]]
    inputs[1][:] *= 4
    inputs[1][70:], inputs[2][70:] = inputs[1][:70], inputs[2][:70]
    return inputs, mode, 2e-5, [(2 * g).round() for g in gradients(inputs, mode)], 10.0


def strided(inputs: list[Any]) -> list[Any]:
    """The same values, none of the tensors contiguous."""
    matrices = [x.T.contiguous().T for x in (*inputs[:2], inputs[5])]
    vectors = [torch.stack([x, x], -1)[:, 0] for x in inputs[2:5]]
    return [*matrices[:2], *vectors, matrices[2], *inputs[6:]]


def repeated(inputs: list[Any]) -> Row:
    """The same bits twice."""
    grads = gradients(inputs, "soft")
    pairs = zip(kernels(inputs, "soft", grads), kernels(inputs, "soft", grads), strict=True)
    return line(
        "the same bits twice", {"different": float(not all(torch.equal(x, y) for x, y in pairs))}, 0.0
    )


def without_waiting(inputs: list[Any]) -> Row:
    """Neither pass waits for the device (both are compiled by now)."""
    grads = gradients(inputs, "soft")
    kernels(inputs, "soft", grads)
    torch.cuda.set_sync_debug_mode("error")
    try:
        kernels(inputs, "soft", grads)
    except RuntimeError:
        return line("no wait for the device", {"waits": 1.0}, 0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return line("no wait for the device", {"waits": 0.0}, 0.0)


def long_offsets(device: torch.device) -> Row:
    """N D > 2^31: the last rows are those of the definition."""
    inputs = problem((1 << 23) + 3, 16, 256, device)
    grads = gradients(inputs, "soft")
    got = kernels(inputs, "soft", grads)
    last = slice(-1000, None)
    few = [inputs[0][last], *inputs[1:4], inputs[4][last], inputs[5][last], *inputs[6:]]
    want = definition(few, "soft", [g[last] for g in grads[:3]] + grads[3:])
    rows = {"mean": 0, "second": 1, "entropy": 2, "grad_query": 4}
    return line("N D > 2^31, soft", {n: relative(got[i][last], want[i]) for n, i in rows.items()}, 2e-5)


def poison() -> None:
    """What a kernel does not write shows: NaN, or an index out of range."""
    from gmvq.functional.sampling import triton_common

    def empty(*shape: int, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        fill = float("nan") if dtype.is_floating_point else -(1 << 40)
        return torch.full(shape, fill, dtype=dtype, device=like.device)

    triton_common.empty = empty


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
    for row in checks(torch.device("cuda"), SIZES, large=True):
        rows.append(row)
        mark = "ok  " if row["ok"] else "FAIL"
        error = row["errors"][row["worst"]]
        print(f"{mark} {row['case']:44s} {error:9.1e} <= {row['tolerance']:.0e}  {row['worst']}", flush=True)
    failed = sum(not row["ok"] for row in rows)
    print(f"{len(rows)} checks, {failed} failed")
    if path is not None:
        command = " ".join(["python", *sys.argv])
        head = {**environment(torch.device("cuda")), "command": command}
        write_json(path, {"environment": head, "checks": rows})
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
