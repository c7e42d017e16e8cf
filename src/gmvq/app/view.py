"""What one visitor of the page looks at, and what every control makes of it: plain functions.

That is a view of a picture, and what a prior over tokens draws: whole pictures, and marked places of a given one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..evaluation.pictures import Picture, columns_of, grown, sheet, to_picture
from ..prior import Filters, decode
from .codes import Alternative, painted, square, tinted
from .picture import MAX_SIDE, Encoded, decode_tokens, downsample_of, encode, figures, token_picture, zoom

if TYPE_CHECKING:
    from ..models import VQAutoencoder
    from ..prior import TokenPrior

#: The most pictures drawn at once.
MAX_SAMPLES = 36


@dataclass(frozen=True)
class View:
    """A picture with its tokens as they are now.

    Attributes:
        encoded: the picture, with the codes that were painted or drawn.
        original: (h, w), the tokens as the encoder gave them.
        marks: (h, w), True at the places that a prior is to draw anew.
    """

    encoded: Encoded
    original: Tensor
    marks: Tensor

    @property
    def changed(self) -> int:
        """Number of tokens that are not the encoder's."""
        return int((self.encoded.indices != self.original).sum())


def description(model: VQAutoencoder) -> str:
    """What the tokenizer is, in one line."""
    step = downsample_of(model)
    size = model.quantizer.codebook_size
    return (
        f"{size:,} codes, one for {step} × {step} pixels. Pictures are scaled down to {MAX_SIDE} pixels, and forgotten "
        "when the page stops."
    )


def opened(model: VQAutoencoder, image: Tensor) -> View:
    """Encode a picture (C, H, W) and look at it."""
    encoded = encode(model, image)
    return View(encoded, encoded.indices, torch.zeros_like(encoded.indices, dtype=torch.bool))


def brushed(view: View, row: int, column: int, code: int | None, brush: int) -> View:
    """Put a code at a square of positions; or, without a code, mark them."""
    if code is None:
        return replace(view, marks=view.marks | square(view.encoded, row, column, brush))
    return replace(view, encoded=painted(view.encoded, row, column, code, brush))


def restored(view: View) -> View:
    """Without changes and without marks."""
    encoded = replace(view.encoded, indices=view.original)
    return View(encoded, view.original, torch.zeros_like(view.marks))


@dataclass(frozen=True)
class Shown:
    """What the page shows of a view.

    Attributes:
        original, reconstruction: the two sides of the slider.
        tokens: in the colours of their codes.
        canvas: the reconstruction with the marked places tinted; it and the tokens are on the scale of ``zoom``.
        table: figures, as Markdown.
    """

    original: Picture
    reconstruction: Picture
    tokens: Picture
    canvas: Picture
    table: str


def show(model: VQAutoencoder, view: View) -> Shown:
    """Decode a view and measure it."""
    decoded = decode_tokens(model, view.encoded)
    picture = to_picture(decoded)
    rows = figures(model, view.encoded, decoded)
    if view.changed:
        rows.append(("tokens changed by hand", f"{view.changed:,}"))
    return Shown(
        original=to_picture(view.encoded.image),
        reconstruction=picture,
        tokens=token_picture(model, view.encoded),
        canvas=grown(tinted(model, picture, view.marks), zoom(view.encoded)),
        table=markdown_table(("", "this picture"), rows),
    )


def alternatives_table(row: int, column: int, found: Sequence[Alternative]) -> str:
    """The codes of a position and their probabilities as Markdown."""
    rows = [(str(entry.code), f"{100 * entry.probability:.1f} %") for entry in found]
    heading = f"**Row {row}, column {column}**"
    return f"{heading}\n\n{markdown_table(('code', 'probability'), rows)}"


def markdown_table(names: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    """A table of two columns."""
    lines = [
        f"| {names[0]} | {names[1]} |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    return "\n".join(lines)


def checked_code(model: VQAutoencoder, code: int) -> int:
    """The code itself; ValueError unless the model has it."""
    if not 0 <= code < model.quantizer.codebook_size:
        raise ValueError(f"codes are 0 to {model.quantizer.codebook_size - 1}, got {code}")
    return code


def samples(
    model: VQAutoencoder,
    prior: TokenPrior,
    count: int,
    filters: Filters,
    *,
    seed: int = 0,
    label: int | None = None,
) -> Picture:
    """Draw pictures from a prior, on one sheet."""
    if not 1 <= count <= MAX_SAMPLES:
        raise ValueError(f"1 to {MAX_SAMPLES} pictures can be drawn at once, got {count}")
    labels = None if label is None else torch.full((count,), label)
    indices = prior.sample(count, labels=labels, filters=filters, seed=seed)
    pictures = [to_picture(image) for image in decode(model, indices)]
    columns = columns_of(count)
    factor = max(1, 520 // (columns * max(pictures[0].shape[:2])))
    return sheet([grown(picture, factor) for picture in pictures], columns, gap=4, border=False)


def redrawn(prior: TokenPrior, encoded: Encoded, mask: Tensor, filters: Filters, *, seed: int = 0) -> Encoded:
    """Draw the marked tokens of a picture anew, given those around them.

    A prior knows pictures of one size: it sees a window of that size with the marked places in the middle.
    """
    if not bool(mask.any()):
        raise ValueError("no place is marked; click on the picture to mark some")
    window = tuple(
        _window(places.flatten().tolist(), length, size)
        for places, length, size in zip(
            (mask.any(1).nonzero(), mask.any(0).nonzero()), prior.spec.shape, mask.shape, strict=True
        )
    )
    indices = encoded.indices.clone()
    indices[window] = prior.inpaint(indices[window][None], mask[window], filters=filters, seed=seed)[0].cpu()
    return replace(encoded, indices=indices)


def _window(places: list[int], length: int, size: int) -> slice:
    """A stretch of ``length`` of ``size`` positions with marked places in the middle, as far as it lies within."""
    first, last = places[0], places[-1]
    if length > size:
        raise ValueError(
            f"the prior draws {length} positions in a row, and the picture has {size}; take a larger one"
        )
    if last - first >= length:
        raise ValueError(
            f"the prior draws {length} positions in a row, and the marked ones span {last - first + 1}; mark fewer"
        )
    start = min(max(math.floor((first + last + 1 - length) / 2), 0), size - length)
    return slice(start, start + length)
