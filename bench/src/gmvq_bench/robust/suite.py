"""The suites, which settings of them this machine can run, and their results file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..comparison.results import environment_of
from ..results import rounded
from .ablations import ABLATIONS
from .design import draw, draw_small
from .methods import METHODS
from .setting import Setting

KIND = "gmvq compare robust"
SUITES = {
    "robust": "48 networks and recipes drawn at random; the layer and rivals as they come, nothing tuned",
    "robust-small": "12 of them, the cheap ones",
    "robust-fresh": "48 others, of another seed, for confirming what was decided on the first",
    "robust-ablations": "one part of the layer taken away at a time, in the settings of robust-small",
}
PARITIES = ("even", "odd")


@dataclass(frozen=True)
class Selection:
    """The settings to run, and those of missing data, with the reason for each data set."""

    settings: list[Setting]
    left_out: list[Setting]
    reasons: dict[str, str]


def select(
    suite: str, missing: dict[str, str], parity: str | None = None, names: list[str] | None = None
) -> Selection:
    """The settings of a suite.

    Args:
        missing: data sets that the machine does not have, with the reason.
        parity: "even" or "odd"; default: both.
        names: only these, by name or number.

    Raises:
        ValueError: there is no such setting.
    """
    settings = settings_of(suite)
    unknown = [n for n in names or () if not any(n in _called(s) for s in settings)]
    if unknown:
        raise ValueError(
            f"suite {suite} has no setting {', '.join(unknown)}; it has {', '.join(s.name for s in settings)}"
        )
    wanted = [
        s
        for s in settings
        if parity in (None, s.parity) and (not names or any(n in _called(s) for n in names))
    ]
    there = [s for s in wanted if s.data not in missing]
    left_out = [s for s in wanted if s.data in missing]
    return Selection(there, left_out, {s.data: missing[s.data] for s in left_out})


def settings_of(suite: str) -> list[Setting]:
    """All settings of a suite."""
    return (
        draw_small() if suite in ("robust-small", "robust-ablations") else draw(int(suite == "robust-fresh"))
    )


def _called(setting: Setting) -> tuple[str, ...]:
    return setting.name, str(setting.number), f"{setting.number:02d}"


def chosen_methods(suite: str, names: list[str] | None) -> list[str]:
    """The methods of a suite by name, and ours among them; default: all.

    Raises:
        ValueError: there is no such method.
    """
    methods = (METHODS[0], *ABLATIONS) if suite == "robust-ablations" else METHODS
    unknown = [name for name in names or () if name not in methods]
    if unknown:
        raise ValueError(f"{suite} has no method {', '.join(unknown)}; it has {', '.join(methods)}")
    return [name for name in methods if not names or name in names or name == methods[0]]


def assemble(
    suite: str, selection: Selection, records: list[dict[str, Any]], *, command: str, date: str
) -> dict[str, Any]:
    """The content of a results file."""
    left_out = {"settings": [s.name for s in selection.left_out], "reasons": selection.reasons}
    return {
        "kind": KIND,
        "suite": {"name": suite, "description": SUITES[suite]},
        "command": command,
        "date": date,
        "environment": environment_of(records),
        "left_out": left_out,
        "settings": {s.name: s.to_dict() for s in selection.settings},
        "runs": [_kept(record) for record in records],
    }


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    """What the results file says of a run; the settings stand in it once."""
    dropped = ("design", "protocol", "where", "options", "phase")
    return rounded({name: value for name, value in record.items() if name not in dropped})
