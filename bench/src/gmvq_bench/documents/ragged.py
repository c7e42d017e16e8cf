"""The rows of the table of ragged codes in docs/compositions.md."""

from __future__ import annotations

import itertools
from typing import Any

from ..markdown import at

_FIXED = "fixed grid"


def values(found: dict[str, Any]) -> dict[str, Any]:
    """Of each method, size and spending the figures of all seeds; what is saved is None where one of them is."""
    records = found["records"]
    rows = []
    for method, size in dict.fromkeys((r["method"], r["codebook_size"]) for r in records):
        own = [r for r in records if (r["method"], r["codebook_size"]) == (method, size)]
        for number, first in enumerate(own[0]["points"]):
            points = at(own, "points", number)
            row = {name: at(points, name) for name in ("codes", "tree_bits", "bits", "bits_entropy", "psnr")}
            row |= {"method": method, "codebook_size": size, "spending": _spending(method, first["spending"])}
            for name, bits in (("saved", "bits"), ("saved_entropy", "bits_entropy")):
                shares = [
                    saved(_curve(records, r["seed"]), p, bits) for r, p in zip(own, points, strict=True)
                ]
                row[name] = None if method == _FIXED or None in shares else shares
            rows.append(row)
    return {"rows": rows}


def saved(fixed: list[dict[str, Any]], one: dict[str, Any], bits: str = "bits") -> float | None:
    """Share of the bits of the fixed grid at the same PSNR, linear between its points, that a point saves.

    None where its PSNR lies outside of theirs.
    """
    curve = sorted((each["psnr"], each[bits]) for each in fixed)
    for (low, less), (high, more) in itertools.pairwise(curve):
        if low <= one["psnr"] <= high:
            there = less + (more - less) * (one["psnr"] - low) / (high - low)
            return 1 - one[bits] / there
    return None


def _curve(records: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The points of the fixed grid with a seed."""
    return [r["points"][0] for r in records if r["method"] == _FIXED and r["seed"] == seed]


def _spending(method: str, spending: dict[str, Any]) -> str:
    if method != "ragged":
        return "-"
    if "error" in spending:
        return f"error {spending['error']} for every image"
    return ", ".join(f"{name} {value}" for name, value in spending.items()) or "a code for each position"
