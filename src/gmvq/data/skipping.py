"""What is left out of a data set: one item that cannot be read, with the reason, and never the rest with it.

A bad item stops nothing. It is entered in ``skipped`` of its data set, commands list it in ``skipped.jsonl`` beside
their output, and end with exit code 1. Three things are listed and are no fault: a file of another kind, such as a text
beside the pictures, a second way to a folder that is listed already, and a photograph smaller than the tiles asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import open_append, unicode_text, write_text
from ..reading import parse_json, read_text

SKIPPED = "skipped.jsonl"
OTHER_KIND = "another kind of file"
LISTED_ALREADY = "a link to a folder that is listed already"
TOO_SMALL = "smaller than"

Skipped = tuple[str, str]
"""The name of an item, and why it is not used."""


class UnreadableError(ValueError):
    """One item cannot be read; the data set enters it in ``skipped`` and shows another one in its place."""


class SkippedItemError(ValueError):
    """An item cannot be read, and the user asked to stop at the first."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{unicode_text(name)}: {unicode_text(reason)}; mend or remove it, or leave --strict out to skip it"
        )


def is_bad(skipped: Skipped) -> bool:
    """Whether something is lost by leaving this out."""
    return not skipped[1].startswith((OTHER_KIND, LISTED_ALREADY, TOO_SMALL))


def refuse_bad(skipped: Iterable[Skipped]) -> None:
    """Raise SkippedItemError for the first bad item, if there is one."""
    for one in filter(is_bad, skipped):
        raise SkippedItemError(*one)


def skipped_path(out: Path) -> Path:
    """Where the list lies: in a folder of results, or beside a file of results."""
    return out / SKIPPED if out.is_dir() else out.with_suffix(f".{SKIPPED}")


def write_skipped(out: Path, source: str, skipped: Iterable[Skipped]) -> int:
    """Write the list beside the output ``out``, a JSON line for each item, or remove an older one; return its size."""
    found = sorted({(unicode_text(name), unicode_text(reason)) for name, reason in skipped})
    path = skipped_path(out)
    if found:
        lines = [{"source": unicode_text(source), "item": name, "reason": reason} for name, reason in found]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    else:
        path.unlink(missing_ok=True)
    return sum(map(is_bad, found))


@dataclass
class Watch:
    """What a data set does about an item that it cannot read, besides leaving it out.

    Args:
        strict: raise ``SkippedItemError``.
        notes: a file that every process adds to: a data set in a worker of a loader has a list of its own.
    """

    strict: bool = False
    notes: Path | None = None
    _seen: int = 0

    def look(self, skipped: Sequence[Skipped]) -> None:
        """Look at what has been added to the list of the data set since the last time."""
        new, self._seen = skipped[self._seen :], len(skipped)
        if not new:
            return
        if self.strict:
            refuse_bad(new)
        if self.notes is not None:
            with open_append(self.notes) as file:
                file.write("".join(json.dumps(one) + "\n" for one in new).encode())


def read_noted(path: Path) -> list[Skipped]:
    """What ``Watch`` noted; a line that a killed process left half-written is left out."""
    found: list[Skipped] = []
    for line in read_text(path, "replace").splitlines() if path.is_file() else ():
        try:
            name, reason = parse_json(line)
        except (ValueError, TypeError):
            continue
        found.append((str(name), str(reason)))
    return found
