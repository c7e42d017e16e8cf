"""The workflows are YAML of jobs and steps, and what their steps run is there: targets of the Makefile, and files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import gmvq

yaml = pytest.importorskip("yaml")

ROOT = Path(gmvq.__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def _jobs(workflow: Path) -> dict[str, Any]:
    return yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]


def _commands(job: dict[str, Any]) -> list[str]:
    return [line for step in job["steps"] for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_a_step_uses_an_action_or_runs_a_command(workflow: Path) -> None:
    jobs = _jobs(workflow)
    assert [name for name, job in jobs.items() if not {"runs-on", "steps"} <= job.keys()] == []
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert [step for step in steps if ("uses" in step) == ("run" in step)] == []
    known = {"name", "id", "uses", "run", "with", "env", "if", "continue-on-error"}
    assert {key for step in steps for key in step} <= known


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_what_a_step_runs_is_there(workflow: Path) -> None:
    commands = [line for job in _jobs(workflow).values() for line in _commands(job)]
    targets = [target for line in commands if line.startswith("make ") for target in line.split()[1:]]
    assert set(targets) <= set(TARGETS)
    # The release checks out the repository to clone/.
    files = [file for line in commands for file in re.findall(r"(?<=\s)(?:clone/)?([\w/.-]+\.py)\b", line)]
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_every_night_the_coverage_is_told_and_has_to_be_90_percent() -> None:
    commands = _commands(_jobs(ROOT / ".github" / "workflows" / "nightly.yml")["coverage"])
    table = '.venv/bin/coverage report --format=markdown >> "$GITHUB_STEP_SUMMARY"'
    assert commands == ["make coverage", table]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]
    assert settings["report"]["fail_under"] == 90
    assert settings["run"]["branch"]
