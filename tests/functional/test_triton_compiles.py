"""Every Triton kernel compiles for an H100, on any machine: no GPU is needed to find a type error or a tile too large.

The kernels are launched as usual with a ``launch`` that compiles instead, in a process without the interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: its kernels are not used either")

KERNELS = {"_rows", "_columns", "_row_gradients", "_column_gradients"}
#: number type, torch's precision setting, D, mode: each kind of product, and each mode
CASES = [
    ("float32", "highest", 20, "soft"),
    ("float32", "high", 64, "hard"),
    ("bfloat16", "highest", 256, "none"),
    ("float32", "medium", 256, "soft"),
]
#: Shared memory that a program may have on every GPU since Ampere, the smallest of them included.
SHARED = 99 * 1024


def test_kernels_compile(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, __file__],
        env=env | {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    compiled = json.loads(done.stdout)
    assert {kernel["name"] for kernel in compiled} == KERNELS
    assert len(compiled) == len(KERNELS) * len(CASES)
    for kernel in compiled:
        assert kernel["shared"] <= SHARED, kernel
        assert not kernel["atomics"], f"{kernel}: sums would depend on the order of the programs"
        assert kernel["tensor_cores"] == (kernel["products"] != ["float32", "highest"]), kernel


def compile_all() -> list[dict[str, Any]]:
    """Run the operation once per case with tensors on the CPU, and compile what it would launch."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gmvq.functional.sampling import triton_common, triton_kernels

    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int32: "i32", torch.int64: "i64"}
    compiled: list[dict[str, Any]] = []
    products: list[str] = []

    def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
        types = ["*" + names[a.dtype] if isinstance(a, torch.Tensor) else "i32" for a in arguments]
        signature = dict(zip(kernel.arg_names, types, strict=False)) | dict.fromkeys(constants, "constexpr")
        aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types) if kind[0] == "*"}
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        result = triton.compile(
            ASTSource(kernel, signature, places, aligned), target=GPUTarget("cuda", 90, 32), options=options
        )
        ptx = result.asm["ptx"]
        compiled.append(
            {
                "name": kernel.__name__,
                "products": products,
                "constants": constants,
                "shared": result.metadata.shared,
                "atomics": any(word.startswith(("atom.", "red.")) for word in ptx.split()),
                "tensor_cores": "mma" in ptx,
            }
        )

    triton_common.launch = launch
    triton_common.processors = lambda device: 4
    triton_common.empty = lambda *shape, like, dtype=torch.float32: torch.zeros(shape, dtype=dtype)
    for dtype, setting, D, mode in CASES:
        products = [dtype, setting]
        torch.set_float32_matmul_precision(setting)
        size = 512
        query, codebook = torch.zeros(2, size, D, dtype=getattr(torch, dtype))
        row = torch.zeros(size)
        inputs = (query, codebook, row, row, None, torch.zeros(size, 4, dtype=torch.int32), row[0], row[0])
        out = triton_kernels.forward(*inputs, mode)
        triton_kernels.backward((query, row, row, row), *inputs, (out[2], *out[5:]), mode)
    return compiled


if __name__ == "__main__":
    print(json.dumps(compile_all()))
