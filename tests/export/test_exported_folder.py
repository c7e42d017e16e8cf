"""A folder that was exported: what its files say, wrong images and indices, damage, and the example that reads it."""

from __future__ import annotations

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
from export_cases import make
from PIL import Image
from torch import nn

from gmvq.data.decode import decode
from gmvq.export import Signature, load_exported
from gmvq.export.files import file_digest

pytestmark = pytest.mark.xdist_group("onnx")  # one ONNX export for many, on one worker

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_encode.py"


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
