"""``gmvq doctor``: its text is whole, fit for a public report, and fails where the layer does."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

import gmvq as package
from gmvq.cli.doctor import check_step, without_paths
from gmvq.environment import version_of

Run = Callable[..., Any]


def test_what_it_tells(gmvq: Run) -> None:
    result = gmvq("doctor")
    assert result.code == 0, result.out
    lines = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in result.out.splitlines())
    assert lines["gmvq"] == version_of("gmvq")
    assert lines["torch"] == torch.__version__
    assert lines["one step on cpu"].startswith("works")
    assert {"python", "numpy", "system", "processor", "device"} <= set(lines)


def test_it_names_no_person_and_no_folder(gmvq: Run) -> None:
    text = gmvq("doctor").out
    for private in (str(Path.home()), str(Path(package.__file__).parent), sys.prefix, Path.cwd()):
        assert str(private) not in text


def test_extras(gmvq: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = [
        "torch>=2",
        'numpy>=1; extra == "data"',
        'gmvq[data,train]; extra == "prior"',
        'no-such-package-at-all>=3; extra == "train"',
        'no-such-linter; extra == "dev"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: requirements)
    lines = [line.split(maxsplit=2) for line in gmvq("doctor").out.splitlines() if line.startswith("extra")]
    assert [(name, text) for _, name, text in lines] == [
        ("data", "present"),
        ("prior", "absent: no-such-package-at-all"),
        ("train", "absent: no-such-package-at-all"),
    ]


def test_a_broken_layer_is_told(gmvq: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("kernel failed in /home/someone/site-packages/torch/thing.py")

    monkeypatch.setattr("gmvq.quantizers.GaussianMixtureVQ.forward", broken)
    result = gmvq("doctor")
    assert result.code == 1
    assert "fails: RuntimeError: kernel failed in .../thing.py" in result.out


def test_wrong_numbers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gmvq.quantizers.GaussianMixtureVQ.get_codes_from_indices", lambda self, indices: torch.zeros(256, 8)
    )
    assert "decoded indices differ" in str(check_step("cpu"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("no file /home/anna/x/weights.bin here", "no file .../weights.bin here"),
        (r"C:\Users\anna\x.py, line 3", ".../x.py, line 3"),
        ("1/2 of a\nline", "1/2 of a line"),
    ],
)
def test_paths_are_cut(text: str, wanted: str) -> None:
    assert without_paths(text) == wanted
