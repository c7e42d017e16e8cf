"""Where bfloat16 autocast pays: on GPUs that have it, and on CPUs with AVX512-BF16, AMX or Arm's bf16."""

from __future__ import annotations

from typing import Literal

import torch

from ..functional.precision import has_native_bf16


def autocast_dtype(device: str | torch.device) -> torch.dtype | None:
    """Return ``torch.bfloat16`` where the device computes in it natively, else None: stay in float32.

    Example:
        >>> dtype = autocast_dtype("cpu")
        >>> with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        ...     out = model(images)
    """
    return torch.bfloat16 if has_native_bf16(device) else None


def recommended_precision(device: str | torch.device) -> Literal["bf16-mixed", "32-true"]:
    """Return the ``precision`` argument for a Lightning ``Trainer`` on this device.

    Example:
        >>> import lightning
        >>> trainer = lightning.Trainer(precision=recommended_precision("cpu"))
    """
    return "32-true" if autocast_dtype(device) is None else "bf16-mixed"
