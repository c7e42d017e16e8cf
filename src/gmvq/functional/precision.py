"""Which devices compute in bfloat16 natively."""

from __future__ import annotations

import torch


def has_native_bf16(device: str | torch.device) -> bool:
    """Whether bfloat16 products are faster than float32's here: GPUs that have them, CPUs with AVX512, AMX or Arm's."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        has = torch.cpu.get_capabilities()
        return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False
