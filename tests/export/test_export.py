"""Exported files against the model: every quantizer and format, any batch and size, and refusals of what differs."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ, GroupedGMVQ, PyramidGMVQ, RaggedGMVQ, ResidualGMVQ
from gmvq.data.decode import decode
from gmvq.export import (
    ExportMismatchError,
    Signature,
    check,
    export_model,
    load_exported,
    program,
    signature_of,
)
from gmvq.export.files import file_digest
from gmvq.export.graphs import plain_copy
from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.models.weights import model_digest

pytestmark = pytest.mark.xdist_group("onnx")  # one ONNX export for many, on one worker

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_encode.py"
QUANTIZERS = {
    "plain": lambda: GaussianMixtureVQ(8, 32),
    "projected": lambda: GaussianMixtureVQ(8, 16, codebook_dim=3, mixture_weights="learned", support=4),
    "residual": lambda: ResidualGMVQ(8, [8, 8, 4]),
    "grouped": lambda: GroupedGMVQ(8, 8, 2),
    "pyramid": lambda: PyramidGMVQ(8, 8, 2),
    "ragged": lambda: RaggedGMVQ(8, 16, 2),
}
SHAPES = [(1, 3, 8, 8), (5, 3, 8, 12), (2, 3, 40, 16)]


def started(model: VQAutoencoder, *shape: int) -> VQAutoencoder:
    """With a codebook of the model's own latents."""
    with torch.no_grad():
        model.quantizer.init_codebook(model._latents(torch.rand(*shape)))  # pyright: ignore
    return model.eval()


def make(name: str = "plain") -> VQAutoencoder:
    torch.manual_seed(0)
    return started(build_autoencoder("tiny", quantizer=QUANTIZERS[name]()), 8, 3, 16, 16)


def linear() -> VQAutoencoder:
    """The smallest networks there are, which are not this package's own."""
    torch.manual_seed(0)
    networks = nn.Conv2d(3, 4, 4, 4), GaussianMixtureVQ(4, 8), nn.ConvTranspose2d(4, 3, 4, 4)
    return started(VQAutoencoder(*networks), 8, 3, 16, 16)


def export_checked(model: VQAutoencoder, folder: Path, format: str) -> dict[str, Any]:
    return export_model(model, folder, format, images=torch.rand(6, 3, 18, 21), source="noise")


@pytest.fixture(scope="module")
def plain_onnx(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the plain model as ONNX, and its notes."""
    folder = tmp_path_factory.mktemp("onnx") / "out"
    return folder, export_checked(make(), folder, "onnx")


@pytest.fixture
def onnx_folder(plain_onnx: tuple[Path, dict[str, Any]]) -> Path:
    return plain_onnx[0]


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
        program.check_compiler()
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


def test_onnx_files_say_what_they_are(onnx_folder: Path) -> None:
    import onnx

    proto = onnx.load(onnx_folder / "encoder.onnx")
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    ]
    assert shapes == [["batch", 3, "4*h", "4*w"], ["batch", "h", "w"]]
    kept = {entry.key: entry.value for entry in proto.metadata_props}
    assert kept["sizes"] == "height and width: multiples of 4, at least 8"
    assert json.loads(kept["signature"])["codebook_size"] == 32


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 10, 8), "multiples of 4, at least 8; got 10 x 8: crop or pad"),
        ((1, 3, 4, 8), "multiples of 4, at least 8; got 4 x 8"),
        ((1, 1, 8, 8), r"expected images of shape \(batch, 3, height, width\), got \(1, 1, 8, 8\)"),
        ((3, 8, 8), "expected images of shape"),
        ((0, 3, 8, 8), "expected images of shape"),
    ],
)
def test_images_of_a_wrong_shape(onnx_folder: Path, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_exported(onnx_folder).encode(torch.rand(*shape))


def test_wrong_types_and_indices(onnx_folder: Path) -> None:
    exported = load_exported(onnx_folder)
    with pytest.raises(TypeError, match="expected a float32 tensor"):
        exported.encode(torch.rand(1, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(TypeError, match="expected an int64 tensor"):
        exported.decode(torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match=r"must lie in \[0, 31\].*from 0 to 32"):
        exported.decode(torch.tensor([[[0, 32], [1, 1]]]))
    with pytest.raises(ValueError, match=r"expected indices of shape \(batch, height, width\)"):
        exported.decode(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 2 positions"):
        exported.decode(torch.zeros(1, 1, 2, dtype=torch.int64))
    masked = torch.tensor([[[0, -1], [3, 5]]])
    torch.testing.assert_close(exported.decode(masked), make().decode(masked), atol=1e-5, rtol=0)


class Wrong:
    """A runner that is off by something."""

    def __init__(self, model: VQAutoencoder, change: str) -> None:
        self.model, self.change = model, change

    def encode(self, images: Tensor) -> Tensor:
        indices = self.model.encode(images)
        if self.change == "index":
            indices.view(-1)[0] = (indices.view(-1)[0] + 1) % 32
        return indices.int() if self.change == "dtype" else indices

    def decode(self, indices: Tensor) -> Tensor:
        return self.model.decode(indices) + (1e-3 if self.change == "image" else 0.0)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "export.json").unlink(), "export.json is missing"),
        (lambda folder: (folder / "export.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "export.json").write_text("[1]"), "expected format_version 1"),
        (lambda folder: edit(folder, format_version=9), "expected format_version 1, got 9"),
        (lambda folder: edit(folder, format="tflite"), "expected a format of onnx"),
        (lambda folder: edit(folder, format=["onnx"]), "expected a format of onnx"),
        (lambda folder: edit(folder, signature={"channels": 3}), "signature or digests are damaged"),
        (lambda folder: edit(folder, digests=None), "signature or digests are damaged"),
        (lambda folder: (folder / "decoder.onnx").unlink(), "decoder.onnx is missing"),
        (lambda folder: (folder / "encoder.onnx").write_bytes(b"x"), "its SHA-256 differs"),
    ],
)
def test_a_damaged_folder(onnx_folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    for file in onnx_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_exported(tmp_path)


def edit(folder: Path, **changes: Any) -> None:
    notes = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**notes, **changes}))


def test_a_graph_that_is_none(onnx_folder: Path, tmp_path: Path) -> None:
    """Damage that the digests do not show: they were made of the damaged file."""
    folder = tmp_path / "onnx"
    shutil.copytree(onnx_folder, folder)
    file, notes = folder / "encoder.onnx", json.loads((folder / "export.json").read_text())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    notes["digests"][file.name] = file_digest(file)
    (folder / "export.json").write_text(json.dumps(notes))
    with pytest.raises(ValueError, match=r"encoder\.onnx is no ONNX file that onnxruntime can run.*export"):
        load_exported(folder)


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


def test_the_shapes_of_a_signature() -> None:
    signature = Signature(1, 8, 1, (4,), 256, 16)
    assert signature.indices_shape() == ["batch", "l", 4]
    signature.check_indices((1, 2, 4))
    with pytest.raises(ValueError, match=r"\(batch, length, 4\), got \(1, 2, 3\)"):
        signature.check_indices((1, 2, 3))


def test_the_example_runs_without_torch(onnx_folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (21, 14, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    Image.fromarray(noise[:16, :5, 0]).save(tmp_path / "b.png")
    code = (
        f"import runpy, sys; sys.argv = ['x', {str(onnx_folder)!r}, 'a.png', 'b.png', '--out', 'out'];\n"
        f"try: runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'gmvq'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "a.png: 6 x 4 tokens" in done.stdout
    model = make()
    for name, (height, width) in {"a": (21, 14), "b": (16, 5)}.items():
        pixels = (
            torch.from_numpy(np.asarray(decode(tmp_path / f"{name}.png", 3)).copy()).permute(2, 0, 1) / 255
        )
        bottom, right = max(8 - height, -height % 4), max(8 - width, -width % 4)
        padded = nn.functional.pad(pixels[None], (0, right, 0, bottom), mode="replicate")
        found = np.load(tmp_path / "out" / f"{name}.npy")
        assert np.array_equal(found, model.encode(padded)[0].numpy())
        restored = np.asarray(Image.open(tmp_path / "out" / f"{name}.png")).astype(int)
        expected = model.reconstruct(padded)[0, :, :height, :width].clamp(0, 1).mul(255).round()
        assert np.abs(restored.transpose(2, 0, 1) - expected.numpy()).max() <= 1
