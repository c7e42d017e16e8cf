"""The built-in sets: photographs that come inside the scikit-image, scikit-learn and matplotlib wheels.

They are divided by photograph, never by crop; "all_photos" has the test photographs of "photos". Drawings, scanned text
and blurred pictures of the wheels are not used. The files are read where pip put them; nothing is copied or downloaded.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import require
from .decode import header_shape
from .folders import read_file
from .pictures import Pictures
from .splits import Wanted

_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", "datasets/images")
_TRAIN = (
    "chelsea.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
#: The first is the stereo twin of a photograph of train.
_MORE = (
    "motorcycle_right.png", "brick.png", "camera.png", "coins.png", "grass.png", "gravel.png", "moon.png",
)  # fmt: skip
PHOTOS: dict[str, dict[str, tuple[str, str]]] = {
    "train": dict.fromkeys(_TRAIN, _SKIMAGE),
    "validation": {"coffee.png": _SKIMAGE},
    "test": {"astronaut.png": _SKIMAGE, "china.jpg": _SKLEARN, "flower.jpg": _SKLEARN},
}
ALL_PHOTOS = {
    "train": {**PHOTOS["train"], **dict.fromkeys(_MORE, _SKIMAGE)},
    "validation": {**PHOTOS["validation"], "grace_hopper.jpg": ("matplotlib", "mpl-data/sample_data")},
    "test": PHOTOS["test"],
}


def open_photos(wanted: Wanted, name: str = "photos") -> Pictures:
    """Open one split of "photos" or of "all_photos"."""
    places = (ALL_PHOTOS if name == "all_photos" else PHOTOS)[wanted.split].items()
    paths = [_wheel_folder(package) / folder / file for file, (package, folder) in places]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"the built-in photograph {path} is missing; reinstall scikit-image, scikit-learn and matplotlib: "
                "pip install --force-reinstall scikit-image scikit-learn matplotlib"
            )
    stems = ", ".join(path.stem for path in paths)
    return Pictures(
        read=partial(read_file, Path(), [str(path) for path in paths], wanted.channels),
        rows=np.arange(len(paths)),
        names=[path.name for path in paths],
        description=f"{name} ({wanted.split}; split by photograph: {stems})",
        framing="tiles",
        all_shapes=np.array([header_shape(path) for path in paths], dtype=np.int64),
    )


def _wheel_folder(package: str) -> Path:
    """Find a package's folder without importing it, which would take seconds."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        require(package, "train" if package == "matplotlib" else "data")  # raises, naming the extra
        raise FileNotFoundError(f"the package {package!r} has no folder to read photographs from")
    return Path(next(iter(spec.submodule_search_locations)))
