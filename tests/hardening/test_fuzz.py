"""A few of each kind of fuzzed input; ``python tests/hardening/fuzz.py`` runs thousands of the same and counts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from fuzz_inputs import KINDS, outcome
from fuzz_readers import Sample
from hypothesis import HealthCheck, Phase, given, settings

#: Single, slow ones are not shrunk: what fails is printed whole.
EXAMPLES = {"configs": 40, "images": 60, "latents": 60, "parquet": 20, "tokens": 20}
#: Files that once ended in a traceback, a hang or a wrong answer, in a folder for each kind.
CORPUS = sorted((Path(__file__).parents[1] / "data" / "fuzz").glob("*/*"))


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_once_failed(file: Path, tmp_path: Path) -> None:
    outcome(KINDS[file.parent.name], Sample(file.name.partition("-")[2], file.read_bytes()), tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_every_input_ends_in_an_answer_or_a_named_error(name: str) -> None:
    kind = KINDS[name]

    @settings(
        max_examples=EXAMPLES.get(name, 30),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.cases)
    def run(case: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            outcome(kind, case, Path(folder))

    run()
