"""The recommended precision follows what the device can do."""

from __future__ import annotations

import pytest
import torch

from gmvq.models import autocast_dtype, recommended_precision


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_cpu_with_bf16(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    assert autocast_dtype("cpu") == torch.bfloat16
    assert recommended_precision("cpu") == "bf16-mixed"


def test_cpu_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert autocast_dtype("cpu") is None
    assert recommended_precision(torch.device("cpu")) == "32-true"


@pytest.mark.parametrize(("available", "native"), [(True, True), (True, False), (False, True)])
def test_cuda(monkeypatch: pytest.MonkeyPatch, available: bool, native: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert autocast_dtype("cuda:0") == (torch.bfloat16 if available and native else None)


def test_other_devices() -> None:
    assert recommended_precision("meta") == "32-true"
