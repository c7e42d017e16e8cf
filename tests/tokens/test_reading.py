"""Errors of manifests say which file, which entry, what was expected and what came."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmvq.tokens.reading import parse_manifest

Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["shards"][1].update(rows="many"), r"Expected `int`, got `str` - at `\$\.shards\[1\]\.rows`"),
        (lambda m: m["shards"][0].update(sha256="beef"), r"matching regex .* at `\$\.shards\[0\]\.sha256`"),
        (lambda m: m["checkpoint"].pop("sha256"), r"missing required field `sha256` - at `\$\.checkpoint`"),
        (lambda m: m["options"].update(batch_size=0), r"`int` >= 1 - at `\$\.options\.batch_size`"),
        (lambda m: m["options"].update(batch_size=True), r"Expected `int`, got `bool`"),
        (lambda m: m["indices"].update(shape=[]), r"at `\$\.indices\.shape`"),
        (lambda m: m["indices"].update(levels=3), r"m\.json: indices of shape \(2, 2\) with 3 level\(s\) cannot be"),
        (lambda m: m["data"].update(splits=[]), r"at `\$\.data\.splits`"),
        (lambda m: m["data"]["splits"][1].update(first_id=7), r"beginning with id 50"),
        (lambda m: m["data"]["splits"][1].update(name="Te/st"), r"at `\$\.data\.splits\[1\]\.name`"),
        (lambda m: m["shards"].reverse(), r"is out of order, or there twice"),
        (lambda m: m["shards"][0].update(rows=3), r"3 rows and 0 skipped images do not make 20"),
        (lambda m: m.update(complete=False), r"contradicts itself: 'complete' is False, its parts say True"),
        (lambda m: m.pop("log_variance") or m["indices"].update(log_variance="no"), r"log_variance"),
    ],
)  # fmt: skip
def test_an_error_names_the_place(tokens: Path, change: Change, message: str) -> None:
    data = json.loads((tokens / "manifest.json").read_text())
    change(data)
    with pytest.raises(ValueError, match=message):
        parse_manifest(json.dumps(data).encode(), "m.json")


def test_entries_of_newer_releases_are_passed_over(tokens: Path) -> None:
    data = json.loads((tokens / "manifest.json").read_text())
    data["more"], data["shards"][0]["more"] = 1, {}
    assert parse_manifest(json.dumps(data).encode(), "m.json").complete
