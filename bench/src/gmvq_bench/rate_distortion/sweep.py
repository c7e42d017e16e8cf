"""A study: every K and beta, one file per point so that a stopped study goes on, and the codecs on the same images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gmvq.files import inside, remove_leftovers, write_json

from ..comparison.methods import build_quantizer
from ..results import environment, read
from .codecs import QUALITIES, codec_curve
from .points import Point, Study, describe, measure_point

KIND = "gmvq rd"
_POINT = "gmvq rd point"


def run_study(
    study: Study,
    points: Iterable[Point],
    out: Path,
    *,
    command: str,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure all points and the codecs; write ``out/rd.json`` and return what is in it.

    Finished points in ``out/points`` are kept and not measured again; ``say`` is told about every one.
    """
    listed = list(points)
    for place in (out, out / "points"):
        remove_leftovers(place)
    images = study.test_images()
    curves = {codec: codec_curve(images, codec) for codec in QUALITIES}
    found = []
    for number, point in enumerate(listed, 1):
        file = inside(out, "points", f"{_key(study, point)}.json")
        if file.is_file():
            figures = read(file, _POINT)["figures"]
        else:
            figures = measure_point(study, point, device)
            write_json(file, {"kind": _POINT, "study": asdict(study), "figures": figures})
        found.append(figures)
        say(f"[{number}/{len(listed)}] {describe_point(figures)}")
    results = {
        "kind": KIND,
        "command": command,
        "study": asdict(study),
        "data": study.open("test").description,
        "environment": environment(torch.device(device)),
        "points": found,
        "codecs": curves,
        "images": len(images),
    }
    write_json(out / "rd.json", results)
    return results


def describe_point(figures: dict[str, Any]) -> str:
    """One point in one line."""
    point, rates = figures["point"], figures["rates"]
    beta = "default beta" if point["beta"] is None else f"beta {point['beta']:g}"
    return (
        f"K {point['codebook_size']}, {beta}, seed {point['seed']}: PSNR {figures['psnr']:.2f} dB, bits per pixel: "
        f"{rates['entropy']:.4f} entropy, {rates['prior']:.4f} prior, {rates['coded']:.4f} coded"
    )


def _key(study: Study, point: Point) -> str:
    """Digest of what a point's figures depend on, the layer's defaults of today included."""
    quantizer: Any = build_quantizer(describe(study, point))
    text = json.dumps([asdict(study), asdict(point), quantizer.to_config()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
