"""The built-in set: ten colour photographs that come inside the scikit-image and scikit-learn wheels.

They are divided by photograph, never by crop: test is astronaut, china and flower; validation is coffee; train
is chelsea, hubble_deep_field, ihc, motorcycle_left, retina and rocket. motorcycle_right, the stereo twin of
motorcycle_left, is not used. The files are read where pip put them; nothing is copied or downloaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmvq.data.decode import decode
from gmvq.data.source import Framing
from gmvq.errors import require

_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", "datasets/images")
PHOTOS: dict[str, dict[str, tuple[str, str]]] = {
    "train": {
        "chelsea.png": _SKIMAGE,
        "hubble_deep_field.jpg": _SKIMAGE,
        "ihc.png": _SKIMAGE,
        "motorcycle_left.png": _SKIMAGE,
        "retina.jpg": _SKIMAGE,
        "rocket.jpg": _SKIMAGE,
    },
    "validation": {"coffee.png": _SKIMAGE},
    "test": {"astronaut.png": _SKIMAGE, "china.jpg": _SKLEARN, "flower.jpg": _SKLEARN},
}


class TiledPhotographs:
    """A few large photographs, to be cut into tiles."""

    framing: Framing = "tiles"

    def __init__(self, paths: list[Path], channels: int, description: str) -> None:
        self.description = description
        self.skipped: list[tuple[str, str]] = []
        self._paths = paths
        self._channels = channels

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int) -> NDArray[np.uint8]:
        pixels = np.asarray(decode(self._paths[index], self._channels))
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def stack(self, indices: NDArray[np.int64]) -> None:
        return None

    def name(self, index: int) -> str:
        return self._paths[index].name

    def label(self, index: int) -> int | None:
        return None


def open_photos(split: str, channels: int) -> TiledPhotographs:
    """Open one split of the built-in photographs.

    Raises:
        MissingExtraError: scikit-image or scikit-learn is not installed.
        FileNotFoundError: an installed wheel no longer holds one of the photographs.
    """
    paths = [_wheel_folder(package) / folder / file for file, (package, folder) in PHOTOS[split].items()]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"the built-in photograph {path} is missing; reinstall scikit-image and scikit-learn: "
                "pip install --force-reinstall scikit-image scikit-learn"
            )
    names = ", ".join(path.stem for path in paths)
    return TiledPhotographs(paths, channels, f"photos ({split}; split by photograph: {names})")


def _wheel_folder(package: str) -> Path:
    """Find a package's folder without importing it, which would take seconds."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        require(package, "data")  # raises, naming the extra
        raise FileNotFoundError(f"the package {package!r} has no folder to read photographs from")
    return Path(next(iter(spec.submodule_search_locations)))
