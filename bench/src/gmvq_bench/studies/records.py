"""What the studies share: tuned runs of ``gmvq compare``, and records in one file that are made once.

``OMP_NUM_THREADS=1 gmvq study NAME``, in a clone, makes those that are missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmvq.cli.common import Parser, parser_of, positive
from gmvq.data import ImageDataset, open_images
from gmvq.evaluation import CodebookMetrics
from gmvq.files import write_json

from ..comparison.execute import chosen
from ..comparison.runs import KIND
from ..comparison.suite import Run, suite_from_dict
from ..results import environment, read

#: In a clone, the current folder.
RESULTS = Path("bench", "results")


def tuned_run(suite_name: str, setting: str, method: str, seed: int, steps: int | None = None) -> Run:
    """The run of a method at the point of its grid that did best in validation, from the results of ``suite_name``.

    ``steps`` stands in place of the suite's, to try a study out.
    """
    results = read(RESULTS / "compare" / f"{suite_name}.json", KIND)
    suite = suite_from_dict(results["suite"], suite_name)
    choice = chosen(suite, [r for r in results["runs"] if r["phase"] == "tune"], setting, method)
    if choice is None:
        raise ValueError(f"{suite_name}.json holds no tuning run of {method!r} in {setting!r}")
    run = suite.run(setting, method, choice, seed, "final")
    return run if steps is None else {**run, "steps": steps}


def images_of(run: Run, split: str, *, augment: bool = False) -> ImageDataset:
    """A split of the data of a run."""
    return open_images(run["data"], split=split, size=run["size"], channels=run["channels"], augment=augment)


def bits_of_histogram(codebook_size: int, codes: Tensor) -> float:
    """Bits of the codes (N, P) of an image by their histogram."""
    metrics = CodebookMetrics(codebook_size)
    metrics.update(codes)
    return codes.shape[1] * metrics.compute()["code_entropy"] / math.log(2)


def study_parser(name: str, description: str, methods: Sequence[str], seeds: Sequence[int]) -> Parser:
    """The options that every study has."""
    parser = parser_of(f"study {name}", description)
    file = RESULTS / f"{name}.json"
    parser.add_argument("--json", type=Path, metavar="FILE", default=file, help=f"default: {file}")
    parser.add_argument("--methods", nargs="+", default=list(methods), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--steps", type=positive, help="of training, in place of the suite's, to try it out")
    return parser


def cells_of(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """Every combination of the values of the axes, the last of which moves fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def make_records(
    name: str,
    argv: Sequence[str],
    options: argparse.Namespace,
    settings: Iterable[str],
    cells: Iterable[dict[str, Any]],
    measure: Callable[..., dict[str, Any]],
) -> int:
    """Measure every cell that the file does not hold yet under the same settings; write the file after each; return 0.

    ``settings`` are the names of the ``options`` that a record depends on, ``cells`` the arguments of ``measure``,
    which tell records apart; given these and the ``options``, ``measure`` returns the rest of the record.
    """
    torch.set_num_threads(1)
    data: dict[str, Any] = {
        "kind": f"gmvq {name}",
        "command": shlex.join(["gmvq", "study", name, *argv]),
        "environment": environment(torch.device("cpu")),
        "settings": json.loads(json.dumps({name: getattr(options, name) for name in settings})),
        "records": [],
    }
    if options.json.exists():
        old = read(options.json, data["kind"])
        if old["settings"] != data["settings"]:
            found = f"{options.json} holds records with {old['settings']}, not with {data['settings']}"
            raise ValueError(f"{found}; give --json another file, or remove that one")
        data["records"] = old["records"]
    for cell in cells:
        if any(all(record[key] == value for key, value in cell.items()) for record in data["records"]):
            continue
        started = time.perf_counter()
        record = measure(**cell, options=options)
        data["records"].append({**cell, **record, "seconds": time.perf_counter() - started})
        write_json(options.json, data)
        print(f"{', '.join(map(str, cell.values()))}: {data['records'][-1]['seconds']:.0f} s", flush=True)
    write_json(options.json, data)
    return 0
