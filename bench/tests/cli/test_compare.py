"""``gmvq compare`` as a user runs it: a tiny suite from YAML to results, report and plots; and its error messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gmvq_bench.commands import main

SUITE = """
name: small
description: two methods on small images
seeds: [0, 1]
settings:
  tiles: {data: DATA, size: 8, codebook_size: 16, steps: 2, dim: 4, batch_size: 8}
methods:
  gm-vq: {quantizer: gm-vq, grid: {lr: [0.001, 0.004]}}
  ibq: {quantizer: ibq, grid: {lr: [0.001]}}
  impossible: {quantizer: fsq, options: {levels: [3]}, grid: {lr: [0.001]}}
"""


@pytest.fixture
def suite(tmp_path: Path, few_images: str) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SUITE.replace("DATA", few_images))
    return path


@pytest.mark.usefixtures("in_process")
def test_a_suite_from_file_to_report_and_again(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["compare", "--suite", str(suite), "--out", str(out), "--workers", "1"]
    assert main(arguments) == 1  # the impossible method fails in its row
    first = capsys.readouterr()
    assert "[2/2]" in first.err  # the tuning of gm-vq
    assert "[6/6]" in first.err  # two of them impossible
    assert "gm-vq" in first.out
    assert "impossible" in first.out
    results = json.loads((out / "small.json").read_text())
    assert results["kind"] == "gmvq compare"
    assert results["command"].startswith("gmvq compare --suite")
    finals = [r for r in results["runs"] if r["phase"] == "final" and not r["error"]]
    assert {(r["method"], r["seed"]) for r in finals} == {(m, s) for m in ("gm-vq", "ibq") for s in (0, 1)}
    assert (out / "small.md").read_text().strip() in first.out
    assert (out / "small_mse_perplexity.png").is_file()

    main(arguments)
    again = capsys.readouterr().err
    assert "[2/2]" in again  # only what failed is tried again
    assert "[6/6]" not in again
    assert main(["compare", "--report", str(out / "small.json")]) == 0
    assert "ibq" in capsys.readouterr().out
    (out / "small.json").rename(out / "kept.json")
    main([*arguments, "--assemble"])
    kept, made = (json.loads((out / name).read_text())["runs"] for name in ("kept.json", "small.json"))
    assert made == kept
    other = tmp_path / "other"
    known = ["--known", str(out / "small.json"), "--methods", "ibq"]
    assert main(["compare", "--suite", str(suite), "--out", str(other), *known]) == 0
    assert not list((other / "runs").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --suite NAME"),
        (["--suite", "quik"], "did you mean quick"),
        (["--suite", "quick", "--methods", "vqq"], "has no method vqq"),
        (["--suite", "photos32", "--settings", "photos32-k1024"], "take their tuning from photos32-k256"),
        (["--suite", "quick", "--devices", "cuda:7"], "cannot be used here"),
        (["--report", "none.json"], "none.json"),
        (["--suite", "quick", "--assemble"], "holds no run of quick, and --assemble trains none"),
    ],
)
def test_misuse_is_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_list_names_the_suites(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--list"]) == 0
    assert "quick: photographs" in capsys.readouterr().out


def test_an_interrupted_suite_stops_at_once_and_keeps_what_is_done(tmp_path: Path, few_images: str) -> None:
    path = tmp_path / "long.yaml"
    setting = f"{{data: {few_images}, size: 8, codebook_size: 16, dim: 4, batch_size: 8, steps: %d}}"
    path.write_text(
        "name: long\ndescription: never ends\nseeds: [0]\nsettings:\n"
        f"  short: {setting % 2}\n  endless: {setting % 10**7}\n"
        "methods:\n  gm-vq: {quantizer: gm-vq, grid: {lr: [0.001]}}\n"
    )
    command = [sys.executable, "-m", "gmvq_bench", "compare", "--suite", str(path), "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--workers", "1"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "[1/2]" in line:
            break
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert process.wait(150) == 130
    (kept,) = (tmp_path / "runs").glob("*.json")
    assert json.loads(kept.read_text())["setting"] == "short"
