"""The Triton kernel compiles for Ampere and Hopper, on any machine: no GPU is needed to find a type error.

It is launched as usual with a ``launch`` that compiles instead, in a process without the interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: its kernels are not used either")

#: torch's setting for float32 products, D, k: products of tensor cores, of other units, one feature after the other
CASES = [("highest", 20, 2), ("high", 64, 4), ("high", 256, 4), ("highest", 256, 16), ("high", 4, 4)]
CAPABILITIES = (80, 90)
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
    assert len(compiled) == len(CAPABILITIES) * len(CASES)
    for kernel in compiled:
        assert kernel["shared"] <= SHARED, kernel
        assert not kernel["atomics"], f"{kernel}: results would depend on the order of the programs"
        assert kernel["tensor_cores"] == (kernel["setting"] == "high" and kernel["D"] >= 16), kernel


def compile_all() -> list[dict[str, Any]]:
    """Run the search once per case with tensors on the CPU, and compile what it would launch."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gmvq.functional import triton_topk

    names = {torch.float32: "fp32", torch.int32: "i32"}
    compiled: list[dict[str, Any]] = []
    now: dict[str, Any] = {}

    def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
        types = ["*" + names[a.dtype] if isinstance(a, torch.Tensor) else "i32" for a in arguments]
        signature = dict(zip(kernel.arg_names, types, strict=False)) | dict.fromkeys(constants, "constexpr")
        aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types) if kind[0] == "*"}
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source, target = (
            ASTSource(kernel, signature, places, aligned),
            GPUTarget("cuda", now["capability"], 32),
        )
        result = triton.compile(source, target=target, options=options)
        ptx = result.asm["ptx"]
        compiled.append(
            {
                **now,
                "D": constants["D"],
                "shared": result.metadata.shared,
                "atomics": any(word.startswith(("atom.", "red.")) for word in ptx.split()),
                "tensor_cores": "mma" in ptx,
            }
        )

    triton_topk.launch = launch
    triton_topk.empty = lambda *shape, like, dtype: torch.zeros(shape, dtype=dtype)
    for capability, (setting, dim, k) in product(CAPABILITIES, CASES):
        now |= {"capability": capability, "setting": setting}
        torch.set_float32_matmul_precision(setting)
        triton_topk.topk(torch.zeros(512, dim), torch.zeros(512, dim), torch.zeros(512), k)
    return compiled


if __name__ == "__main__":
    print(json.dumps(compile_all()))
