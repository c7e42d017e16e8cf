"""Before a command trains: which items of its data cannot be read, listed in ``skipped.jsonl`` as other commands do.

The runs of a comparison are processes of their own, of which each would find them anew, or not, as it may already be
done. So all items are read once before. In the place of a bad one the runs show another item, every method the same
(``gmvq.data.skipping``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

_TOGETHER = 256

Place = tuple[str, int, int]
"""Path or name of images, their size in pixels, their channels."""


def list_skipped(out: Path, places: Iterable[Place], *, strict: bool) -> int:
    """Read every item of the data that lie on this machine, and write the list into the folder of the results.

    Built-in data and those of the Hub are not looked at. ``strict`` raises SkippedItemError at the first bad item.
    Returns how many there are.
    """
    from gmvq.data import open_images
    from gmvq.data.skipping import write_skipped

    here = [place for place in dict.fromkeys(places) if Path(place[0]).exists()]
    found: list[tuple[str, str]] = []
    for (data, size, channels), split in itertools.product(here, ("train", "validation", "test")):
        images = open_images(data, split=split, size=size, channels=channels, augment=False)
        images.watch.strict = strict
        images.watch.look(images.skipped)
        for start in range(0, len(images), _TOGETHER):
            images.__getitems__(range(start, min(start + _TOGETHER, len(images))))
        found += images.skipped
    if found:
        out.mkdir(parents=True, exist_ok=True)
    return write_skipped(out, ", ".join(dict.fromkeys(data for data, _, _ in here)), found)
