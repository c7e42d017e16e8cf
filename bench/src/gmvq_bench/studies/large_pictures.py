"""How long training on 25 photographs of 8 megapixels waits for its data.

Three photographs of scikit-image, enlarged to 3264 x 2448 with noise of the sensor's kind, as JPEG; ``gmvq fit`` with
its defaults, in a process of its own. The share is that of ``run.json``: seconds in which the training loop waited for
its loader over those of training.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gmvq.errors import require
from gmvq.reading import read_json

from .records import cells_of, make_records, study_parser

SIZE, COUNT = (3264, 2448), 25
ORIGINALS = ("astronaut", "chelsea", "coffee")
METHODS = ("32 px", "64 px")


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("large_pictures", "How long training on large photographs waits.", METHODS, [0])
    options = parser.parse_args(list(argv))
    cells = cells_of(seed=options.seeds, method=options.methods)
    return make_records("large_pictures", argv, options, ("steps",), cells, measure)


def measure(*, method: str, seed: int, options: Any) -> dict[str, Any]:
    """Write the pictures, train, and read what the run says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder, "photographs"), seed)
        command = [sys.executable, "-m", "gmvq", "fit", "--data.path", "photographs", "--logger", "none"]
        command += ["--data.size", method.split()[0], "--trainer.max_steps", str(options.steps or 1000)]
        command += ["--trainer.enable_progress_bar", "false", "--name", "it", "--seed", str(seed)]
        subprocess.run(command, cwd=folder, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        record = read_json(Path(folder, "runs", "it", "run.json"))[-1]
    return {"data_wait": record["data_wait"]}


def write_pictures(folder: Path, seed: int) -> None:
    """COUNT photographs of SIZE."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    originals = [getattr(require("skimage.data", "data"), name)() for name in ORIGINALS]
    for number in range(COUNT):
        picture = Image.fromarray(originals[number % len(originals)]).resize(SIZE, Image.Resampling.BICUBIC)
        noisy = np.asarray(picture, dtype=np.float32) + random.normal(0.0, 4.0, (SIZE[1], SIZE[0], 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.jpg", quality=90)
