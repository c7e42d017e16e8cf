"""What an export that differs from its model is: refused, but for ties of rounding, which are counted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from export_cases import Wrong, linear, make, started
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ
from gmvq.export import ExportMismatchError, check, export_model, signature_of
from gmvq.models import VQAutoencoder

pytestmark = pytest.mark.xdist_group("onnx")  # one ONNX export for many, on one worker


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("index", "1 of 4 positions get another code .* no ties of rounding; nothing was kept"),
        ("dtype", "gives torch.int32 "),
        ("image", "differs by 0.001 from the model's"),
    ],
)
def test_what_differs_is_refused(change: str, message: str) -> None:
    model = make()
    with pytest.raises(ExportMismatchError, match=message):
        check.compare(model, Wrong(model, change), signature_of(model))


def test_ties_are_counted_and_kept() -> None:
    """Two equal codewords, and a latent halfway between two: the choice among them is a matter of rounding."""
    model = linear()
    signature = signature_of(model, channels=3, downsample=4)
    quantizer: Any = model.quantizer
    with torch.no_grad():
        quantizer.codebook[1] = quantizer.codebook[0]
    chosen = {0: 0}

    class Swapped(Wrong):
        def encode(self, images: Tensor) -> Tensor:
            indices = self.model.encode(images)
            chosen[0] += int((indices == 0).sum())
            return torch.where(indices == 0, 1, indices)

    found = check.compare(model, Swapped(model, ""), signature)
    assert found.differing == chosen[0] > 0

    rows = check.EncoderGraph(model).latents(torch.rand(1, 3, 8, 8)).reshape(-1, 4)[:2]
    first, second = quantizer.encode(rows)
    assert first != second
    low, high = torch.tensor(0.0), torch.tensor(1.0)
    for _ in range(40):  # bisection along the line between two latents
        middle = (low + high) / 2
        same = quantizer.encode(torch.lerp(*rows, middle)[None])[0] == first
        low, high = (middle, high) if same else (low, middle)
    edge = torch.lerp(*rows, low)[None]
    ours, theirs = (quantizer.encode(torch.lerp(*rows, place)[None]).view(1, 1, 1) for place in (low, high))
    assert ours != theirs
    model.encoder = nn.Identity()
    image = edge.view(1, 4, 1, 1)
    assert check._not_tied(model, image, expected=ours, indices=theirs) == 0
    others = [code for code in range(2, 8) if code not in (int(ours), int(theirs))]
    for code in others:
        assert check._not_tied(model, image, expected=ours, indices=torch.full_like(ours, code)) == 1


def test_rounding_of_large_logits_is_a_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the origin logits are large, and float32 tells fewer codes apart than float64 does."""
    torch.manual_seed(0)
    networks = (
        nn.Conv2d(3, 4, 4, 4),
        GaussianMixtureVQ(4, 64, standardize=False),
        nn.ConvTranspose2d(4, 3, 4, 4),
    )
    with torch.no_grad():
        networks[0].bias += 30.0  # pyright: ignore[reportOptionalOperand]
    model = started(VQAutoencoder(*networks), 64, 3, 16, 16)
    exact = copy.deepcopy(model).double()

    class Exact(Wrong):
        def encode(self, images: Tensor) -> Tensor:
            return exact.quantizer.encode(check.EncoderGraph(self.model).latents(images).double())

    signature = signature_of(model, channels=3, downsample=4)
    images = [torch.rand(64, 3, 32, 32)]
    found = check.compare(model, Exact(model, ""), signature, images)
    assert 0 < found.differing < found.indices / 50
    monkeypatch.setattr(check, "_LOGIT_ROUNDINGS", 0.0)
    monkeypatch.setattr(check, "TIE_NOISE", 1e-9)
    with pytest.raises(ExportMismatchError, match="no ties of rounding"):
        check.compare(model, Exact(model, ""), signature, images)


def test_a_refused_export_leaves_the_folder_as_it_was(
    onnx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in onnx_folder.iterdir()}

    def compare(*_: Any, **__: Any) -> None:
        raise ExportMismatchError("differs")

    monkeypatch.setattr("gmvq.export.write.compare", compare)
    with pytest.raises(ExportMismatchError, match="differs"):
        export_model(linear(), onnx_folder, "torch-export", channels=3, downsample=4)
    assert {file.name: file.read_bytes() for file in onnx_folder.iterdir()} == before
