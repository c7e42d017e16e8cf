"""Every quantizer and format against the model, any batch and size, signals, volumes, and what cannot be exported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_cases import QUANTIZERS, export_checked, linear, make, started
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ
from gmvq.export import Signature, export_model, formats, load_exported, signature_of
from gmvq.export.graphs import plain_copy
from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.models.weights import model_digest

pytestmark = pytest.mark.xdist_group("onnx")  # one ONNX export for many, on one worker

SHAPES = [(1, 3, 8, 8), (5, 3, 8, 12), (2, 3, 40, 16)]


def agrees(folder: Path, model: VQAutoencoder) -> None:
    exported = load_exported(folder)
    least = exported.signature.minimum_size
    for shape in (shape for shape in SHAPES if min(shape[2:]) >= least):
        images = torch.rand(*shape)
        indices = exported.encode(images)
        assert torch.equal(indices, model.encode(images)), shape
        torch.testing.assert_close(exported.decode(indices), model.decode(indices), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("format", "name"), [*(("onnx", name) for name in QUANTIZERS), ("torch-export", "residual")]
)
def test_any_batch_and_size(
    plain_onnx: tuple[Path, dict[str, Any]], tmp_path: Path, name: str, format: str
) -> None:
    model = make(name)
    known = (format, name) == ("onnx", "plain")
    folder, notes = plain_onnx if known else (tmp_path, export_checked(model, tmp_path, format))
    agrees(folder, model)
    extra = {"residual": [3], "grouped": [2], "pyramid": [2]}.get(name, [])
    assert notes["indices"]["shape"] == ["batch", "h", "w", *extra]
    if name == "residual":
        assert notes["signature"]["codebook_sizes"] == [8, 8, 4]
        with pytest.raises(ValueError, match=r"of level 3 must lie in \[0, 3\]"):
            load_exported(folder).decode(torch.full((1, 2, 2, 3), 4))
    assert ("codebook_sizes" in notes["signature"]) == (name == "residual")
    assert notes["check"]["differing"] == 0
    assert [6, 3, 16, 20] in notes["check"]["shapes"]
    assert notes["check"]["source"] == "noise"
    assert notes["model"] == model_digest(model)
    assert not list(folder.glob(".export-*"))


def test_a_pyramid_takes_two_blocks_of_its_coarsest_scale() -> None:
    found = signature_of(plain_copy(make("pyramid")))
    assert found.least == 3
    assert Signature(**found.to_dict()) == Signature(**{**found.to_dict(), "least": 3})
    with pytest.raises(ValueError, match="at least 12"):
        found.check_images((1, 3, 8, 12))
    with pytest.raises(ValueError, match="at least 3 positions"):
        found.check_indices((1, 2, 3, 2))
    assert "least" not in signature_of(plain_copy(make())).to_dict()


def test_a_model_without_a_codebook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no codebook yet.*init_codebook\(latents\)"):
        export_model(build_autoencoder("tiny", quantizer=QUANTIZERS["residual"]()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_compiled_ahead_of_time(tmp_path: Path) -> None:
    try:
        formats.check_compiler()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    model = linear()
    export_model(model, tmp_path, "aoti", channels=3, downsample=4)
    agrees(tmp_path, model)


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder

    def get_cpp_compiler() -> str:
        raise RuntimeError("none")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", get_cpp_compiler)
    with pytest.raises(FileNotFoundError, match=r"install g\+\+ .* or use the format torch-export"):
        export_model(make(), tmp_path, "aoti")


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_and_volumes(tmp_path: Path, axes: int) -> None:
    model = build_autoencoder("tiny", channels=1, spatial_dims=axes, dim=4, codebook_size=8)
    model = started(model, 8, 1, *[8] * axes)
    notes = export_model(model, tmp_path, "torch-export")
    assert notes["images"]["shape"] == ["batch", 1, *(["4*l"] if axes == 1 else ["4*d", "4*h", "4*w"])]
    images = torch.rand(2, 1, *[12, 8, 16][:axes])
    assert torch.equal(load_exported(tmp_path).encode(images), model.encode(images))


def test_channels_last_latents_and_bfloat16_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.unflatten(2, (-1, 4))[:, 0])

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, z: Tensor) -> Tensor:
            return self.linear(z).flatten(1)[:, None]

    model = VQAutoencoder(Encoder(), GaussianMixtureVQ(6, 8), Decoder(), layout="channels_last")
    model = started(model, 8, 1, 32).bfloat16()
    notes = export_model(model, tmp_path, "torch-export", channels=1, downsample=4, spatial_dims=1)
    assert notes["check"]["largest_image_difference"] < 1e-6
    assert next(model.parameters()).dtype == torch.bfloat16, "the model itself is as it was"
    x = torch.rand(3, 1, 20)
    assert torch.equal(load_exported(tmp_path).encode(x), plain_copy(model).encode(x))


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one of 'onnx', 'torch-export', 'aoti', got 'tflite'"):
        export_model(make(), tmp_path, "tflite")
    with pytest.raises(ValueError, match="pass channels= and downsample="):
        export_model(linear(), tmp_path, "torch-export")
    with pytest.raises(ValueError, match="expected one token for 8 pixels along each axis"):
        export_model(linear(), tmp_path, "torch-export", channels=3, downsample=8)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="an export is a folder, but"):
        export_model(make(), tmp_path / "file", "torch-export")

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 4, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + float(x.mean())

    model = linear()
    model.encoder = Fixed()
    with pytest.raises(
        ValueError, match=r"cannot be exported with a free batch and free sizes; torch\.export says"
    ):
        export_model(model, tmp_path, "torch-export", channels=3, downsample=4)


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gmvq.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[export\]'"):
        export_model(make(), tmp_path, "onnx")
