"""Tables, bars and plot of made-up results, and the command line around them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gmvq_bench.cli import bench
from gmvq_bench.commands import main
from gmvq_bench.markdown import table
from gmvq_bench.speed.contestants import ALL_PRODUCTS
from gmvq_bench.speed.grid import CELLS, CODES, LARGE, MAIN, ROWS, SEARCH, SWEEP
from gmvq_bench.speed.layer import KIND
from gmvq_bench.speed.table import render, row_of, slope, sweep


def figures(ms: float, peak: float = 1e6, kept: float = 1e5, **more: Any) -> dict[str, Any]:
    return {
        "median_ms": ms, "min_ms": ms, "max_ms": 2 * ms, "repetitions": 3, "products": 3, "peak_bytes": peak,
        "kept_bytes": kept, "transient_bytes": peak - kept, **more,
    }  # fmt: skip


def case(mode: str, n: int, k: int, d: int, rows: dict[str, Any], dtype: str = "fp32") -> dict[str, Any]:
    floor = {"min_ms": 1.0, "max_ms": 1.5, "repetitions": 3, "tile": [64, 256]}
    floors = {"matmul x 1": {**floor, "median_ms": k / 1000}, "bandwidth": {"median_ms": 0.5, "bytes": 8}}
    if mode == "train":
        floors["matmul x 3"] = {**floor, "median_ms": 3 * k / 1000}
    result = {"name": f"{mode} {n} {k} {d} {dtype}", "mode": mode, "n": n, "k": k, "d": d, "dtype": dtype}
    return {**result, "floors": floors, "contestants": rows}


@pytest.fixture
def results() -> dict[str, Any]:
    """A layer that passes every bar."""
    tensor = 4 * MAIN["n"] * MAIN["k"]
    rows = {
        "gm-vq": figures(10.0, 0.2 * tensor),
        "gm-vq all codes": {"same_as": "gm-vq"},
        "SQ-VAE": {"skipped": "no memory"},
        "VectorQuantize": figures(40.0, 6 * tensor),
        "LFQ": {"failed": "RuntimeError: oh"},
    }
    cases = [
        case("train", **MAIN, rows=rows),
        case("eval", **MAIN, rows={"gm-vq": figures(1.0, products=1), "VectorQuantize": figures(20.0)}),
        case("train", **LARGE, rows={"gm-vq": figures(1.0, 0.01 * 4 * LARGE["n"] * LARGE["k"])}),
        *(
            case(
                "train", k=k, **SWEEP, rows={"gm-vq": figures(3 * k / 500), "VectorQuantize": figures(k / 10)}
            )
            for k in CODES
        ),
        *(
            case("train", n, MAIN["k"], MAIN["d"], rows={"gm-vq": figures(1.0, 1.3e6 + 500 * n, 520 * n)})
            for n in ROWS
        ),
    ]
    # the main size is a point of the sweep over N too, which only its ends decide
    for size in SEARCH:
        found = case("search", **size, rows={"gm-vq search": figures(1.0), "faiss IndexFlatL2": figures(2.0)})
        found["identity"] = {
            "faiss IndexFlatL2": {"differing": 1, "ours_closer": 1, "theirs_closer": 0, "largest_gap": 1e-7}
        }
        cases.append(found)
    for size in CELLS[:1] + CELLS[-1:]:
        rows = {"gm-vq search": figures(2.0), ALL_PRODUCTS: figures(9.0)}
        found = case("search", *(size[key] for key in ("n", "k", "d")), rows=rows) | {"data": size["data"]}
        cases.append({**found, "identity": {ALL_PRODUCTS: {"differing": 0, "theirs_closer": 0}}})
    check = {
        "contestant": "gm-vq", "size": "", "worst": "loss", "error": 2e-6, "allowed": 1e-5,
        "passed": True,
    }  # fmt: skip
    environment = {
        "device": "a laptop", "device_type": "cpu", "threads": 2, "torch": "2.13.0", "gmvq": "0.1.0", "source": "abc"
    }  # fmt: skip
    head = {
        "kind": KIND,
        "command": "gmvq bench layer --json x",
        "environment": environment,
        "grid": "default",
    }
    return {**head, "correctness": [check], "cases": cases}


def test_same_as_is_followed_and_skipped_has_no_figures(results: dict[str, Any]) -> None:
    main_case = results["cases"][0]
    row = row_of(main_case, "gm-vq all codes")
    assert row is not None
    assert row["median_ms"] == 10.0
    assert row_of(main_case, "SQ-VAE") is None
    assert row_of(None, "gm-vq") is None


def test_slope_and_sweep(results: dict[str, Any]) -> None:
    assert slope([(1, 5.0), (10, 500.0)]) == pytest.approx(2.0)
    assert [k for k, _ in sweep(results, "gm-vq")] == list(CODES)
    assert sweep(results, "SimVQ") == []


def test_the_tables_hold_ratios_floors_and_reasons(results: dict[str, Any]) -> None:
    text = render(results)
    assert text.startswith("`gmvq bench layer --json x`: a laptop, 2 threads; torch 2.13.0")
    assert "| gm-vq all codes (= gm-vq) | 10.0" in text
    assert "- SQ-VAE: no memory" in text
    assert "- LFQ: FAILED: RuntimeError: oh" in text
    assert "floor: matmul x 3" in text
    train, evaluated = 3 * MAIN["k"] / 1000 / 10.0, MAIN["k"] / 1000 / 1.0
    assert f"gm-vq reaches: {100 * train:.0f} % of matmul x 3 in forward+backward" in text
    assert f"{100 * evaluated:.0f} % of matmul x 1 in eval." in text
    assert "1 (0)" in text, "index differences"
    *_, last = (line for line in text.splitlines() if line.startswith("| clusters"))
    assert [cell.strip() for cell in last.split("|")[1:-1]] == [
        "clusters",
        "262144",
        "8",
        "9.0",
        "2.0",
        "4.50",
        "0",
    ]
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_a_table_is_aligned() -> None:
    assert table(("a", "bb"), [("ccc", "d")]).splitlines() == [
        "| a   | bb  |",
        "| --- | --- |",
        "| ccc | d   |",
    ]


def test_report_and_plot_from_the_command_line(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib (extra bench) is not installed")
    source, target = tmp_path / "r.json", tmp_path / "plots" / "cost.png"
    source.write_text(json.dumps(results))
    assert main(["bench", "layer", "--report", str(source), "--plot", str(target)]) == 0
    assert capsys.readouterr().out == render(results) + "\n"
    assert target.read_bytes().startswith(b"\x89PNG")
    assert list(target.parent.iterdir()) == [target]
    source.write_text(json.dumps({**results, "cases": []}))
    assert main(["bench", "layer", "--report", str(source), "--plot", str(target)]) == 2
    assert "nothing to plot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["layers"], "there is no benchmark 'layers'"),
        (["layer"], "give --json FILE"),
        (["layer", "--json", "a", "--report", "b"], "give --json FILE"),
        (["layer", "--json", "a", "--threads", "0"], "positive whole number"),
        (["layer", "--report", "absent.json"], "absent.json"),
        (["layer", "--json", "a", "--device", "tpu"], "invalid choice"),
    ],
)
def test_misuse_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_wrong_result_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gmvq_bench.speed import layer

    def wrong(*_: object, **__: object) -> None:
        raise layer.IncorrectError("gm-vq: loss is off")

    monkeypatch.setattr(layer, "run", wrong)
    assert main(["bench", "layer", "--json", "x.json"]) == 1
    assert "loss is off" in capsys.readouterr().err


def test_the_options_reach_the_run(
    results: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from gmvq_bench.speed import layer

    got: dict[str, Any] = {}

    def measured(path: Path, entries: Any, **options: Any) -> dict[str, Any]:
        got.update(options, path=path)
        return results

    monkeypatch.setattr(layer, "run", measured)
    target = str(tmp_path / "a b.json")
    assert main(["bench", "layer", "--json", target, "--quick", "--threads", "2"]) == 0
    assert (got["path"], got["which"], got["threads"]) == (Path(target), "quick", 2)
    assert got["limits"].memory == 6e9
    assert got["command"] == f"gmvq bench layer --json '{target}' --quick --threads 2"
    assert "### The layer at" in capsys.readouterr().out


def test_help_lists_both_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(target in text for target in bench.TARGETS)
    assert main(["bench"]) == 2


def test_the_script_has_the_same_options_without_the_installed_command(tmp_path: Path) -> None:
    """With the peers, faiss, matplotlib and jsonargparse unimportable, as on a bare GPU machine."""
    root = Path(__file__).parents[3]
    code = (
        "import sys, runpy\n"
        "for name in ('vector_quantize_pytorch', 'faiss', 'matplotlib', 'jsonargparse', 'lightning'):\n"
        "    sys.modules[name] = None\n"
        "from gmvq_bench.speed.contestants import CONTESTANTS, Case\n"
        "case = Case('train', 8, 8, 8)\n"
        "assert './bench' in CONTESTANTS['SimVQ'].obstacle(case, 1e12)\n"
        "assert not CONTESTANTS['gm-vq'].obstacle(case, 1e12)\n"
        "sys.argv = ['gmvq_bench', 'bench', 'layer', '--help']\n"
        "runpy.run_module('gmvq_bench', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={"PYTHONPATH": f"{root / 'src'}:{root / 'bench' / 'src'}"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--cpu_time" in done.stdout


def test_a_disturbed_run_says_so(results: dict[str, Any]) -> None:
    results["cases"][0]["cores_of_others"] = 0.02
    assert "not fit" not in render(results)
    results["cases"][1]["cores_of_others"] = 0.9
    assert "0.90 cores busy at most (eval" in render(results)
    assert "not fit to be shown" in render(results)
