"""What leaves the machine names nobody and no place on it, and what is shown steers no screen."""

from __future__ import annotations

import json
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq.cli.main import main
from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.models.card import model_card, public_metadata
from gmvq.screen import markdown, printable

#: Stands for a user's name in the path of all that is done here.
MARK = "ottilie"


@pytest.fixture
def model() -> VQAutoencoder:
    torch.manual_seed(0)
    model = build_autoencoder("tiny", channels=1, dim=4, codebook_size=8).eval()
    with torch.no_grad():
        model.quantizer.init_codebook(model.encoder(torch.rand(8, 1, 16, 16)).movedim(1, -1))  # pyright: ignore
    return model


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose path says who lives there."""
    folder = tmp_path / MARK
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USER", MARK)
    monkeypatch.setenv("LOGNAME", MARK)
    monkeypatch.setattr("socket.gethostname", lambda: f"{MARK}-laptop")
    monkeypatch.chdir(folder)
    return folder


def contents(file: Path) -> Iterator[bytes]:
    """A file, and what is packed in it."""
    yield file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            yield from map(archive.read, archive.namelist())


def says_nothing(folder: Path) -> None:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    assert files
    packages = str(Path(torch.__file__).parent.parent).encode()
    for file in files:
        for data in contents(file):
            assert MARK.encode() not in data, file
            assert packages not in data, file
            assert str(Path(__file__).parents[2]).encode() not in data, file


def notes_of(home: Path) -> dict[str, Any]:
    return {
        "data": {"path": str(home / "photographs"), "size": 16, "test": "photographs (test; by name)"},
        "tokens": {"path": str(home / "tokens"), "tokenizer": str(home / "runs" / "mine")},
        "tokenizer": f"../{MARK}/runs/mine",
        "settings": {"deep": [{"file": str(home / "a.yaml")}, f"C:\\Users\\{MARK}\\x"]},
        "step": 3,
    }


def test_what_push_uploads(home: Path, model: VQAutoencoder, capsys: pytest.CaptureFixture[str]) -> None:
    model.save_pretrained(home / "model", metadata=notes_of(home))
    assert main(["push", "model", "me/tokenizer", "--dry_run", "pushed"]) == 0
    says_nothing(home / "pushed")
    assert "photographs" in (home / "pushed" / "README.md").read_text()


def test_what_a_pushed_prior_holds(home: Path) -> None:
    pytest.importorskip("transformers")
    from gmvq.prior import TokenPrior, TokenSpec

    prior = TokenPrior(TokenSpec((2, 2), 8), kind="causal", size="tiny")
    prior.save_repository(home / "pushed", "me/prior", notes_of(home), None)
    says_nothing(home / "pushed")


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_what_an_export_holds(home: Path, model: VQAutoencoder, format: str) -> None:
    from gmvq.export import export_model

    if format == "onnx":
        pytest.importorskip("onnxscript")
    export_model(model, home / "exported", format)
    says_nothing(home / "exported")


def test_metadata_is_made_public_however_deep() -> None:
    public = public_metadata(
        {"a": {"b": ["/home/ottilie/x", "a/b"], "path": "~/y/z"}, "data": {"path": "hf:owner/name"}}
    )
    assert public == {"a": {"b": ["x", "a/b"], "path": "z"}, "data": {"path": "hf:owner/name"}}


# Screens


def test_escapes_are_shown_and_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        printable("a\x1b]0;title\x07\r\x9b2J\u202eb\udcff\n\tc ä")
        == "a\\x1b]0;title\\x07\\r\\x9b2J\\u202eb\\udcff\n\tc ä"
    )
    name = "\x1b[2J\x1b]52;c;cHduZWQ=\x07.npy"
    (tmp_path / name).write_bytes(b"no array")
    assert main(["evaluate", str(tmp_path / name)]) == 2
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"class": "\x1b[31mother"}))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    assert main(["inspect", str(tmp_path / "model")]) == 2
    assert main(["fit", "--data.path", str(tmp_path / name), "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\\x1b[2J" in shown.err
    assert "\\x1b[31mother" in shown.err


def test_names_in_tables_and_warnings(
    tmp_path: Path, model: VQAutoencoder, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.new("L", (16, 16), 40 * i).save(folder / f"\x1b[3{i}m.png")
    model.save_pretrained(tmp_path / "model")
    assert main(["reconstruct", str(tmp_path / "model"), str(folder), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\\x1b[30m" in shown.out


def test_names_in_warnings_of_libraries_and_in_what_estimate_prints(
    tmp_path: Path, model: VQAutoencoder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    # pytest would keep the warnings.
    monkeypatch.setattr("warnings.showwarning", _shown)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 255, (12, 16, 16, 1), np.uint8))
    model.save_pretrained(tmp_path / "model")
    tokens, plot = tmp_path / "\x1b[2J$\\frac{", tmp_path / "use.png"
    data = ["--data", str(tmp_path / "images.npy"), "--size", "16"]
    assert main(["encode", str(tmp_path / "model"), *data, "--out", str(tokens), "--quiet"]) == 0
    assert main(["tokens", "stats", str(tokens), "--plot", str(plot)]) == 0
    assert plot.is_file()
    config = tmp_path / "\x1b[2J.yaml"
    config.write_text("data: {path: images.npy}")
    assert main(["estimate", str(config), "--device", "cpu", "--data.batch_size", "1"]) == 0
    warnings.warn("here the filter is as before", stacklevel=1)
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\\x1b[2J.yaml" in shown.out

    def command(argv: list[str]) -> int:
        """Warn."""
        warnings.warn("column \x1b[2J", stacklevel=1)
        return 0

    assert main(["warn"], more={"warn": command}) == 0
    assert "column \\x1b[2J" in capsys.readouterr().err


def _shown(message: Any, category: Any, filename: str, number: int, *_: object) -> None:
    """What Python does with a warning by default."""
    print(warnings.formatwarning(message, category, filename, number), file=sys.stderr)


def test_a_card_holds_text_and_no_markup(model: VQAutoencoder) -> None:
    hostile = "x](http://a) <img src=x onerror=alert(1)> | `a`\n# heading ![p](http://b)"
    metadata = {
        "data": {"path": hostile, "size": 16, "test": hostile},
        "metrics": {"mse": 0.1, "dataset": hostile},
    }
    card = model_card(model, repo_id="me/model", metadata=metadata).split("---", 2)[2]
    assert not re.search(r"(?<!\\)<img|(?<!\\)\]\(http|\n# heading", card)
    assert re.search(r"\\<img src=x onerror=alert\(1\)\\> \\\| \\`a\\`", card)
    assert markdown("a\nb|*c*") == r"a b\|\*c\*"


def test_names_in_a_report_are_text(model: VQAutoencoder, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    from gmvq.evaluation import write_report

    class Images(torch.utils.data.Dataset[torch.Tensor]):
        description = "<script>alert(1)</script>"

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(index))

        def item_name(self, index: int) -> str:
            return '"><img src=x onerror=alert(1)>\u202e\x1b'

    (tmp_path / "config.yaml").write_text("name: <script>alert(2)</script>")
    write_report(tmp_path, model, Images(), title="<b>title", command="gmvq fit --name '<i>'")
    text = (tmp_path / "report.html").read_text()
    assert "alert(1)" in text
    assert not re.search("[\u202e\x1b]", text)
    assert not re.search(r"<(script|img src=x|b>title|i>)", text)


def test_names_in_the_reports_of_the_bench_are_text() -> None:
    markdown_of = pytest.importorskip("gmvq_bench.markdown")
    for filter in (markdown_of.label, markdown_of.escaped):
        filtered = filter("<img src=x>|`a`[b](http:c)\x1b")
        assert "\x1b" not in filtered
        assert not re.search(r"(?<!\\)[<|`\[]", filtered)
    assert markdown_of.code("rm `a`\x1b") == "`rm 'a'\\x1b`"
