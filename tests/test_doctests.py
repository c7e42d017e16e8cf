"""Every public example runs, and gives what it says.

The examples share a few names, so that each shows one call: ``torch``, what ``gmvq`` exports, ``images`` (a batch of
small pictures), ``model`` and ``tokenizer`` (an untrained tokenizer), and the folders ``runs/photos``,
``tokens/photos``, ``runs/prior/model`` and ``exported``.
"""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

import gmvq

ROOT = Path(gmvq.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
#: What the examples of a package, or of one module, need beside torch, numpy and safetensors.
NEEDS = {
    "data": ("PIL", "skimage", "sklearn"),
    "tokens": ("PIL", "skimage", "sklearn", "msgspec", "pyarrow"),
    "training": ("lightning", "PIL", "skimage", "sklearn", "torchmetrics"),
    "prior": ("lightning", "transformers"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "models.diffusers_networks": ("diffusers",),
    "models.card": ("huggingface_hub", "jinja2"),
    "functional.autocast": ("lightning",),
}


def _modules() -> list[str]:
    files = (file for file in sorted(ROOT.rglob("*.py")) if ">>> " in file.read_text(encoding="utf-8"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the examples share, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images = torch.rand(8, 3, 32, 32)
    model = gmvq.build_autoencoder("tiny", dim=4, codebook_size=256)
    model.quantizer.init_codebook(torch.randn(4096, 4))
    model.eval()
    model.save_pretrained("runs/photos/model")
    shared = {"torch": torch, "images": images, "model": model, "tokenizer": model}
    return {name: getattr(gmvq, name) for name in gmvq.__all__} | shared


@pytest.mark.parametrize("module", _modules())
def test_examples(module: str, names: dict[str, Any]) -> None:
    for package in (*NEEDS.get(module.split(".")[0], ()), *NEEDS.get(module, ())):
        pytest.importorskip(package)
    text = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8")
    if '"tokens/photos"' in text:
        _encode(names["model"], names["images"])
    if '"runs/prior/model"' in text:
        _save_prior()
    if 'load_exported("exported")' in text:
        _export(names["model"])
    found = importlib.import_module(f"gmvq.{module}")
    failed, tried = doctest.testmod(found, extraglobs=names, optionflags=FLAGS)
    assert tried > 0, "the module has examples that doctest does not find"
    assert failed == 0, "see the output above"


def _encode(model: Any, images: torch.Tensor) -> None:
    from gmvq.tokens import encode_dataset

    encode_dataset(
        model, {"train": torch.utils.data.TensorDataset(images.repeat(10, 1, 1, 1))}, "tokens/photos"
    )


def _export(model: Any) -> None:
    from gmvq.export import export_model

    export_model(model, "exported", "torch-export")


def _save_prior() -> None:
    from gmvq.prior import TokenPrior, TokenSpec

    TokenPrior(TokenSpec((8, 8), codebook_size=256)).save_pretrained("runs/prior/model")
