"""Where bfloat16 products pay: on GPUs that have them, and on CPUs with AVX512-BF16, AMX or Arm's bf16."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Literal

import torch


def has_native_bf16(device: str | torch.device) -> bool:
    """Whether bfloat16 products are faster than float32's on this device."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities() if kind == "cpu" else {}
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast_dtype(device: str | torch.device) -> torch.dtype | None:
    """Return ``torch.bfloat16`` where the device computes in it natively, else None: stay in float32.

    Example:
        >>> dtype = autocast_dtype("cpu")
        >>> with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        ...     out = model(images)
    """
    return torch.bfloat16 if has_native_bf16(device) else None


def recommended_precision(device: str | torch.device) -> Literal["bf16-mixed", "32-true"]:
    """Return what Lightning's ``Trainer`` calls ``precision``, the number format, for this device.

    Example:
        >>> import lightning
        >>> trainer = lightning.Trainer(precision=recommended_precision("cpu"))
    """
    return "32-true" if autocast_dtype(device) is None else "bf16-mixed"
