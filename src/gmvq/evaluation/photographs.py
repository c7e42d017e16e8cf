"""The section of the report that shows whole photographs: where the items of a set are squares cut from them."""

from __future__ import annotations

from typing import Any

from torch import nn

from .batches import Images
from .maps import ERROR_MAP, UNCERTAINTY_MAP, Seen, code_colours, limits, look, token_map, uncertainty_map
from .pictures import colour_map, to_picture
from .samples import colour_bar

#: Photographs shown, and their longer side in pixels.
_MOST, _SIDE = 3, 512


def photographs(model: nn.Module, dataset: Images) -> dict[str, Any] | None:
    """What the section shows: ``explanation``, ``bars``, ``cards``; None where items are whole pictures already.

    Args:
        model: a tokenizer of images that has a codebook.
        dataset: what is measured on; one with ``whole_pictures`` (``gmvq.data.ImageDataset``) is asked for them.
    """
    whole: Any = getattr(dataset, "whole_pictures", None)
    pictures = whole(_MOST, _SIDE) if whole is not None else []
    if not pictures:
        return None
    seen = [look(model, name, image) for name, image in pictures]
    top = max(limits([one.error for one in seen], high=0.995)[1], 1e-6)
    bars = [colour_bar(ERROR_MAP, "error: root mean square over channels, data range 1", "0", f"{top:.3g}")]
    unsure = [one.log_variance for one in seen if one.log_variance is not None]
    low, high = limits(unsure) if unsure else (0.0, 0.0)
    if unsure:
        label = "uncertainty: log s², s in standard deviations of the latents"
        bars.append(colour_bar(UNCERTAINTY_MAP, label, f"{low:.2f}", f"{high:.2f}"))
    colours = code_colours(model)
    explanation = (
        f"Pictures of the set as a whole, scaled to {_SIDE} pixels along the longer side where they are larger, with "
        "the PSNR at that size. In the map of tokens each code has a colour of its own; like codewords have like "
        "colours."
    )
    cards = [
        {
            "name": one.name,
            "decibels": f"{one.decibels:.2f} dB",
            "large": {"original": to_picture(one.image), "reconstruction": to_picture(one.reconstruction)},
            "small": _maps(one, colours, top, low, high),
        }
        for one in seen
    ]
    return {"explanation": explanation, "bars": bars, "cards": cards}


def _maps(seen: Seen, colours: Any, top: float, low: float, high: float) -> dict[str, Any]:
    height, width = seen.image.shape[1:]
    maps = {
        "error": colour_map(seen.error, 0.0, top, name=ERROR_MAP),
        "tokens": token_map(seen.indices, colours, height, width),
    }
    if seen.log_variance is not None:
        maps["uncertainty"] = uncertainty_map(seen.log_variance, low, high, height, width)
    return maps
