"""Files of strangers: what they say is checked, imports nothing, and makes no connection."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq.cli.main import main
from gmvq.cli.options import build_parser, parse_options
from gmvq.cli.prior import _fit_parser as build_prior_parser
from gmvq.models import build_autoencoder
from gmvq.prior import PriorModule, TokenSpec
from gmvq.training import TokenizerModule
from gmvq.training.checkpoint import open_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = build_autoencoder("tiny", channels=3, dim=4, codebook_size=8).eval()
    with torch.no_grad():
        model.quantizer.init_codebook(model.encoder(torch.rand(8, 3, 16, 16)).movedim(1, -1))  # pyright: ignore
    model.save_pretrained(tmp_path / "model", metadata={"data": {"path": "photos", "size": 16}})
    return tmp_path / "model"


def edit(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["metadata"] |= entries
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"data": {"size": [16]}}, r"Expected `int \| null`, got `array` - at `\$\.data\.size`"),
        ({"data": {"size": float("inf")}}, r"at `\$\.data\.size`"),
        ({"data": {"size": -3}}, r"`int` >= 1 - at `\$\.data\.size`"),
        ({"data": [1]}, r"at `\$\.data`"),
        ({"data": {"path": 7}}, r"Expected `str \| null`, got `int` - at `\$\.data\.path`"),
        ({"data": {"value_range": [0, None]}}, r"at `\$\.data\.value_range\[1\]`"),
        ({"data": {"value_range": [0, float("nan")]}}, "holds NaN, infinity"),
        ({"likelihood": {"kind": "gaussian", "log_scale": float("inf")}}, "holds NaN, infinity"),
        ({"likelihood": {"kind": ["gaussian"]}}, r"at `\$\.likelihood\.kind`"),
        ({"step": "many"}, r"at `\$\.step`"),
        ({"metrics": [1]}, r"at `\$\.metrics`"),
    ],
)
def test_metadata_of_a_wrong_type(saved: Path, entries: dict[str, Any], message: str) -> None:
    edit(saved, **entries)
    with pytest.raises(ValueError, match=r"config\.json: the entry 'metadata' .*" + message):
        open_model(saved)


def test_entries_of_others_are_left_alone(saved: Path) -> None:
    edit(saved, mine=[1, None], data={"path": "photos", "size": 16, "licence": {"a": 1}})
    assert open_model(saved).notes["mine"] == [1, None]


# Code by configuration


@pytest.fixture
def tattling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the machine that leaves a mark when it is imported, and a class in it."""
    mark = tmp_path / "imported"
    code = f"open({str(mark)!r}, 'w').close()\nclass Part:\n    def __init__(self, **k): pass\n"
    (tmp_path / "tattling_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return mark


@pytest.mark.parametrize(
    "option",
    [
        *(
            "trainer.strategy",
            "trainer.profiler",
            "trainer.accelerator",
            "trainer.precision",
            "trainer.devices",
        ),
        *("trainer.max_time", "trainer.callbacks", "trainer.plugins", "trainer.logger", "trainer", "logger"),
        *(
            "model",
            "model.objective",
            "model.variance",
            "model.estimator",
            "model.posterior",
            "model.objective.beta",
        ),
        *("data", "data.path", "seed", "name", "config"),
    ],
)
@pytest.mark.parametrize("form", ["class_path", "text", "file"])
def test_no_configuration_imports_a_module(tattling: Path, tmp_path: Path, option: str, form: str) -> None:
    value: Any = {"class_path": "tattling_module.Part", "init_args": {}}
    if form == "text":
        value = "tattling_module.Part"
    if form == "file":
        (tmp_path / "inner.yaml").write_text(json.dumps(value))
        value = str(tmp_path / "inner.yaml")
    for key in reversed(option.split(".")):
        value = {key: value}
    (tmp_path / "config.yaml").write_text(json.dumps(value))
    for build in (build_parser, build_prior_parser):
        with contextlib.suppress(ValueError, TypeError, OSError):
            parser = build()
            parser.instantiate_classes(parse_options(parser, ["--config", str(tmp_path / "config.yaml")]))
    assert not tattling.exists(), sys.modules.pop("tattling_module")


def test_the_command_line_may_import_what_registers_more(tattling: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text('{"trainer": {"strategy": {"class_path": "tattling_module.Part"}}}')
    with pytest.raises(
        ValueError, match=r"trainer\.strategy.*names no classes.*--allow_import MODULE on the command line"
    ):
        parse_options(build_parser(), ["--config", str(tmp_path / "config.yaml")])
    (tmp_path / "config.yaml").write_text("allow_import: tattling_module")
    with pytest.raises(ValueError, match="there is no option 'allow_import'"):
        parse_options(build_parser(), ["--config", str(tmp_path / "config.yaml")])
    assert not tattling.exists()
    config = parse_options(
        build_parser(), ["--allow_import", "tattling_module", "--trainer.strategy", "mine"]
    )
    assert config.trainer.strategy == "mine"
    assert tattling.exists()
    sys.modules.pop("tattling_module")
    with pytest.raises(ImportError, match="no_such_module"):
        parse_options(build_parser(), ["--allow_import", "no_such_module"])


_LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join(['*' + chr(97 + i)] * 8)}]}}\n" for i in range(12)
)


@pytest.mark.parametrize("option", ["model", "data", "trainer", "model.objective"])
@pytest.mark.parametrize("kind", ["FIFO", "billion laughs", "no text"])
def test_files_that_options_and_configurations_name(tmp_path: Path, option: str, kind: str) -> None:
    inner, outer = tmp_path / "inner.yaml", tmp_path / "config.yaml"
    if kind == "FIFO":
        os.mkfifo(inner)
    else:
        inner.write_bytes(_LAUGHS.encode() if kind == "billion laughs" else b"\xff")
    value: Any = str(inner)
    for key in reversed(option.split(".")):
        value = {key: value}
    outer.write_text(json.dumps(value))
    for argv in ([f"--{option}", str(inner)], ["--config", str(outer)]):
        with pytest.raises(ValueError, match=r"FIFO|aliases|UTF-8|utf-8"):
            parse_options(build_parser(), argv)


# Network


@pytest.mark.parametrize("option", ["model", "data", "trainer", "model.objective", "config"])
def test_no_configuration_opens_an_address(tmp_path: Path, option: str) -> None:
    """Lightning lets its command lines read configurations from anywhere; here an address is no file."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        value: Any = f"http://127.0.0.1:{server.getsockname()[1]}/x.yaml"
        argv = [f"--{option}", value]
        for key in reversed(option.split(".")):
            value = {key: value}
        (tmp_path / "config.yaml").write_text(json.dumps(value))
        for arguments in (argv, ["--config", str(tmp_path / "config.yaml")]):
            with pytest.raises((ValueError, OSError)):
                parse_options(build_parser(), arguments)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_configuration_fetches_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a run begins from may be a name of the Hub if the user typed it."""
    np.save(tmp_path / "images.npy", np.zeros((20, 8, 8, 3), np.uint8))
    (tmp_path / "config.yaml").write_text(json.dumps({"init_from": "evil/repo"}))
    argv = ["fit", "--data.path", str(tmp_path / "images.npy"), "--out", str(tmp_path / "out")]
    assert main([*argv, "--config", str(tmp_path / "config.yaml")]) == 2
    error = capsys.readouterr().err
    assert "the configuration names 'evil/repo', which is not on this machine" in error
    assert "type it to fetch it from the Hub: --init_from evil/repo" in error
    for typed in (["--init_from", "evil/repo"], ["--init_from=evil/repo"]):
        with pytest.raises(BaseException, match="in a test"):
            main([*argv, *typed])


@pytest.mark.parametrize("build", [TokenizerModule, lambda seed: PriorModule(TokenSpec((2,), 4), seed=seed)])
@pytest.mark.parametrize("seed", [10**30, 1 << 63, -(1 << 63) - 1])
def test_seeds_of_more_than_64_bits(build: Any, seed: int) -> None:
    with pytest.raises(ValueError, match="seed must be a whole number of at most 64 bits"):
        build(seed=seed)


def test_the_guard_guards() -> None:
    """Here and in a process that a test starts; connections to this machine are let through."""
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "a connection to ('192.0.2.1', 80) in a test" in done.stderr
    for connect in (
        lambda: socket.create_connection(("192.0.2.1", 80), 1),
        lambda: socket.getaddrinfo("huggingface.co", 443),
    ):
        with pytest.raises(BaseException, match=r"in a test"):
            connect()
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_no_file_makes_a_command_look_at_the_hub(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The place of a tokenizer or of data that metadata names is used if it is here, and never looked up."""
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), np.uint8))
    tokens = tmp_path / "tokens"
    assert (
        main(["encode", str(saved), "--data", str(tmp_path / "images.npy"), "--out", str(tokens), "--quiet"])
        == 0
    )
    manifest = json.loads((tokens / "manifest.json").read_text())
    for name in ("somebody/model", "hf:somebody/model", "/no/such/place"):
        manifest["checkpoint"]["path"] = name
        (tokens / "manifest.json").write_text(json.dumps(manifest))
        assert main(["decode", str(tokens), "--out", str(tmp_path / "pictures")]) == 2
        assert "which is not on this machine, and nothing is downloaded unasked" in capsys.readouterr().err
    edit(saved, data={"path": "hf:somebody/pictures", "size": 16})
    assert main(["evaluate", str(saved)]) == 2
    assert "nothing is downloaded unasked; give --data hf:somebody/pictures" in capsys.readouterr().err


def test_the_notes_and_numbers_of_a_prior_are_not_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from gmvq.prior import TokenPrior, TokenSpec

    prior = TokenPrior(TokenSpec((2, 2), 8), kind="causal", size="tiny")
    for name in ("somebody/model", "hf:somebody/model"):
        prior.save_pretrained(tmp_path / "prior", metadata={"tokenizer": name})
        assert main(["sample", str(tmp_path / "prior"), "--out", str(tmp_path / "new"), "--n", "2"]) == 2
        assert f"the prior names {name!r}, which is not on this machine" in capsys.readouterr().err
    for wrong in (
        {"tokenizer": 3},
        {"tokenizer": ["a"]},
        {"tokens": [1]},
        {"tokens": {"path": 1}, "tokenizer": {}},
    ):
        prior.save_pretrained(tmp_path / "prior", metadata=wrong)
        assert main(["sample", str(tmp_path / "prior"), "--out", str(tmp_path / "new"), "--n", "2"]) == 2
    with torch.no_grad():
        next(iter(prior.parameters())).view(-1)[0] = torch.nan
    prior.save_pretrained(tmp_path / "prior")
    assert main(["sample", str(tmp_path / "prior"), "--out", str(tmp_path / "new"), "--n", "2"]) == 2
    assert "holds 1 NaN or infinite values" in capsys.readouterr().err


# Caches


def test_a_cache_that_was_changed_is_made_anew(saved: Path, tmp_path: Path) -> None:
    from gmvq.tokens import TokenDataset

    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), np.uint8))
    tokens = tmp_path / "tokens"
    assert (
        main(["encode", str(saved), "--data", str(tmp_path / "images.npy"), "--out", str(tokens), "--quiet"])
        == 0
    )
    before = [item["indices"].tolist() for item in TokenDataset(tokens)]  # pyright: ignore
    file = next((tokens / ".cache").glob("*.npy"))
    data = bytearray(file.read_bytes())
    place = data.index(np.array(before[0], np.int16).tobytes())
    data[place : place + 2] = b"\x07\x00" if data[place : place + 2] != b"\x07\x00" else b"\x06\x00"
    file.write_bytes(data)
    assert [item["indices"].tolist() for item in TokenDataset(tokens)] == before  # pyright: ignore
    (tokens / ".cache").rename(tmp_path / "elsewhere")
    (tokens / ".cache").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a symbolic link"):
        TokenDataset(tokens)
