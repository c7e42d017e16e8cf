"""The core needs torch, numpy and safetensors alone: a tokenizer is trained and saved with all else blocked.

This file is its own script: the test starts it in a fresh interpreter where every optional package is unimportable.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

OPTIONAL = {
    *(
        "lightning",
        "pytorch_lightning",
        "jsonargparse",
        "torchmetrics",
        "tensorboard",
        "wandb",
        "rich",
        "matplotlib",
    ),
    *(
        "PIL",
        "skimage",
        "sklearn",
        "scipy",
        "pandas",
        "datasets",
        "pyarrow",
        "fontTools",
        "soundfile",
        "huggingface_hub",
    ),
    *("msgspec", "transformers", "gradio", "ray", "vector_quantize_pytorch"),
}


class Blind:
    """A meta-path finder that finds all that another finds, except the optional packages."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        return None if name.split(".")[0] in OPTIONAL else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def report() -> dict[str, Any]:
    """Use the core without any optional package and return what happened."""
    import gmvq

    facts: dict[str, Any] = {"light import": "torch" not in sys.modules and "numpy" not in sys.modules}
    facts["unresolved names"] = [name for name in gmvq.__all__ if getattr(gmvq, name, None) is None]

    import torch

    torch.manual_seed(0)
    layer = gmvq.GaussianMixtureVQ(dim=4, codebook_size=8)
    quantized, indices, loss = layer(torch.randn(32, 4))
    facts["layer"] = [list(quantized.shape), list(indices.shape), bool(loss.isfinite())]

    model = gmvq.build_autoencoder("tiny", dim=4, codebook_size=8)
    quantizer: Any = model.quantizer
    quantizer.init_codebook(torch.randn(32, 4))
    optimizer = torch.optim.Adam(model.parameter_groups(lr=1e-3))
    x = torch.rand(2, 3, 16, 16)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(2):
        out = model(x)
        optimizer.zero_grad()
        gmvq.negative_evidence(gmvq.GaussianLikelihood(), out.reconstruction, x, out.quantizer).backward()
        optimizer.step()
    facts["unmoved parameters"] = [
        name
        for old, (name, new) in zip(before, model.named_parameters(), strict=True)
        if torch.equal(old, new.detach())
    ]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = gmvq.VQAutoencoder.from_pretrained(folder)
        facts["same tokens"] = torch.equal(loaded.encode(x), model.encode(x))
        facts["same picture"] = torch.equal(loaded.reconstruct(x), model.reconstruct(x))
    facts["errors"] = {name: error_of(call) for name, call in uses_of_extras(gmvq).items()}
    facts["loaded anyway"] = sorted(OPTIONAL & set(sys.modules))
    return facts


def uses_of_extras(gmvq: Any) -> dict[str, Callable[[], object]]:
    """Things that need an extra, by the name of it."""

    def open_picture() -> object:
        decode = importlib.import_module("gmvq.data.decode").decode
        return decode(b"", 3)

    def write_report() -> object:
        write = importlib.import_module("gmvq.evaluation").write_report
        return write("nowhere", None, None, title="", command="")

    def command() -> object:
        main = importlib.import_module("gmvq.cli.main").main
        with contextlib.redirect_stderr(io.StringIO()) as text:
            code = main(["fit"])
        raise ImportError(f"exit code {code}: {text.getvalue()}")

    return {
        "training": lambda: importlib.import_module("gmvq.training").TokenizerModule,
        "checkpoints": lambda: importlib.import_module("gmvq.training.checkpoint"),
        "prior": lambda: importlib.import_module("gmvq.prior").fit_prior,
        "hub": lambda: gmvq.VQAutoencoder.from_pretrained("owner/name"),
        "picture": open_picture,
        "report": write_report,
        "command line": command,
    }


def error_of(call: Callable[[], object]) -> list[str]:
    """Type and text of the ImportError that a call ends in."""
    try:
        call()
    except ImportError as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


def run_script() -> dict[str, Any]:
    source = Path(importlib.import_module("gmvq").__file__ or "").parents[1]
    path = os.pathsep.join([str(source), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_core_works_with_every_optional_package_blocked() -> None:
    facts = run_script()
    errors = facts.pop("errors")
    assert facts == {
        "light import": True,
        "unresolved names": [],
        "layer": [[32, 4], [32], True],
        "unmoved parameters": ["quantizer.mean", "quantizer.scale"],
        "same tokens": True,
        "same picture": True,
        "loaded anyway": [],
    }
    extras = {
        "training": "train",
        "checkpoints": "data",
        "prior": "prior",
        "hub": "train",
        "picture": "data",
        "report": "train",
        "command line": "train",
    }
    assert errors.keys() == extras.keys()
    for use, (kind, text) in errors.items():
        assert kind == ("ImportError" if use == "command line" else "MissingExtraError"), (use, text)
        assert f"pip install -e '.[{extras[use]}]'  # in a clone of gmvq" in text, (use, text)
    assert errors["command line"][1].startswith("exit code 2: ")


if __name__ == "__main__":
    sys.meta_path[:] = [Blind(finder) for finder in sys.meta_path]
    print(json.dumps(report()))
