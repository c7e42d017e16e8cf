"""The final runs of a results file of ``gmvq compare``, with the options chosen there, to train their models again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gmvq.files import write_json

from ..comparison.execute import chosen
from ..comparison.results import KIND
from ..comparison.suite import Run, suite_from_dict
from ..results import read

ROOT = Path(__file__).resolve().parents[4]
COMPARED = ROOT / "bench" / "results" / "compare"


def tuned_run(suite_name: str, setting: str, method: str, seed: int, steps: int | None = None) -> Run:
    """The run of a method with the point of its grid that was best on the validation split.

    Args:
        suite_name: stem of the results file.
        steps: in place of the suite's, to try a script out.

    Raises:
        ValueError: the file does not hold the tuning of this method.
    """
    results = read(COMPARED / f"{suite_name}.json", KIND)
    suite = suite_from_dict(results["suite"], suite_name)
    choice = chosen(suite, [r for r in results["runs"] if r["phase"] == "tune"], setting, method)
    if choice is None:
        raise ValueError(f"{suite_name}.json holds no tuning run of {method!r} in {setting!r}")
    run = suite.run(setting, method, choice, seed, "final")
    return run if steps is None else {**run, "steps": steps}


class Kept:
    """Records in one JSON file, written after each; those that are there with the same settings are not made again."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self.path, self.data = path, {**head, "records": []}
        if path.exists():
            old = read(path, head["kind"])
            if old["settings"] == json.loads(json.dumps(head["settings"])):
                self.data["records"] = old["records"]

    def has(self, **names: Any) -> bool:
        return any(all(r[key] == value for key, value in names.items()) for r in self.data["records"])

    def add(self, record: dict[str, Any]) -> None:
        self.data["records"].append(record)
        self.save()

    def save(self) -> None:
        """Write the file; at the end of a script, so that it names the command that it is the result of."""
        write_json(self.path, self.data)
